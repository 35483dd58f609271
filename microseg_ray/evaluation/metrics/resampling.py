"""Figures of masks with their intervals, by resampling micrographs or groups of micrographs.

A resample is a count of each unit, and all figures follow from sums of confusion matrices, so a resample costs one product
of matrices whatever the size of the micrographs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.evaluation.metrics.undefined import none_if_undefined
from microseg_ray.statistics.bootstrap import LEVEL, MIN_UNITS, percentile_interval, resampled_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.evaluation.metrics.confusion import ConfusionMatrix

__all__ = ["OVERALL", "PER_CLASS", "Units", "difference_intervals", "figure_intervals", "units_of"]

OVERALL = ("pixel_accuracy", "mean_iou", "calibration_error")
PER_CLASS = ("iou", "f1", "area_mean_absolute_error", "area_bias")

# Share of 3000 simulated sets, of normal and of beta(8, 2) values, whose interval held the true mean, by the number of units.
# From 8 units on it is 0.93 to 0.95.
_COVERAGE_OF_FEW = {2: 0.49, 3: 0.75, 4: 0.88, 5: 0.90}


@dataclass(frozen=True, eq=False)
class Units:
    """What is resampled: sums over each unit of everything that the figures need.

    Attributes:
        names: Micrographs or groups, sorted.
        counts: (n, K, K) int64 confusion, (true, predicted).
        labelled: (n, K) int64 pixels of each true class that count: all, or those with a prediction.
        errors: (n, K) float64 sums over the unit's micrographs of predicted minus true area fraction.
        absolute: (n, K) float64 sums of the absolute values of the same.
        micrographs: (n,) int64 micrographs with an area fraction.
        gaps: (n, bins) float64 sums over pixels of correct minus confidence, by bin of confidence; without probabilities (n, 0).
    """

    names: tuple[str, ...]
    counts: NDArray[np.int64]
    labelled: NDArray[np.int64]
    errors: NDArray[np.float64]
    absolute: NDArray[np.float64]
    micrographs: NDArray[np.int64]
    gaps: NDArray[np.float64]

    def figures(self, weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        """Pooled figures of each resample.

        Args:
            weights: (B, n) how often each unit counts.

        Returns:
            By name: (B,) for `OVERALL`, (B, K) for `PER_CLASS`; nan where undefined.
        """
        classes = self.counts.shape[1]
        # float64 is exact for sums below 2**53, and its products are far faster than those of integers.
        share = weights.astype(np.float64)
        pooled = (share @ self.counts.reshape(len(self.names), -1)).reshape(-1, classes, classes)
        labelled = share @ self.labelled
        hits, predicted = np.diagonal(pooled, axis1=1, axis2=2), pooled.sum(axis=1)
        iou = _ratio(hits, labelled + predicted - hits)
        micrographs = (share @ self.micrographs)[:, None]
        defined = (~np.isnan(iou)).sum(axis=1)
        return {
            "pixel_accuracy": _ratio(hits.sum(axis=1), labelled.sum(axis=1)),
            "mean_iou": _ratio(np.nansum(iou, axis=1), defined),
            "calibration_error": _ratio(
                np.abs(share @ self.gaps).sum(axis=1), pooled.sum(axis=(1, 2)) if self.gaps.size else 0 * share[:, 0]
            ),
            "iou": iou,
            "f1": _ratio(2 * hits, labelled + predicted),
            "area_mean_absolute_error": _ratio(share @ self.absolute, micrographs),
            "area_bias": _ratio(share @ self.errors, micrographs),
        }


def units_of(
    matrices: Mapping[str, ConfusionMatrix],
    groups: Mapping[str, str],
    gaps: Mapping[str, NDArray[np.float64]] | None = None,
) -> Units:
    """Sum micrographs into the units that are resampled.

    Args:
        matrices: By micrograph, one or more.
        groups: The group of each micrograph; micrographs of one group are not independent and are drawn together.
        gaps: By micrograph, the sums of correct minus confidence in each bin; None without probabilities.

    Example:
        >>> from microseg_ray.evaluation.metrics import ConfusionMatrix
        >>> one = ConfusionMatrix(np.array([[3, 1], [0, 4]]))
        >>> units = units_of({"a": one, "b": one, "c": one}, {"a": "x", "b": "x", "c": "y"})
        >>> units.names, units.counts[0].tolist(), units.micrographs.tolist()
        (('x', 'y'), [[6, 2], [0, 8]], [2, 1])
    """
    names = tuple(sorted({groups[name] for name in matrices}))
    index = {name: number for number, name in enumerate(names)}
    place = np.array([index[groups[name]] for name in matrices], np.intp)
    counts = np.stack([matrix.counts for matrix in matrices.values()])
    labelled = np.stack([matrix.support for matrix in matrices.values()])
    totals = counts.sum(axis=(1, 2))
    error = np.nan_to_num(_ratio(counts.sum(axis=1) - counts.sum(axis=2), totals[:, None]))
    gap = np.zeros((len(place), 0)) if gaps is None else np.stack([gaps[name] for name in matrices])

    def summed(values: NDArray[Any]) -> NDArray[Any]:
        total = np.zeros((len(names), *values.shape[1:]), values.dtype)
        np.add.at(total, place, values)
        return total

    return Units(
        names,
        summed(counts),
        summed(labelled),
        summed(error),
        summed(np.abs(error)),
        summed((totals > 0).astype(np.int64)),
        summed(gap),
    )


def figure_intervals(units: Units, classes: Sequence[str], resamples: int, seed: int) -> dict[str, Any]:
    """Every figure with its 95 % interval over the units, as plain JSON types.

    Args:
        units: What is resampled.
        classes: Names.
        resamples: How many.
        seed: Of the draw.

    Returns:
        `value`, `low` and `high` of each figure; `low` and `high` are None, and `reason` says why, with one unit.

    Example:
        >>> from microseg_ray.evaluation.metrics import ConfusionMatrix
        >>> matrices = {name: ConfusionMatrix(np.array([[3, 1], [0, 4 + size]])) for size, name in enumerate("abcd")}
        >>> found = figure_intervals(units_of(matrices, {name: name for name in "abcd"}), ["clay", "pore"], 500, seed=0)
        >>> {key: round(value, 2) for key, value in found["pixel_accuracy"].items()}
        {'value': 0.89, 'low': 0.88, 'high': 0.91}
        >>> figure_intervals(units_of({"a": matrices["a"]}, {"a": "a"}), ["clay", "pore"], 500, seed=0)["reason"]
        'one unit: nothing is known of the spread between units'
    """
    value = units.figures(np.ones((1, len(units.names)), np.int64))
    drawn = _drawn(units.figures, len(units.names), resamples, seed)
    return _head(units, resamples) | _document(value, drawn, len(units.names), classes)


def difference_intervals(
    ours: Units, theirs: Units, classes: Sequence[str], resamples: int, seed: int
) -> dict[str, Any]:
    """Figures of one prediction minus those of another on the same units, with 95 % intervals.

    Both are resampled together, so what makes a micrograph hard for both does not widen the interval.

    Args:
        ours: One prediction.
        theirs: The other one, of the same units.
        classes: Names.
        resamples: How many.
        seed: Of the draw.

    Returns:
        `ours`, `theirs`, `value` (the difference), `low`, `high`, and `share_above`, the share of the resamples in which ours
        is the higher one.

    Raises:
        ValueError: The units differ.
    """
    if ours.names != theirs.names:
        raise ValueError(f"units {ours.names} and {theirs.names} differ; a paired comparison takes the same ones")
    once = np.ones((1, len(ours.names)), np.int64)
    first, second = ours.figures(once), theirs.figures(once)

    def differences(weights: NDArray[np.int64]) -> dict[str, NDArray[np.float64]]:
        mine, other = ours.figures(weights), theirs.figures(weights)
        return {name: mine[name] - other[name] for name in mine}

    drawn = _drawn(differences, len(ours.names), resamples, seed)
    document = _document(differences(once), drawn, len(ours.names), classes)

    def beside(figures: dict[str, Any], name: str, column: int | None) -> None:
        pick = (slice(None),) if column is None else (slice(None), column)
        figures |= {
            "ours": none_if_undefined(first[name][pick][0]),
            "theirs": none_if_undefined(second[name][pick][0]),
            "share_above": None if drawn is None else _share_above(drawn[name][pick]),
        }

    for name in OVERALL:
        beside(document[name], name, None)
    for index, label in enumerate(classes):
        for name in PER_CLASS:
            beside(document["classes"][label][name], name, index)
    return _head(ours, resamples) | document


def _drawn(
    figures: Callable[[NDArray[np.int64]], dict[str, NDArray[np.float64]]], units: int, resamples: int, seed: int
) -> dict[str, NDArray[np.float64]] | None:
    """Figures of all resamples; None with one unit."""
    if units < MIN_UNITS:
        return None
    parts = [figures(weights) for weights in resampled_counts(units, resamples, seed)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _head(units: Units, resamples: int) -> dict[str, Any]:
    count = len(units.names)
    reason = ""
    if count < MIN_UNITS:
        reason = "one unit: nothing is known of the spread between units"
    elif count in _COVERAGE_OF_FEW:
        share = _COVERAGE_OF_FEW[count]
        reason = (
            f"{count} units are few: in simulations such an interval held the true mean in {share:.0%}, not {LEVEL:.0%}"
        )
    return {
        "level": LEVEL,
        "method": "expanded percentile bootstrap over units (Hesterberg 2015)",
        "resamples": 0 if count < MIN_UNITS else resamples,
        "units": count,
        "reason": reason,
    }


def _document(
    value: Mapping[str, NDArray[np.float64]],
    drawn: Mapping[str, NDArray[np.float64]] | None,
    units: int,
    classes: Sequence[str],
) -> dict[str, Any]:
    ends = {}
    for name, figures in value.items():
        undefined = np.full(figures.shape[1:], np.nan)
        ends[name] = (undefined, undefined) if drawn is None else percentile_interval(drawn[name], units)

    def entry(name: str, pick: tuple[int, ...]) -> dict[str, Any]:
        low, high = (float(end[pick]) for end in ends[name])
        found = {"value": float(value[name][(0, *pick)]), "low": low, "high": high}
        return {key: none_if_undefined(number) for key, number in found.items()}

    return {
        **{name: entry(name, ()) for name in OVERALL},
        "classes": {label: {name: entry(name, (index,)) for name in PER_CLASS} for index, label in enumerate(classes)},
    }


def _share_above(values: NDArray[np.float64]) -> float | None:
    defined = values[~np.isnan(values)]
    return float((defined > 0).mean()) if len(defined) else None


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    part, whole = np.broadcast_arrays(part, whole)
    found = np.full(part.shape, np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found
