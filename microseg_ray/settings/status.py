"""Settings of the status job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from microseg_ray.settings.base import JobSettings

__all__ = ["StatusSettings"]


class StatusSettings(JobSettings):
    """`status`: where a run stands, from another shell.

    It reads the run and never writes to it. `microseg status RUN` is short for `microseg status --run RUN`.
    """

    job: ClassVar[str] = "status"
    leading: ClassVar[str | None] = "run"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"run"})
    run: str = Field(description="run folder")
    # `json` itself is a method of pydantic's models.
    as_json: bool = Field(
        default=False, validation_alias=AliasChoices("json", "as_json"), description="one JSON object"
    )
