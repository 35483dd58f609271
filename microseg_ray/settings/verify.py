"""Settings of the verify job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.checkpoints import CheckpointFolders
from microseg_ray.settings.limits import Seed

__all__ = ["VerifySettings"]


class VerifySettings(JobSettings):
    """`verify`: recompute random shards of a run and compare the bytes."""

    job: ClassVar[str] = "verify"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"checkpoint", "run"})
    run: str
    checkpoint: CheckpointFolders | None = Field(
        default=None, description="one or several, as of segment; default: those that run.json names"
    )
    shards: int = Field(default=8, ge=1, description="how many are recomputed")
    repair: bool = Field(
        default=False,
        description="mark damaged shards and pyramids as not done, so that the next segment makes them anew",
    )
    seed: Seed = Field(default=0, description="of the choice of shards")
