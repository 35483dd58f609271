"""Settings of the catalog job."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from microseg_ray.settings.data import SplitFields
from microseg_ray.settings.source import SourceSettings

__all__ = ["CatalogSettings"]


class CatalogSettings(SplitFields):
    """`catalog`: archive -> a table of micrograph, mask, group, split, pixel size, to edit and feed back."""

    job: ClassVar[str] = "catalog"
    output: str = Field(description="CSV, or Parquet where the name ends in .parquet; `data.table` takes it")
    lists: dict[str, str] = Field(
        default_factory=dict, description="by split, a text list of names, one a line; in place of `splits`"
    )
    source: SourceSettings = SourceSettings()
    overwrite: bool = Field(default=False, description="write over a table, which may hold what somebody typed")

    @model_validator(mode="after")
    def _lists_or_splits(self) -> Self:
        if self.lists and self.table is not None:
            raise ValueError("lists: a table has its splits in it; give images in place of table")
        return self
