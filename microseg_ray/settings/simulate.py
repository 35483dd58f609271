"""Settings of the simulate job."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from microseg_ray.settings.base import JobSettings, unwrap_single
from microseg_ray.settings.imaging import ImagingSettings
from microseg_ray.settings.limits import Seed, Side

__all__ = ["SimulateSettings"]

Clusters = Annotated[int, Field(ge=0, le=65536)]


class SimulateSettings(JobSettings):
    """`simulate`: micrographs with exact masks.

    `coarse_fine` and `coarse_fine_hard` write a folder of micrographs per class, for classification.
    """

    job: ClassVar[str] = "simulate"
    preset: Literal[
        "grains", "mudrock", "steel", "facets", "coarse_fine", "coarse_fine_hard", "ccd_v0", "ccd_v1", "ccd_v2"
    ] = "grains"
    count: int = Field(default=4, ge=1, le=1_000_000)
    size: Annotated[Side | tuple[Side, Side], BeforeValidator(unwrap_single)] = 1024
    seed: Seed = 0
    output: str
    format: Literal["tiff", "png", "zarr", "npy"] = Field(
        default="tiff", description="of the images; npy writes images.npy and masks.npy with all of them"
    )
    colormap: Literal["none", "viridis"] = Field(
        default="none", description="viridis: images as colours from their least to their largest value, as PNG"
    )
    imaging: ImagingSettings = ImagingSettings()
    clusters: tuple[Clusters, Clusters] | None = Field(
        default=None, description="least and most charge clusters per 256 x 256 px of a CCD image"
    )

    @model_validator(mode="after")
    def _colours_are_png(self) -> Self:
        if self.colormap != "none" and self.format != "png":
            raise ValueError("colormap: colours are written as PNG; give --format png")
        if self.preset.startswith("coarse_fine") and self.format == "npy":
            raise ValueError("format: npy has no classes of whole images; give tiff or png")
        return self
