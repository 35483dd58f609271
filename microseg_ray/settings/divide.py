"""Settings of the divide job: which parts of a micrograph train, validate and test."""

from __future__ import annotations

from itertools import combinations
from typing import ClassVar, Self

from pydantic import Field, model_validator

from microseg_ray.settings.base import Frozen
from microseg_ray.settings.data import PairFields
from microseg_ray.settings.source import SourceSettings

__all__ = ["DEFECTSEGNET", "DivideSettings", "Region"]


class Region(Frozen):
    """A part of every micrograph and the split that it goes to.

    Example:
        >>> Region(name="top", split="train", box=(0, 0, 0.5, 1)).box
        (0.0, 0.0, 0.5, 1.0)
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$", description="part of the names of the files")
    split: str = Field(min_length=1)
    box: tuple[float, float, float, float] = Field(description="y0, x0, y1, x1 as shares of height and width, 0 to 1")

    @model_validator(mode="after")
    def _inside(self) -> Self:
        y0, x0, y1, x1 = self.box
        if not (0 <= y0 < y1 <= 1 and 0 <= x0 < x1 <= 1):
            raise ValueError(
                f"regions: {self.name}: box {list(self.box)} must be y0, x0, y1, x1 with 0 <= y0 < y1 <= 1, and x alike"
            )
        return self


DEFECTSEGNET = (
    Region(name="top_left", split="train", box=(0, 0, 0.5, 0.5)),
    Region(name="top_right", split="train", box=(0, 0.5, 0.5, 1)),
    Region(name="bottom_left", split="train", box=(0.5, 0, 1, 0.5)),
    Region(name="bottom_right_upper", split="val", box=(0.5, 0.5, 0.75, 1)),
    Region(name="bottom_right_lower", split="test", box=(0.75, 0.5, 1, 1)),
)
"""Three quarters train; of the last one the upper half validates and the lower half tests (Roberts et al. 2019)."""


class DivideSettings(PairFields):
    """`divide`: few large micrographs -> regions of them for train, val and test, and their table.

    For where there are too few micrographs to keep whole ones apart. The regions of one micrograph look alike, so a
    test on such regions says nothing of another specimen.
    """

    job: ClassVar[str] = "divide"
    output: str = Field(description="folder for images/, masks/ and catalog.csv, which `data.table` takes")
    regions: tuple[Region, ...] = Field(
        default=DEFECTSEGNET, min_length=1, description="default: the five regions of DefectSegNet"
    )
    symmetries: bool = Field(default=False, description="write all 8 symmetries of the regions of the split train")
    source: SourceSettings = SourceSettings()
    overwrite: bool = Field(default=False, description="make the regions anew in place of finished ones")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        for one, other in combinations(self.regions, 2):
            if one.name == other.name:
                raise ValueError(f"regions: {one.name} is here twice")
            (a0, b0, a1, b1), (c0, d0, c1, d1) = one.box, other.box
            if max(a0, c0) < min(a1, c1) and max(b0, d0) < min(b1, d1):
                raise ValueError(f"regions: {one.name} and {other.name} overlap, so that one would leak into the other")
        return self
