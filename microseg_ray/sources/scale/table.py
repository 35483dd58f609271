"""The user's own table of pixel sizes: a CSV of name patterns and micrometres."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError, ObjectStoreError
from microseg_ray.files import ObjectPath, content_of, place

if TYPE_CHECKING:
    from microseg_ray.files import Place, Where

__all__ = ["TableRow", "read_pixel_sizes", "row_for"]

COLUMNS = ("pattern", "um_per_pixel", "um_per_pixel_y")
_EXAMPLE = "give the columns pattern,um_per_pixel, as in: batch_1/*.tif,0.05"


@dataclass(frozen=True)
class TableRow:
    """One line of the table.

    Attributes:
        pattern: What the micrograph's name must look like; `*`, `?` and `[...]` as in a shell, `*` also across folders.
        y: Height of a pixel in micrometres.
        x: Its width.
        line: Number of the line in the file, the header being 1.
    """

    pattern: str
    y: float
    x: float
    line: int

    def fits(self, path: str) -> bool:
        """Whether the pattern fits the file's name, or the end of its path.

        Example:
            >>> row = TableRow("2019/*.tif", 0.5, 0.5, line=2)
            >>> row.fits("/archive/2019/a.tif"), row.fits("/archive/2020/a.tif")
            (True, False)
        """
        name = PurePosixPath(path).as_posix()
        # A name that is given literally fits also where it holds brackets.
        if name == self.pattern or name.endswith(f"/{self.pattern}"):
            return True
        return fnmatchcase(name, self.pattern) or fnmatchcase(name, f"*/{self.pattern}")


def read_pixel_sizes(table: Where) -> tuple[TableRow, ...]:
    r"""Read a table: `pattern,um_per_pixel` and optionally `um_per_pixel_y`, for pixels that are not square.

    Lines without any value are skipped. Read once for each state of the file.

    Args:
        table: A CSV file with a header, UTF-8.

    Raises:
        InputError: The file is missing or no such table; the message names the line.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "sizes.csv"
        ...     _ = path.write_text("pattern,um_per_pixel\na*.tif,0.5\n*,nan\n")
        ...     read_pixel_sizes(path)
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: ...sizes.csv: line 3: um_per_pixel is 'nan'; give micrometres above zero, as in 0.05
    """
    path = place(table)
    try:
        return _read(str(path), _state(path))
    except FileNotFoundError as error:
        raise InputError(table, "no such table of pixel sizes", "correct source.pixel_sizes") from error
    except ObjectStoreError:
        raise
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(table, f"the table of pixel sizes cannot be read ({error})", "save it as UTF-8") from error


def row_for(path: str, table: Where) -> TableRow | None:
    """The first line of a table that fits a micrograph.

    Raises:
        InputError: As `read_pixel_sizes`.
    """
    return next((row for row in read_pixel_sizes(table) if row.fits(path)), None)


def _state(path: Place) -> str:
    if isinstance(path, ObjectPath):
        return path.entity_tag()
    found = path.stat()
    return f"{found.st_mtime_ns}:{found.st_size}"


@lru_cache(maxsize=4)
def _read(table: str, _state: str) -> tuple[TableRow, ...]:
    reader = csv.DictReader(
        io.StringIO(content_of(place(table)).decode("utf-8-sig"), newline=None), skipinitialspace=True
    )
    try:
        names = [str(name).strip() for name in reader.fieldnames or ()]
    except csv.Error as error:
        raise InputError(table, f"line 1: {error}", _EXAMPLE) from error
    reader.fieldnames = names
    unknown = [name for name in names if name not in COLUMNS]
    if not {"pattern", "um_per_pixel"} <= set(names) or unknown:
        raise InputError(table, f"line 1: its columns are {', '.join(names) or 'missing'}", _EXAMPLE)
    try:
        return tuple(
            _row(table, reader.line_num, line)
            for line in reader
            if any(str(value or "").strip() for value in line.values())
        )
    except csv.Error as error:
        raise InputError(table, f"line {reader.line_num}: {error}", _EXAMPLE) from error


def _row(table: str, number: int, line: dict[str, str | None]) -> TableRow:
    if None in line:
        raise InputError(table, f"line {number}: it has more values than the header has columns", _EXAMPLE)
    pattern = (line["pattern"] or "").strip()
    if not pattern:
        raise InputError(table, f"line {number}: pattern is empty", "give * for every micrograph")
    x = _micrometres(table, number, line, "um_per_pixel")
    y = _micrometres(table, number, line, "um_per_pixel_y") if (line.get("um_per_pixel_y") or "").strip() else x
    return TableRow(pattern, y, x, number)


def _micrometres(table: str, number: int, line: dict[str, str | None], column: str) -> float:
    text = (line[column] or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError(table, f"line {number}: {column} is {text!r}", "give micrometres above zero, as in 0.05")
    return value
