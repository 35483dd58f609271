"""Fields of the jobs that list which sections of micrographs hold which class."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from microseg_ray.settings.base import JobSettings

__all__ = ["SectionFields"]


class SectionFields(JobSettings):
    """What sections.csv lists; `find` narrows it to one class."""

    sections: int | None = Field(
        default=None, ge=1, description="px; lists which sections of this size hold which class (sections.csv)"
    )
    find: str | None = Field(
        default=None, description="sections.csv lists only this class, whatever the case of its name"
    )
    find_max_pixels: int | None = Field(default=None, ge=1, description="larger connected parts of it are not listed")
    find_lines: bool = Field(default=False, description="only parts of it one pixel high or wide are listed")

    @model_validator(mode="after")
    def _find_is_used(self) -> Self:
        if self.find is not None and self.sections is None:
            raise ValueError("find: give sections, the size of the sections that are searched, as well")
        if self.find is None and (self.find_max_pixels is not None or self.find_lines):
            raise ValueError("find_max_pixels, find_lines: give find, the class that they are about, as well")
        return self
