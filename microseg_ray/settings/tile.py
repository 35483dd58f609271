"""Settings of the tile job."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from microseg_ray.settings.classes import Classes
from microseg_ray.settings.data import DataJobSettings
from microseg_ray.settings.limits import Workers
from microseg_ray.settings.ray import RaySettings
from microseg_ray.settings.scaling import Scaling
from microseg_ray.settings.source import SourceSettings

__all__ = ["TileSettings"]


class TileSettings(DataJobSettings):
    """`tile`: archive of micrographs and masks -> tile store."""

    job: ClassVar[str] = "tile"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"images", "masks", "output", "source.pixel_sizes", "table"})
    output: str = Field(description="folder of the tile store that is written")
    classes: Classes = ()
    tile: int = Field(default=256, ge=8, le=8192)
    overlap: int = Field(default=32, ge=0, le=8192)
    min_labelled: float = Field(default=0.0, ge=0, le=1, description="leave out tiles with a smaller labelled share")
    keep_empty: float = Field(
        default=1.0, ge=0, le=1, description="share of the training tiles without any but the first class that is kept"
    )
    scaling: Scaling = Scaling()
    source: SourceSettings = SourceSettings()
    fingerprint: Literal["stat", "content"] = Field(default="stat", description="how a changed input is noticed")
    scale_tolerance: float = Field(
        default=0.1, ge=0, description="largest difference of the pixel sizes of one store, as a share"
    )
    on_scale_mismatch: Literal["stop", "ignore"] = Field(
        default="stop", description="larger differences of the pixel sizes stop the job, or the store has no pixel size"
    )
    workers: Workers = Field(default=1, description="0 runs in this process, without Ray")
    overwrite: bool = Field(default=False, description="make a store anew in place of a finished one")
    append: bool = Field(default=False, description="add the micrographs that a finished store does not hold yet")
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.overlap >= self.tile:
            raise ValueError(f"overlap {self.overlap} must be smaller than tile {self.tile}")
        if self.append and self.overwrite:
            raise ValueError("append keeps the store, overwrite does not; give one of them")
        return self
