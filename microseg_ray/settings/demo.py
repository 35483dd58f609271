"""Settings of the demo job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.limits import Epochs, Seed, Workers
from microseg_ray.settings.ray import RaySettings

__all__ = ["DemoSettings"]


class DemoSettings(JobSettings):
    """`demo`: simulate, tile, train, segment, report, on an embedded Ray."""

    job: ClassVar[str] = "demo"
    output: str = "demo"
    size: int = Field(default=4096, ge=256, le=1 << 17, description="side of the large micrograph")
    count: int = Field(default=6, ge=3, le=100_000, description="training micrographs")
    epochs: Epochs = 8
    workers: Workers = Field(default=2, description="0 runs in this process, without Ray")
    seed: Seed = 0
    overwrite: bool = True
    ray: RaySettings = RaySettings()
