"""Error bars on area fractions, part by part: sampling within a field, between micrographs, by the model, and together.

`docs/statistics.md` says what each part is and when it holds; `docs/results/intervals.md` how often it covers the truth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.statistics.bootstrap import LEVEL, MIN_UNITS
from microseg_ray.statistics.estimates import Estimate
from microseg_ray.statistics.sampling import bounded_interval, independent_features
from microseg_ray.statistics.spread import kinds_of, spread_between

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.fields import Field
    from microseg_ray.statistics.model_error import Method

__all__ = ["Estimate", "IntervalRow", "between_micrographs", "field_rows", "group_rows", "needed"]

AIM = 0.01
"""The half-width that the planned columns are for: 1 % of the area, and 1 % of the fraction."""

_MOST = 10**9
_WIDE = 0.25
"""Half-width of an interval of the model's error above which it is said that the test set says little."""


@dataclass(frozen=True, slots=True)
class IntervalRow:
    """One class, one scope, one part of the error; the columns of intervals.csv.

    `part`: `sampling` (within the fields, from the two-point correlation), `micrographs` (between the micrographs of the
    scope), `model_stratified`, `model_inverse` (the model's error, after correction by the test set), `ensemble`, `tta` (the
    spread between the checkpoints of an ensemble, between the symmetries of test-time augmentation), `combined` (all parts that
    there are: sampling or micrographs, the model's, the spread). `effective_count`, of the part `sampling`: independent features
    of the class, or of the rest where that has fewer; below 4 the interval is too narrow. `more_...` say how much more must be
    measured for a half-width of 1 % of the area (`absolute`) or of 1 % of the fraction (`relative`) by this part alone.
    `evaluation` is the folder of the test set that `model_...` and `combined` are corrected by.
    """

    scope: str
    name: str
    class_index: int
    class_name: str
    part: str
    micrographs: int
    unfinished_micrographs: int
    area_fraction: float | None
    estimate: float | None
    standard_error: float | None
    low: float | None
    high: float | None
    degrees_of_freedom: float | None
    integral_range_px: float | None
    effective_count: float | None
    more_px_absolute: float | None
    more_px_relative: float | None
    more_um2_absolute: float | None
    more_um2_relative: float | None
    more_micrographs_absolute: int | None
    more_micrographs_relative: int | None
    reason: str
    evaluation: str = ""


def between_micrographs(counts: NDArray[np.int64], shares: NDArray[np.float64]) -> list[Estimate]:
    """Pooled fractions with the variance that the spread between micrographs gives (the ratio estimator of Cochran 1977).

    Args:
        counts: (m,) measured pixels of each micrograph.
        shares: (m, K) their fractions.

    Example:
        >>> one, other = between_micrographs(np.array([100, 100, 100]), np.array([[0.2, 0.8], [0.3, 0.7], [0.4, 0.6]]))
        >>> round(one.value, 3), round(one.variance**0.5, 4), one.degrees_of_freedom  # 0.1 / sqrt(3)
        (0.3, 0.0577, 2)
    """
    known = counts > 0
    counts, shares = counts[known], shares[known]
    if not len(counts):
        return [Estimate(math.nan, reason="nothing was measured")] * shares.shape[1]
    total = int(counts.sum())
    pooled = (counts[:, None] * shares).sum(axis=0) / total
    if len(counts) < MIN_UNITS:
        return [Estimate(float(value), reason="one micrograph: no interval across micrographs") for value in pooled]
    spread = ((counts[:, None] * (shares - pooled)) ** 2).sum(axis=0)
    variance = len(counts) / (len(counts) - 1) * spread / total**2
    return [_spread(float(p), float(v), len(counts)) for p, v in zip(pooled, variance, strict=True)]


def _spread(fraction: float, variance: float, count: int) -> Estimate:
    """A fraction that no micrograph differs in is no fraction without an error."""
    if fraction <= 0:
        return Estimate(fraction, reason=f"in no micrograph of {count}: no interval")
    if fraction >= 1:
        return Estimate(fraction, reason=f"the whole of all {count} micrographs: no interval")
    return Estimate(fraction, variance, count - 1)


def needed(variance_of_one: float, aim: float) -> int | None:
    """How many independent fields give a half-width of `aim`, with Student's t for that many.

    Args:
        variance_of_one: Of the fraction of one field.
        aim: Half-width.

    Returns:
        None where that is not known, or more than 10^9.

    Example:
        >>> needed(0.05**2, 0.01), needed(0.05**2, 0.1)  # 1.96 * 0.05 / 0.01 is 9.8, its square 96
        (99, 4)
    """
    if not (variance_of_one > 0 and aim > 0):
        return None
    from scipy.special import stdtrit

    def enough(count: int) -> bool:
        return float(stdtrit(count - 1, (1 + LEVEL) / 2)) ** 2 * variance_of_one <= aim**2 * count

    if not enough(_MOST):
        return None
    few, many = 1, _MOST
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def field_rows(field: Field, classes: Sequence[ClassSpec], *, finished: bool = True) -> list[IntervalRow]:
    """The rows of one micrograph."""
    scope = _Scope("micrograph", field.name, (field,), classes, 0 if finished else 1)
    return scope.rows()


def group_rows(
    scope: str, name: str, members: Sequence[Field], classes: Sequence[ClassSpec], unfinished: int
) -> list[IntervalRow]:
    """The rows of a group of micrographs, or of an archive.

    Args:
        scope: `group` or `archive`.
        name: Of the group.
        members: Its micrographs, one or more.
        classes: The classes.
        unfinished: Micrographs of it that have no mask yet: the figures are partial.
    """
    return _Scope(scope, name, tuple(members), classes, unfinished).rows()


@dataclass(frozen=True)
class _Scope:
    scope: str
    name: str
    members: tuple[Field, ...]
    classes: Sequence[ClassSpec]
    unfinished: int

    def rows(self) -> list[IntervalRow]:
        measured = np.array([member.measured for member in self.members])
        between = between_micrographs(measured, np.array([member.fractions for member in self.members]))
        methods, kinds = list(self.members[0].corrections), kinds_of(self.members)
        corrected = {method: self._corrected(measured, method) for method in methods}
        rows = []
        for index in range(len(self.classes)):
            sampling = self._sampling(index, None)
            rows.append(self._row(index, "sampling", sampling))
            if self.scope != "micrograph":
                rows.append(self._row(index, "micrographs", between[index]))
            for method in methods:
                value = corrected[method][index].value
                rows.append(self._row(index, f"model_{method}", self._model(index, method, value, alone=True)))
            rows += [self._row(index, kind, spread_between(self.members, kind, index)) for kind in kinds]
            if methods or kinds:
                rows.append(self._row(index, "combined", self._combined(index, between, corrected)))
        return rows

    def _sampling(self, index: int, method: Method | None) -> Estimate:
        """Within the fields, each an independent sample."""
        known = [member for member in self.members if member.measured]
        total = sum(member.measured for member in known)
        if not total:
            return Estimate(math.nan, reason="nothing was measured")
        found = Estimate(0.0, 0.0)
        value = 0.0
        for member in known:
            errors = member.sampling if method is None else member.corrected_sampling[method]
            share, error = member.measured / total, errors[index]
            value += share * error.fraction
            found = found.plus(Estimate(0.0, share**2 * error.variance, error.degrees_of_freedom, error.reason))
        return Estimate(value, found.variance, found.degrees_of_freedom, found.reason)

    def _corrected(self, measured: NDArray[np.int64], method: Method) -> list[Estimate]:
        shares = np.array([member.corrections[method].corrected(member.fractions) for member in self.members])
        return between_micrographs(measured, shares)

    def _model(self, index: int, method: Method, value: float, *, alone: bool) -> Estimate:
        """The model's error; not alone, without the part that the spread between the corrected micrographs holds already."""
        correction = self.members[0].corrections[method]
        # Equal corrections for all members, or each group's own: the fewest units bound what is known.
        for member in self.members:
            if member.corrections[method].units < correction.units:
                correction = member.corrections[method]
        error = correction.standard_error(len(self.members) if alone else None)
        found = Estimate(value, float(error[index]) ** 2, correction.degrees_of_freedom, correction.reason)
        return _said(found) if alone else found

    def _combined(
        self, index: int, between: Sequence[Estimate], corrected: Mapping[Method, Sequence[Estimate]]
    ) -> Estimate:
        """Every part that there is: of the corrected fraction where a test set corrects it."""
        method, reason = _best(corrected)
        several = len(self.members) >= MIN_UNITS
        found = self._sampling(index, method) if not several else (corrected[method] if method else between)[index]
        if method is not None:
            found = found.plus(replace(self._model(index, method, 0.0, alone=not several), reason=reason))
        for kind in kinds_of(self.members):
            found = found.plus(spread_between(self.members, kind, index, method))
        return found if method is None else _said(found)

    def _row(self, index: int, part: str, found: Estimate) -> IntervalRow:
        measured = sum(member.measured for member in self.members)
        pixels = sum(int(member.counts[index]) for member in self.members)
        interval = bounded_interval(found.value, found.variance, found.degrees_of_freedom)
        more = self._more(part, found, measured)
        known = interval is not None
        return IntervalRow(
            scope=self.scope,
            name=self.name,
            class_index=index,
            class_name=self.classes[index].name,
            part=part,
            micrographs=len(self.members),
            unfinished_micrographs=self.unfinished,
            area_fraction=pixels / measured if measured else None,
            estimate=None if math.isnan(found.value) else found.value,
            standard_error=math.sqrt(found.variance) if known else None,
            low=None if interval is None else interval.low,
            high=None if interval is None else interval.high,
            degrees_of_freedom=float(found.degrees_of_freedom) if known else None,
            integral_range_px=self._integral_range(part, found, measured),
            effective_count=independent_features(found.value, found.variance) if part == "sampling" else None,
            more_px_absolute=more["px_absolute"],
            more_px_relative=more["px_relative"],
            more_um2_absolute=more["um2_absolute"],
            more_um2_relative=more["um2_relative"],
            more_micrographs_absolute=_whole(more["micrographs_absolute"]),
            more_micrographs_relative=_whole(more["micrographs_relative"]),
            reason=found.reason,
        )

    def _integral_range(self, part: str, found: Estimate, measured: int) -> float | None:
        if part != "sampling" or not found.variance > 0 or not 0 < found.value < 1:
            return None
        return found.variance * measured / (found.value * (1 - found.value))

    def _more(self, part: str, found: Estimate, measured: int) -> dict[str, float | None]:
        """What is still to be measured for the aim, in pixels, um2 and micrographs."""
        area = _pixel_area(self.members)
        more: dict[str, float | None] = {}
        for kind, aim in (("absolute", AIM), ("relative", AIM * found.value)):
            pixels = count = None
            if part == "sampling" and found.variance > 0 and aim > 0:
                from scipy.special import ndtri

                wanted = measured * found.variance * float(ndtri((1 + LEVEL) / 2)) ** 2 / aim**2
                pixels = max(0.0, math.ceil(wanted) - measured)
            if part == "micrographs":
                wanted_count = needed(found.variance * len(self.members), aim)
                count = None if wanted_count is None else max(0, wanted_count - len(self.members))
            more[f"px_{kind}"] = pixels
            more[f"um2_{kind}"] = None if pixels is None or area is None else pixels * area
            more[f"micrographs_{kind}"] = count
        return more


def _best(corrected: Mapping[Method, Sequence[Estimate]]) -> tuple[Method | None, str]:
    """The method that combined intervals are corrected by, and what is to be said of it.

    The first one that leaves all classes of the scope within 0 and 1, else the last, `stratified`, which always does.
    """
    left: list[Method] = []
    for method, found in corrected.items():
        if all(0 <= each.value <= 1 or math.isnan(each.value) for each in found):
            return method, f"{', '.join(left)} gives fractions below 0 or above 1, so {method} is used" if left else ""
        left.append(method)
    return (left[-1], "") if left else (None, "")


def _said(found: Estimate) -> Estimate:
    """A corrected fraction, with a reason where the test set does not suit it or says little."""
    interval = bounded_interval(found.value, found.variance, found.degrees_of_freedom)
    reasons = [found.reason] if found.reason else []
    if not (0 <= found.value <= 1 or math.isnan(found.value)):
        reasons.append("below 0 or above 1: the rates of the test set do not hold for what was measured")
    if interval is not None and interval.high - interval.low > 2 * _WIDE:
        reasons.append(
            "the model errs very differently from one test micrograph to the next: the correction says little"
        )
    return replace(found, reason="; ".join(reasons))


def _whole(number: float | None) -> int | None:
    return None if number is None else int(number)


def _pixel_area(members: Sequence[Field]) -> float | None:
    """The one area of a pixel in um2, None where micrographs have none or several."""
    areas = {
        None if member.pixel_size_um is None else member.pixel_size_um[0] * member.pixel_size_um[1]
        for member in members
    }
    return areas.pop() if len(areas) == 1 else None
