"""What a simulated microscope does to a scene."""

from __future__ import annotations

from typing import Self

from pydantic import Field, PositiveFloat, model_validator

from microseg_ray.settings.base import Frozen

__all__ = ["ImagingSettings"]


class ImagingSettings(Frozen):
    """What a simulated microscope does. A field that is left out has the preset's own value.

    Example:
        >>> ImagingSettings(streaks=0.4).streaks
        0.4
    """

    shot: float | None = Field(default=None, ge=0, description="shot noise: variance per gray level")
    read: float | None = Field(default=None, ge=0, description="read noise: standard deviation in gray levels")
    blur: float | None = Field(default=None, ge=0, le=20, description="standard deviation of the blur in px")
    light: tuple[PositiveFloat, PositiveFloat] | None = Field(
        default=None, description="darkest and brightest illumination, 1 is even"
    )
    streaks: float | None = Field(default=None, ge=0, le=5, description="relative brightness of charging streaks")
    info_bar: int | None = Field(
        default=None, ge=0, le=1024, description="rows of a burned-in strip below the specimen"
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.light is not None and self.light[0] > self.light[1]:
            raise ValueError(f"imaging.light {self.light}: the darkest comes first")
        return self
