"""Settings of the train job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.fit import FitSettings
from microseg_ray.settings.limits import Workers
from microseg_ray.settings.unlabelled import UnlabelledSettings

__all__ = ["TrainSettings"]

TEACHER = 0.99
"""Decay of the averaged weights where `unlabelled` needs them and `ema` is open."""


class TrainSettings(FitSettings):
    """`train`: tile store -> checkpoint."""

    job: ClassVar[str] = "train"
    workers: Workers = Field(default=1, description="0 runs in this process, without Ray")
    gpu: bool = False
    unlabelled: UnlabelledSettings | None = Field(
        default=None,
        description="learn from micrographs without labels, too: pixels in which averaged weights are confident",
    )

    @property
    def averaging(self) -> float | None:
        """Decay of the averaged weights, None for none; with `unlabelled` they are its teacher."""
        return TEACHER if self.ema is None and self.unlabelled is not None else self.ema
