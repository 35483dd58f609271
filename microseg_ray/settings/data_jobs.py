"""Settings of the jobs that make and look at data: simulate, tile, info."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import CliPositionalArg

from microseg_ray.settings.base import DataJobSettings, JobSettings
from microseg_ray.settings.values import Classes, RaySettings, Scaling, _lone

__all__ = ["InfoSettings", "SimulateSettings", "TileSettings"]


class SimulateSettings(JobSettings):
    """`simulate`: micrographs with exact masks."""

    job: ClassVar[str] = "simulate"
    preset: Literal["grains"] = "grains"
    count: int = Field(default=4, ge=1)
    size: Annotated[int | tuple[int, int], BeforeValidator(_lone)] = 1024
    seed: int = 0
    output: str


class TileSettings(DataJobSettings):
    """`tile`: archive of micrographs and masks -> tile store."""

    job: ClassVar[str] = "tile"
    output: str = Field(description="folder of the tile store that is written")
    classes: Classes = ()
    tile: int = Field(default=256, ge=8, le=8192)
    overlap: int = Field(default=32, ge=0)
    min_labelled: float = Field(default=0.0, ge=0, le=1, description="leave out tiles with a smaller labelled share")
    scaling: Scaling = Scaling()
    workers: int = Field(default=1, ge=0, description="0 runs in this process, without Ray")
    overwrite: bool = False
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.overlap >= self.tile:
            raise ValueError(f"overlap {self.overlap} must be smaller than tile {self.tile}")
        return self


class InfoSettings(JobSettings):
    """`info`: what the engine sees in files."""

    job: ClassVar[str] = "info"
    files: CliPositionalArg[list[str]]
