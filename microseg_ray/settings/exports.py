"""What is written of a run's tables for other programs and for papers."""

from __future__ import annotations

from pydantic import Field

from microseg_ray.settings.base import Frozen

__all__ = ["WrittenExports"]


class WrittenExports(Frozen):
    """Workbook, tables to paste and plots; made of the tables, no mask is read again."""

    write: bool = Field(default=True, description="statistics.xlsx, tables.md, tables.tex, plots/ as PNG and SVG")
    sheet_rows: int = Field(
        default=20_000,
        ge=1,
        le=1_048_575,
        description="rows of a sheet of the workbook, at most (a sheet can hold 1048575); the CSV and Parquet tables hold all",
    )
