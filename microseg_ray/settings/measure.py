"""Settings of the measure job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.data import DataFields
from microseg_ray.settings.exports import WrittenExports
from microseg_ray.settings.intervals import IntervalSettings
from microseg_ray.settings.objects import ObjectSettings
from microseg_ray.settings.pixel_size import PixelSize
from microseg_ray.settings.sections import SectionFields

__all__ = ["MeasureSettings"]


class MeasureSettings(SectionFields, DataFields):
    """`measure`: the tables of a run again from its counts, without the model; and where in it a class is.

    By default it reads every mask for groups, boundaries and intervals (RUN/groups.csv, boundaries.csv, intervals.csv,
    stereology.csv, and the same as .parquet), and measures the objects of all classes (RUN/objects.csv and .parquet,
    object_sizes.csv, object_classes.csv). Of these tables it makes RUN/statistics.xlsx, tables.md and tables.tex to paste, and
    plots/. With `sections` it writes RUN/sections.csv, which sections of that many px hold which
    class, and RUN/percentages.csv; with `overlays` RUN/overlays/NAME.png. No true mask is needed.
    """

    job: ClassVar[str] = "measure"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"intervals.evaluation", "run", "table"})
    run: str
    pixel_size_um: PixelSize = None
    group: str | None = Field(
        default=None,
        description="regular expression, searched in the file's stem; its first group names the group of a micrograph",
    )
    table: str | None = Field(default=None, description="CSV or Parquet of micrographs with a column group")
    intervals: IntervalSettings = IntervalSettings()
    objects: ObjectSettings = ObjectSettings()
    exports: WrittenExports = WrittenExports()
    overlays: int = Field(
        default=0, ge=0, description="micrographs that are drawn in the colours of their classes, at most"
    )
