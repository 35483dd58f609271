"""Settings of the next job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.base import JobSettings

__all__ = ["NextSettings"]


class NextSettings(JobSettings):
    """`next`: the places of a run that are most worth labelling.

    They go into LABELS/next.csv and next.json; the page of `view` walks through them. `microseg next RUN` is short for
    `microseg next --run RUN`.
    """

    job: ClassVar[str] = "next"
    leading: ClassVar[str | None] = "run"
    run: str = Field(description="run folder; one made with `segment --extra margin` is ranked best")
    labels: str | None = Field(default=None, description="folder of what is painted; default: RUN/labels")
    count: int = Field(default=30, ge=1, le=1000, description="how many places")
    side: int = Field(default=256, ge=32, le=4096, description="side of a place in px")
    shards: int = Field(
        default=64, ge=1, description="mask shards of a micrograph that are looked at, spread evenly over it"
    )
