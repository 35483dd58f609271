"""The list of micrographs: areas, intervals, what is unusual; sorted, filtered and paged."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.names import text
from microseg_ray.runs.folder import AREAS_FILE
from microseg_ray.tables import read_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.report.viewer.subject import Subject

__all__ = ["Listing", "Order", "list_micrographs", "micrograph_intervals", "outlier_scores"]

_SPREAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""

_EQUAL = 1e-12
"""Area fractions that differ by less are equal: no micrograph has that many pixels."""


@dataclass(frozen=True)
class Order:
    """Which rows of the list are wanted.

    Attributes:
        sort: `name`, `outlier`, `state`, or the index of a class.
        descending: Largest first; rows without a value come last either way.
        contains: Only micrographs with this in their name, letters of either case.
        state: Only micrographs of this state; "" for all.
        page: From 0.
        size: Rows of a page.
    """

    sort: str = "outlier"
    descending: bool = True
    contains: str = ""
    state: str = ""
    page: int = 0
    size: int = 50


@dataclass(frozen=True, eq=False)
class Listing:
    """All micrographs as columns.

    Attributes:
        names: As in the subject.
        shown: Their text.
        fractions: (n, K) area fractions, NaN where not measured.
        areas_um2: (n, K), NaN without a pixel size.
        pixel_um: (n,) width of a pixel in micrometres, NaN where not known.
        intervals: (n, K, 2) low and high of the area fraction, NaN without intervals.
        scores: (n,) how unusual the micrograph is, NaN where not measured.
        states: (n,) finished, unfinished, failed or image.
    """

    names: tuple[str, ...]
    shown: tuple[str, ...]
    fractions: NDArray[np.float64]
    areas_um2: NDArray[np.float64]
    pixel_um: NDArray[np.float64]
    intervals: NDArray[np.float64]
    scores: NDArray[np.float64]
    states: tuple[str, ...]
    _order: dict[tuple[str, bool], NDArray[np.int64]] = field(default_factory=dict)

    def select(self, order: Order) -> tuple[list[int], int]:
        """Places of the rows of a page, and how many rows there are on all pages."""
        places = self._sorted(order)
        if order.contains or order.state:
            wanted = order.contains.casefold()
            keep = [
                wanted in self.shown[place].casefold() and order.state in {"", self.states[place]} for place in places
            ]
            places = places[np.array(keep, bool)]
        first = order.page * order.size
        return [int(place) for place in places[first : first + order.size]], len(places)

    def sequence(self, order: Order) -> list[int]:
        """Places of all rows of all pages, for next and previous."""
        return self.select(
            Order(order.sort, order.descending, order.contains, order.state, 0, max(1, len(self.names)))
        )[0]

    def _sorted(self, order: Order) -> NDArray[np.int64]:
        known = (order.sort, order.descending)
        if known not in self._order:
            self._order[known] = self._places(*known)
        return self._order[known]

    def _places(self, sort: str, descending: bool) -> NDArray[np.int64]:
        if sort in {"name", "state"}:
            values = self.states if sort == "state" else self.shown
            return np.array(sorted(range(len(values)), key=lambda place: values[place], reverse=descending), np.int64)
        column = self.scores if sort == "outlier" else self.fractions[:, int(sort)]
        found = np.argsort(-column if descending else column, kind="stable")
        # NaN comes last in both directions.
        return np.asarray(found, np.int64)


def outlier_scores(fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each micrograph is from the median of all, in robust standard deviations of the class that differs most.

    A robust standard deviation is 1.4826 times the median absolute deviation; where more than half of the micrographs are
    equal it is 0, and the mean absolute deviation times 1.2533 takes its place (Iglewicz and Hoaglin 1993).

    Args:
        fractions: (n, K), NaN where not measured.

    Example:
        >>> outlier_scores(np.array([[0.1], [0.2], [0.3], [0.9], [np.nan]])).round(2).tolist()
        [1.01, 0.34, 0.34, 4.38, nan]
    """
    scores = np.full(len(fractions), np.nan)
    measured = ~np.isnan(fractions).all(axis=1)
    if not measured.any():
        return scores
    known = fractions[measured]
    away = np.abs(known - np.nanmedian(known, axis=0))
    spread = _SPREAD * np.nanmedian(away, axis=0)
    spread = np.where(spread > _EQUAL, spread, 1.2533 * np.nanmean(away, axis=0))
    ratio = np.divide(away, spread, out=np.zeros_like(away), where=spread > _EQUAL)
    scores[measured] = np.nanmax(ratio, axis=1)
    return scores


def list_micrographs(subject: Subject) -> Listing:
    """The list of a run or archive: two tables are read, and no mask is opened.

    Args:
        subject: The run or archive.
    """
    count, classes = len(subject.names), len(subject.classes)
    shown = tuple(map(text, subject.names))
    place = {name: number for number, name in enumerate(shown)}
    fractions, areas = np.full((2, count, classes), np.nan)
    pixel_um = np.full(count, np.nan)
    intervals = np.full((count, classes, 2), np.nan)
    if subject.run is not None:
        table = _table(subject, AREAS_FILE)
        if table is not None:
            rows, index, keep = _rows(table, place, "micrograph", classes)
            fractions[rows, index] = _column(table, "area_fraction")[keep]
            areas[rows, index] = _column(table, "area_um2")[keep]
            pixel_um[rows] = _column(table, "pixel_size_um_x")[keep]
        table = _table(subject, "intervals.parquet")
        if table is not None:
            # Not by a filter of Arrow's, which imports pandas: that takes longer than all the rest.
            rows, index, keep = _rows(table, place, "name", classes, _of_micrographs(table))
            intervals[rows, index, 0] = _column(table, "low")[keep]
            intervals[rows, index, 1] = _column(table, "high")[keep]
    states = tuple(
        _state(subject, name, bool(np.isnan(fractions[number]).all())) for number, name in enumerate(subject.names)
    )
    return Listing(subject.names, shown, fractions, areas, pixel_um, intervals, outlier_scores(fractions), states)


def _state(subject: Subject, name: str, unmeasured: bool) -> str:
    if subject.run is None:
        return "image"
    if not unmeasured:
        return "finished"
    return "failed" if name in subject.failures else "unfinished"


def _table(subject: Subject, file: str) -> Any:
    run = subject.run
    return None if run is None or not (run.folder / file).is_file() else read_parquet(run.folder / file)


def micrograph_intervals(table: Any) -> Any:
    """The rows of micrographs, with the part of the error that every micrograph has: sampling within its field."""
    import pyarrow as pa

    return table.filter(pa.array(_of_micrographs(table)))


def _of_micrographs(table: Any) -> NDArray[np.bool_]:
    wanted = zip(table["scope"].to_pylist(), table["part"].to_pylist(), strict=True)
    return np.array([each == ("micrograph", "sampling") for each in wanted], bool)


def _rows(
    table: Any, place: dict[str, int], name: str, classes: int, wanted: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Row and class of each line of a table, and which of its lines are of this list."""
    rows = np.array([place.get(each, -1) for each in table[name].to_pylist()], np.int64)
    index = np.array(table["class_index"].to_pylist(), np.int64)
    keep = (rows >= 0) & (index >= 0) & (index < classes)
    if wanted is not None:
        keep &= wanted
    return rows[keep], index[keep], keep


def _column(table: Any, name: str) -> NDArray[np.float64]:
    # Arrow's own conversion to numpy imports pandas, which takes longer than all the rest; None becomes NaN.
    return np.array(table[name].to_pylist(), np.float64)
