"""Stereology as ASTM writes it, from counts of pixels and of crossings of lines: additive over the parts of a mask.

Every field gives one value of each quantity; the table has the mean of the fields, their standard deviation s, the 95 %
confidence interval t s / sqrt(n), and the relative accuracy, the interval divided by the mean (ASTM E562, E1245 and E112 write
the same). Every pixel is a point of the grid of E562, and every row, column and diagonal of pixels a test line.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from microseg_ray.statistics.bootstrap import LEVEL, MIN_UNITS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.fields import Field

__all__ = [
    "FieldStatistics",
    "Quantity",
    "RowPlace",
    "StereologyRow",
    "field_statistics",
    "grain_size_of_area",
    "grain_size_of_density",
    "grain_size_of_intercept",
    "intercepts_per_length",
    "planimetric_density",
    "stereology_rows",
]


@dataclass(frozen=True)
class FieldStatistics:
    """A quantity over fields.

    Attributes:
        mean: Of the fields; nan without one.
        deviation: Standard deviation s (n - 1); nan for one field.
        half_width: Of the 95 % interval; nan for one field.
        relative_accuracy: `half_width` in percent of the mean; nan where the mean is 0.
        fields: n.
    """

    mean: float
    deviation: float
    half_width: float
    relative_accuracy: float
    fields: int


@dataclass(frozen=True, slots=True)
class StereologyRow:
    """One quantity of one class in one group or in the archive; the columns of stereology.csv."""

    scope: str
    name: str
    class_index: int
    class_name: str
    quantity: str
    unit: str
    standard: str
    fields: int
    unfinished_micrographs: int
    mean: float | None
    standard_deviation: float | None
    low: float | None
    high: float | None
    relative_accuracy_percent: float | None
    reason: str


class Quantity(NamedTuple):
    """What a row of stereology.csv is of: its name, unit and standard."""

    name: str
    unit: str
    standard: str


@dataclass(frozen=True)
class RowPlace:
    """What a row of stereology.csv belongs to.

    Attributes:
        scope: `group` or `archive`.
        name: Of the group.
        class_index: The class.
        class_name: Its name.
        unfinished: Micrographs of the group that have no mask yet.
    """

    scope: str
    name: str
    class_index: int
    class_name: str
    unfinished: int

    def row(self, quantity: Quantity, values: Sequence[float], said: str = "") -> StereologyRow:
        """The row of the values of fields; `said` is put before the reason why there is no interval."""
        found = field_statistics(np.array(values, np.float64))
        return StereologyRow(
            scope=self.scope,
            name=self.name,
            class_index=self.class_index,
            class_name=self.class_name,
            quantity=quantity.name,
            unit=quantity.unit,
            standard=quantity.standard,
            fields=found.fields,
            unfinished_micrographs=self.unfinished,
            mean=_plain(found.mean),
            standard_deviation=_plain(found.deviation),
            low=_plain(found.mean - found.half_width),
            high=_plain(found.mean + found.half_width),
            relative_accuracy_percent=_plain(found.relative_accuracy),
            reason="; ".join(filter(None, (said, _reason(found.fields)))),
        )


def field_statistics(values: NDArray[np.float64]) -> FieldStatistics:
    """Mean, standard deviation, 95 % interval and relative accuracy (ASTM E562).

    Args:
        values: (n,) one of each field; nan where a field has none, which is left out.

    Example:
        Five fields with 12, 9, 15, 10 and 14 %. By hand: mean 12, s = sqrt(26 / 4) = 2.55, t = 2.776 for 4 degrees of freedom,
        interval 2.776 * 2.55 / sqrt(5) = 3.17, relative accuracy 26.4 %.

        >>> found = field_statistics(np.array([12.0, 9, 15, 10, 14]))
        >>> round(found.mean, 2), round(found.deviation, 2), round(found.half_width, 2), round(found.relative_accuracy, 1)
        (12.0, 2.55, 3.17, 26.4)
    """
    from scipy.special import stdtrit

    known = values[~np.isnan(values)]
    if not len(known):
        return FieldStatistics(math.nan, math.nan, math.nan, math.nan, 0)
    mean = float(known.mean())
    if len(known) < MIN_UNITS:
        return FieldStatistics(mean, math.nan, math.nan, math.nan, len(known))
    deviation = float(known.std(ddof=1))
    half = float(stdtrit(len(known) - 1, (1 + LEVEL) / 2)) * deviation / math.sqrt(len(known))
    return FieldStatistics(mean, deviation, half, 100 * half / mean if mean > 0 else math.nan, len(known))


def grain_size_of_intercept(millimetres: float) -> float:
    """ASTM grain size number G of a mean lineal intercept (ASTM E112-13).

    Example:
        20.0 um are G = 8 and 320 um G = 0, 32 mm at 100 times.

        >>> round(grain_size_of_intercept(0.0200), 2), round(grain_size_of_intercept(0.3200), 2)
        (8.0, -0.0)
    """
    return -6.643856 * math.log10(millimetres) - 3.288


def grain_size_of_density(per_square_millimetre: float) -> float:
    """ASTM grain size number G of the number of grains per area (ASTM E112-13).

    Example:
        1984 per mm2 are G = 8, 128 in a square inch at 100 times, and 7.75 are G = 0.

        >>> round(grain_size_of_density(1984.0), 2), abs(round(grain_size_of_density(7.75), 2))
        (8.0, 0.0)
    """
    return 3.321928 * math.log10(per_square_millimetre) - 2.954


def grain_size_of_area(square_millimetres: float) -> float:
    """ASTM grain size number G of the area of one grain: that of the largest grain is ASTM E930's ALA grain size.

    Example:
        504 um2 are G = 8.

        >>> round(grain_size_of_area(504e-6), 2)
        8.0
    """
    return grain_size_of_density(1 / square_millimetres)


def planimetric_density(inside: int, intercepted: int, square_millimetres: float) -> float:
    """Grains per mm2 of a test circle: those inside, and half of those that its line cuts (ASTM E112-13, Jeffries).

    Example:
        68 grains inside and 41 cut by a circle of 0.5 mm2, by hand: (68 + 20.5) / 0.5 = 177 per mm2, G = 4.51.

        >>> planimetric_density(68, 41, 0.5), round(grain_size_of_density(planimetric_density(68, 41, 0.5)), 2)
        (177.0, 4.51)
    """
    return (inside + intercepted / 2) / square_millimetres


def intercepts_per_length(
    crossings: NDArray[np.int64], measured: int, pixel_size: tuple[float, float] = (1.0, 1.0)
) -> NDArray[np.float64]:
    """Intercepts of each class per length of test line, N_L, in each of the four directions.

    A line that goes into a class and out again has one intercept and two crossings; what is cut at the border has one crossing,
    so it counts half.

    Args:
        crossings: (4, K, K) of `count_crossings`.
        measured: Pixels with a class; each is a step of a line in each direction.
        pixel_size: (y, x), in the unit of the length.

    Returns:
        (4, K): along x, along y, along both diagonals; nan where nothing was measured.

    Example:
        >>> from microseg_ray.geometry import Box
        >>> from microseg_ray.statistics.boundaries import count_crossings
        >>> stripes = np.tile(np.repeat([0, 1], 5), (100, 10)).astype(np.uint8)  # one stripe in ten pixels
        >>> found = intercepts_per_length(count_crossings(stripes, Box(0, 0, 100, 100), 2), stripes.size)
        >>> found[:2, 1].round(3).tolist()
        [0.095, 0.0]
    """
    height, width = pixel_size
    steps = np.array([width, height, math.hypot(height, width), math.hypot(height, width)])
    if not measured:
        return np.full(crossings.shape[:2], np.nan)
    found: NDArray[np.float64] = crossings.sum(axis=2) / 2 / (measured * steps[:, None])
    return found


def stereology_rows(
    scope: str,
    name: str,
    members: Sequence[Field],
    classes: Sequence[ClassSpec],
    unfinished: int,
    grain_boundaries: int | None = None,
) -> list[StereologyRow]:
    """The rows of one group.

    Args:
        scope: `group` or `archive`.
        name: Of the group.
        members: Its micrographs, each a field.
        classes: The classes.
        unfinished: Micrographs of it that have no mask yet.
        grain_boundaries: The class that is the boundary between grains, from which the grain size is measured; None for none.
    """
    in_um = all(member.pixel_size_um is not None for member in members)
    tables = [_quantities(member, in_um=in_um) for member in members]
    rows = []
    for index, item in enumerate(classes):
        quantities = dict(_STANDARDS)
        if index == grain_boundaries:
            quantities |= _OF_GRAINS
        place = RowPlace(scope, name, index, item.name, unfinished)
        for quantity, (unit, standard) in quantities.items():
            what = Quantity(quantity, unit if in_um else unit.replace("um", "px"), standard)
            rows.append(place.row(what, [float(table[quantity][index]) for table in tables]))
            if quantity == "mean_grain_intercept":
                rows.append(_grain_size(rows[-1], in_um=in_um))
    return rows


_STANDARDS = {
    "area_fraction": ("1", "ASTM E562, E1245"),
    "intercepts_per_length": ("1/um", "ASTM E1245"),
    "mean_intercept": ("um", "ASTM E1245"),
    "mean_intercept_x": ("um", "ASTM E1382"),
    "mean_intercept_y": ("um", "ASTM E1382"),
    "mean_free_path": ("um", "ASTM E1245"),
}
_OF_GRAINS = {"mean_grain_intercept": ("um", "ASTM E112, E1382")}


def _quantities(member: Field, *, in_um: bool) -> Mapping[str, NDArray[np.float64]]:
    size = member.pixel_size_um if in_um and member.pixel_size_um is not None else (1.0, 1.0)
    by_direction = intercepts_per_length(member.crossings, member.measured, size)
    angle = math.atan2(size[0], size[1])
    # Each direction stands for the part of the half circle that is nearest to it.
    shares = np.array([angle, math.pi / 2 - angle, math.pi / 4, math.pi / 4]) / math.pi
    intercepts = shares @ by_direction
    fraction = member.fractions
    return {
        "area_fraction": fraction,
        "intercepts_per_length": intercepts,
        "mean_intercept": _ratio(fraction, intercepts),
        "mean_intercept_x": _ratio(fraction, by_direction[0]),
        "mean_intercept_y": _ratio(fraction, by_direction[1]),
        "mean_free_path": _ratio(1 - fraction, intercepts),
        "mean_grain_intercept": _ratio(np.ones(len(fraction)), intercepts),
    }


def _grain_size(intercept: StereologyRow, *, in_um: bool) -> StereologyRow:
    """G of the mean intercept and of the ends of its interval (ASTM E112)."""
    reason = intercept.reason if in_um else "no pixel size: G is defined for lengths in millimetres"

    def number(length: float | None) -> float | None:
        return grain_size_of_intercept(length / 1000) if in_um and length is not None and length > 0 else None

    return StereologyRow(
        scope=intercept.scope,
        name=intercept.name,
        class_index=intercept.class_index,
        class_name=intercept.class_name,
        quantity="grain_size_number",
        unit="1",
        standard="ASTM E112, E1382",
        fields=intercept.fields,
        unfinished_micrographs=intercept.unfinished_micrographs,
        mean=number(intercept.mean),
        standard_deviation=None,
        low=number(intercept.high),
        high=number(intercept.low),
        relative_accuracy_percent=None,
        reason=reason,
    )


def _reason(fields: int) -> str:
    if not fields:
        return "in no field: not defined"
    return "" if fields >= MIN_UNITS else "one field: no interval"


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    found = np.full(len(part), np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
