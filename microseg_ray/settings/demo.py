"""Settings of the demo job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.ray import RaySettings

__all__ = ["DemoSettings"]


class DemoSettings(JobSettings):
    """`demo`: simulate, tile, train, segment, report, on an embedded Ray."""

    job: ClassVar[str] = "demo"
    output: str = "demo"
    size: int = Field(default=4096, ge=256, description="side of the large micrograph")
    count: int = Field(default=6, ge=3, description="training micrographs")
    epochs: int = Field(default=8, ge=1)
    workers: int = Field(default=2, ge=0)
    seed: int = 0
    overwrite: bool = True
    ray: RaySettings = RaySettings()
