"""All tables of a run in one workbook (XLSX), written row by row: memory does not grow with the rows.

Every text is written as a text cell, so that a file or class name such as `=1+1` is no formula, and no name becomes a link.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from microseg_ray.files import whole
from microseg_ray.names import text
from microseg_ray.report.exports.headings import heading
from microseg_ray.report.exports.reading import TABLES, Published, batches, columns_of, rows_in, table_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from microseg_ray.files import Place

__all__ = ["SHEET_ROWS", "write_workbook"]

SHEET_ROWS = 1_048_575
"""Rows of a sheet below its head: the format has 2^20."""

_CELL_TEXT = 32_767
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_SCOPES = frozenset({"group", "archive"})
_SUMMARIES = {
    "intervals": ("scope", _SCOPES),
    "boundaries": ("scope", _SCOPES),
    "anisotropy": ("scope", _SCOPES),
    "chords": ("scope", _SCOPES),
    "correlation": ("scope", _SCOPES),
    "object_sizes": ("micrograph", frozenset({""})),
}
"""By table: the column, and its values, of rows that sum micrographs up."""

_SAID_ELSEWHERE = frozenset({"model_digest", "pixel_size_um_y", "pixel_size_um_x", "pixel_size_source"})
"""Columns of each object that the sheet `areas` or `about` has once."""


def write_workbook(path: Place, published: Published, most_rows: int = SHEET_ROWS) -> list[str]:
    """Write a sheet for each table that there is, and a sheet `about` in front.

    Args:
        path: The workbook; an older one is replaced.
        published: The run.
        most_rows: Rows of a sheet below its head, at most. Rows of groups and of the archive come before those of micrographs.

    Returns:
        A line for each table that does not fit.
    """
    import xlsxwriter

    notes: list[str] = []
    # Written in order and once: a row is on the disk before the next one is made.
    options = {
        "constant_memory": True,
        "strings_to_formulas": False,
        "strings_to_urls": False,
        "strings_to_numbers": False,
    }
    found = [(name, table) for name in TABLES if (table := table_path(published.folder, name)) is not None]
    counts = {name: rows_in(table) for name, table in found}
    for name, table in found:
        if counts[name] > most_rows:
            shown = f"sheet {name}: the first {most_rows} of {counts[name]} rows"
            notes.append(f"{shown}; all are in {name}.csv" + (f" and {table.name}" if table.suffix != ".csv" else ""))
    with whole(path) as partial, xlsxwriter.Workbook(str(partial), options) as book:
        # Without the time of day, equal tables give equal bytes.
        book.set_properties({"title": text(published.folder.name), "created": dt.datetime(2000, 1, 1)})  # noqa: DTZ001
        head = book.add_format({"bold": True, "bottom": 1})
        about = [("run", text(published.folder.name)), ("model digest", published.model_digest)]
        about += [("state", published.partial or "complete")]
        about += [("rows left out", note) for note in notes]
        about += [(f"sheet {name}", f"{min(counts[name], most_rows)} rows of {name}.csv") for name, _ in found]
        about += [("what each column is", "sheet columns; docs/statistics.md of microseg_ray")]
        sheet = book.add_worksheet("about")
        sheet.set_column(0, 0, 22)
        for row, cells in enumerate(about):
            for column, value in enumerate(cells):
                _write(sheet, row, column, value)
        columns = {name: _columns(name, table) for name, table in found}
        if found:
            _name_columns(book.add_worksheet("columns"), columns, head)
        for name, table in found:
            sheet = book.add_worksheet(name)
            sheet.freeze_panes(1, 0)
            for place, title in enumerate(map(heading, columns[name])):
                sheet.set_column(place, place, max(10, len(title)))
                sheet.write_string(0, place, title, head)
            _fill(sheet, table, columns[name], most_rows)
    return notes


def _columns(name: str, table: Place) -> list[str]:
    return [each for each in columns_of(table) if name != "objects" or each not in _SAID_ELSEWHERE]


def _name_columns(sheet: Any, columns: Mapping[str, Sequence[str]], head: Any) -> None:
    """Which column of which CSV each column of a sheet is."""
    rows = [(name, heading(column), column) for name, own in columns.items() for column in own]
    sheet.freeze_panes(1, 0)
    for place, (title, width) in enumerate((("sheet", 16), ("column", 46), ("name in the CSV and Parquet tables", 36))):
        sheet.set_column(place, place, width)
        sheet.write_string(0, place, title, head)
    for row, cells in enumerate(rows, 1):
        for place, value in enumerate(cells):
            _write(sheet, row, place, value)


def _fill(sheet: Any, table: Place, columns: list[str], limit: int) -> None:
    for row, cells in enumerate(islice(_in_order(table, columns), limit), 1):
        for column, value in enumerate(cells):
            _write(sheet, row, column, value)


def _in_order(table: Place, columns: list[str]) -> Iterator[tuple[Any, ...]]:
    """The rows, those of groups and of all micrographs first: a sheet that is cut off still has them."""
    key, own = _SUMMARIES.get(table.stem, ("", frozenset[str]()))
    for first in (True, False) if key else (False,):
        for batch in batches(table):
            if key:
                summary = [value in own for value in batch.column(key).to_pylist()]
                batch = batch.filter(pa.array([each is first for each in summary], pa.bool_()))  # noqa: PLW2901
            yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def _write(sheet: Any, row: int, column: int, value: Any) -> None:
    """One cell by its type; what is not known is an empty cell."""
    if isinstance(value, str):
        if value:
            sheet.write_string(row, column, _NO_XML.sub("\ufffd", text(value))[:_CELL_TEXT])
    elif isinstance(value, bool):
        sheet.write_boolean(row, column, value)
    elif value is not None and math.isfinite(value):
        sheet.write_number(row, column, value)
