"""Settings of the learn job."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.checkpoints import PATHS
from microseg_ray.settings.limits import Seed, Threads

__all__ = ["LearnSettings"]


class LearnSettings(JobSettings):
    """`learn`: from what was painted in a run: a better checkpoint within minutes, new masks, and what changed.

    It tiles what is labelled, trains from the present checkpoint for the given time and segments the micrographs again,
    into LABELS/learn/NNNN. The run itself is not changed. `microseg learn RUN` is short for `microseg learn --run RUN`.
    """

    job: ClassVar[str] = "learn"
    leading: ClassVar[str | None] = "run"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"checkpoint"})
    run: str = Field(description="run folder")
    labels: str | None = Field(default=None, description="folder of what is painted; default: RUN/labels")
    checkpoint: str | None = Field(
        default=None, description="where training starts; default: that of the last round, in the first that of the run"
    )
    minutes: float = Field(default=2.0, gt=0, le=1e5, description="of training; tiling and segmenting come on top")
    max_steps: int | None = Field(
        default=None, ge=1, description="end training after so many steps, if that is earlier"
    )
    micrographs: Annotated[str | tuple[str, ...], PATHS] = Field(
        default=(),
        description="what is segmented again, by its path below the archive (the option again, or a list); default: all that "
        "have labels",
    )
    tile: int = Field(default=256, ge=32, le=4096, description="side of the training tiles in px")
    batch: int = Field(default=4, ge=1, le=4096, description="tiles of a step")
    learning_rate: float = Field(default=5e-4, gt=0)
    hold: float = Field(
        default=4.0,
        ge=0,
        description="weight of what the model said before where nothing is labelled; 0: only the labels count",
    )
    threads: Threads | None = None
    seed: Seed = 0
    parent: int | None = Field(
        default=None, ge=1, description="process without which this job ends; the page of `view` gives its own"
    )
