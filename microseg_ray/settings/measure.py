"""Settings of the measure job."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.pixel_size import PixelSize

__all__ = ["MeasureSettings"]


class MeasureSettings(JobSettings):
    """`measure`: the tables of a run again from its counts, without the model; and where in it a class is.

    With `sections` it writes RUN/sections.csv, which sections of that many px hold which class, and RUN/percentages.csv; with
    `overlays` RUN/overlays/NAME.png. No true mask is needed.
    """

    job: ClassVar[str] = "measure"
    run: str
    pixel_size_um: PixelSize = None
    sections: int | None = Field(
        default=None, ge=1, description="px; lists which sections of this size hold which class (sections.csv)"
    )
    find: str | None = Field(
        default=None, description="sections.csv lists only this class, whatever the case of its name"
    )
    find_max_pixels: int | None = Field(default=None, ge=1, description="larger connected parts of it are not listed")
    find_lines: bool = Field(default=False, description="only parts of it one pixel high or wide are listed")
    overlays: int = Field(
        default=0, ge=0, description="micrographs that are drawn in the colours of their classes, at most"
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.find is not None and self.sections is None:
            raise ValueError("find: give sections, the size of the sections that are searched, as well")
        if self.find is None and (self.find_max_pixels is not None or self.find_lines):
            raise ValueError("find_max_pixels, find_lines: give find, the class that they are about, as well")
        return self
