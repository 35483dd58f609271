"""Groups, boundaries and error bars of areas."""

from __future__ import annotations

from pydantic import Field

from microseg_ray.settings.base import Frozen

__all__ = ["IntervalSettings"]


class IntervalSettings(Frozen):
    """Error bars on area fractions, and what is measured with them; reads every mask once."""

    measure: bool = Field(
        default=True,
        description="groups, boundaries, intervals, stereology as .csv and .parquet; false: areas from counts only",
    )
    structure: bool = Field(
        default=True,
        description="chord lengths by direction, two-point correlation and anisotropy (chords, correlation, anisotropy as .csv "
        "and .parquet); reads every mask three times more",
    )
    evaluation: str | None = Field(
        default="auto",
        description="folder of an evaluation of the same model on test micrographs: areas are corrected by its confusion matrix, "
        "and the model's error is part of the intervals; auto: a folder `evaluation` beside the run or its checkpoint, if it "
        "judged the run's own model on the split test; none: no correction",
    )
    grain_boundaries: str | None = Field(
        default=None, description="class that is the boundary between grains: the ASTM grain size number is measured"
    )
    pixel_size_uncertainty: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="relative standard uncertainty of the pixel size, 0.01 for 1 %; it goes into the areas in um2 of groups",
    )
