"""Tables of the page of a run: columns say how their numbers are shown, for the page's markup and for its script alike."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["NONE", "Cell", "Column", "PageTable", "number", "shown"]

NONE = "–"  # noqa: RUF001 - the dash of tables
MOST_ROWS = 600
"""A longer table is shown in pages."""
PAGE_ROWS = 100

ColumnKind = Literal["picture", "file", "class", "number", "share", "interval", "size", "text"]


@dataclass(frozen=True)
class Cell:
    """A number in a table: groups of digits for display, and the unrounded number for sorting."""

    groups: tuple[str, ...]
    value: str = ""


@dataclass(frozen=True)
class Column:
    """A column and what its values are.

    Attributes:
        label: Its heading.
        kind: `picture` (x and y of a thumbnail in its sheet, and the sheet's address), `file`, `class` (a name with its
            colour), `number`, `share` (a number with a bar), `interval` (low and high), `size` (a text and where it comes
            from) or `text`. None is shown as a dash.
        unit: Beside the heading.
        decimals: Of numbers.
        scale: Numbers are multiplied by it for display.
        signed: Whether positive numbers have a sign.
    """

    label: str
    kind: ColumnKind = "number"
    unit: str = ""
    decimals: int = 0
    scale: float = 1.0
    signed: bool = False

    @property
    def numeric(self) -> bool:
        """Whether it is sorted by value."""
        return self.kind in {"number", "share", "interval"}

    def cell(self, value: float | None) -> Cell:
        """A number of this column.

        Example:
            >>> Column("Area", decimals=1).cell(12345.67)
            Cell(groups=('12', '345.7'), value='12345.67')
        """
        return shown(value, self.decimals, self.scale, signed=self.signed)

    def interval(self, pair: tuple[float, float] | None) -> str:
        """An interval of this column as text."""
        if pair is None:
            return NONE
        return " to ".join(f"{each * self.scale:.{self.decimals}f}" for each in pair)


@dataclass(frozen=True, eq=False)
class PageTable:
    """A table of the page. Where it has more than `MOST_ROWS` rows the page shows 100 at a time and its script turns the pages.

    Attributes:
        name: Its id on the page.
        label: What it is, for people who do not see it.
        columns: Its columns.
        rows: Values by row, in the order of the columns.
    """

    name: str
    label: str
    columns: tuple[Column, ...]
    rows: Sequence[tuple[Any, ...]]

    @property
    def paged(self) -> bool:
        """Whether it is shown in pages."""
        return len(self.rows) > MOST_ROWS

    @property
    def first(self) -> Sequence[tuple[Any, ...]]:
        """The rows that are in the markup."""
        return self.rows[:PAGE_ROWS] if self.paged else self.rows

    @property
    def class_place(self) -> int | None:
        """Place of the column with the class, which gives a row its colour."""
        return next((place for place, each in enumerate(self.columns) if each.kind == "class"), None)

    @property
    def script(self) -> str:
        r"""All rows and how to show them, as JSON that may stand in a script element.

        Example:
            >>> PageTable("t", "", (Column("Name", "file"),), [("</script>",)]).script[-21:]
            '[["\\u003c/script>"]]}'
        """
        columns = [
            {"kind": each.kind, "decimals": each.decimals, "scale": each.scale, "signed": each.signed}
            for each in self.columns
        ]
        document = {"page": PAGE_ROWS, "columns": columns, "rows": self.rows}
        found = json.dumps(document, allow_nan=False, separators=(",", ":"))
        # Neither a name nor anything else can end the element.
        return found.replace("<", "\\u003c")


def number(value: Any) -> float | None:
    """A number of a table row, or None for None, NaN and empty text.

    Example:
        >>> number("0.5"), number(float("nan")), number("")
        (0.5, None, None)
    """
    if value is None or value == "":
        return None
    found = float(value)
    return None if math.isnan(found) else found


def shown(value: float | None, decimals: int, scale: float = 1.0, *, signed: bool = False) -> Cell:
    """A number for display."""
    if value is None:
        return Cell((NONE,))
    # Digits are grouped by markup, without separators, so that a copied number can be parsed.
    text = f"{value * scale:{'+' if signed else ''},.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    return Cell(tuple(text.split(",")), repr(value))


def pixel_size(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """(y, x) in micrometres, from one key or from two.

    Example:
        >>> pixel_size({"pixel_size_um_y": "0.5", "pixel_size_um_x": 0.5}), pixel_size({})
        ((0.5, 0.5), None)
    """
    pair = row.get("pixel_size_um") or (row.get("pixel_size_um_y"), row.get("pixel_size_um_x"))
    y, x = (number(side) for side in pair)
    return None if y is None or x is None else (y, x)


def size_text(size: tuple[float, float] | None) -> str:
    """A pixel size as text: one number if both are equal."""
    if size is None:
        return NONE
    y, x = size
    return f"{x:.6g}" if math.isclose(x, y, rel_tol=1e-9) else f"{y:.6g} x {x:.6g} (y, x)"
