"""Settings of the simulate job: which scene, and what the microscope does to it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.values import Frozen, _lone

__all__ = ["ImagingSettings", "SimulateSettings"]


class ImagingSettings(Frozen):
    """What a simulated microscope does. A field that is left out has the preset's own value.

    Example:
        >>> ImagingSettings(streaks=0.4).streaks
        0.4
    """

    shot: float | None = Field(default=None, ge=0, description="shot noise: variance per gray level")
    read: float | None = Field(default=None, ge=0, description="read noise: standard deviation in gray levels")
    blur: float | None = Field(default=None, ge=0, le=20, description="standard deviation of the blur in px")
    light: tuple[float, float] | None = Field(default=None, description="darkest and brightest illumination, 1 is even")
    streaks: float | None = Field(default=None, ge=0, le=5, description="relative brightness of charging streaks")
    info_bar: int | None = Field(
        default=None, ge=0, le=1024, description="rows of a burned-in strip below the specimen"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.light is not None and not 0 < self.light[0] <= self.light[1]:
            raise ValueError(f"imaging.light {self.light}: darkest and brightest, both above 0")
        return self


class SimulateSettings(JobSettings):
    """`simulate`: micrographs with exact masks.

    `coarse_fine` and `coarse_fine_hard` write a folder of micrographs per class, for classification.
    """

    job: ClassVar[str] = "simulate"
    preset: Literal[
        "grains", "mudrock", "steel", "facets", "coarse_fine", "coarse_fine_hard", "ccd_v0", "ccd_v1", "ccd_v2"
    ] = "grains"
    count: int = Field(default=4, ge=1)
    size: Annotated[int | tuple[int, int], BeforeValidator(_lone)] = 1024
    seed: int = 0
    output: str
    format: Literal["tiff", "png", "zarr", "npy"] = Field(
        default="tiff", description="of the images; npy writes images.npy and masks.npy with all of them"
    )
    colormap: Literal["none", "viridis"] = Field(
        default="none", description="viridis: images as colours from their least to their largest value, as PNG"
    )
    imaging: ImagingSettings = ImagingSettings()
    clusters: tuple[int, int] | None = Field(
        default=None, description="least and most charge clusters per 256 x 256 px of a CCD image"
    )

    @model_validator(mode="after")
    def _colours_are_png(self) -> Self:
        if self.colormap != "none" and self.format != "png":
            raise ValueError("colormap: colours are written as PNG; give --format png")
        if self.preset.startswith("coarse_fine") and self.format == "npy":
            raise ValueError("format: npy has no classes of whole images; give tiff or png")
        return self
