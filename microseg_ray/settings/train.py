"""Settings of the train job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.fit import FitSettings
from microseg_ray.settings.limits import Workers

__all__ = ["TrainSettings"]


class TrainSettings(FitSettings):
    """`train`: tile store -> checkpoint."""

    job: ClassVar[str] = "train"
    workers: Workers = Field(default=1, description="0 runs in this process, without Ray")
    gpu: bool = False
