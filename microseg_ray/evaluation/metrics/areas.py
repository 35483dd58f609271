"""Errors of area fractions.

The agreement of two methods is described by the mean of their differences (bias) and the limits that contain 95 % of
them (Bland and Altman, Lancet 327:307, 1986). False positives and false negatives cancel in an area, so a model with a
lower pixel accuracy can have better areas; pixel metrics do not show this.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.evaluation.metrics.undefined import none_if_undefined

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.evaluation.metrics.confusion import ConfusionMatrix

__all__ = ["AreaErrors", "area_fraction_errors", "percentages"]

_LIMIT = 1.96  # standard deviations on either side that contain 95 % of a normal distribution


@dataclass(frozen=True, eq=False)
class AreaErrors:
    """True and predicted area fractions of whole micrographs, and their differences.

    Attributes:
        names: Micrographs, in order.
        true: (n, K) float64 area fractions of the true masks.
        predicted: (n, K) float64 area fractions of the predictions, over the same labelled pixels.

    Example:
        >>> errors = AreaErrors(("a", "b"), np.array([[0.5, 0.5], [0.8, 0.2]]), np.array([[0.6, 0.4], [0.8, 0.2]]))
        >>> errors.mean_absolute.round(3).tolist(), errors.bias.round(3).tolist()
        ([0.05, 0.05], [0.05, -0.05])
    """

    names: tuple[str, ...]
    true: NDArray[np.float64]
    predicted: NDArray[np.float64]

    @property
    def difference(self) -> NDArray[np.float64]:
        """Predicted minus true, (n, K)."""
        return self.predicted - self.true

    @property
    def mean_absolute(self) -> NDArray[np.float64]:
        """Mean of the absolute differences, (K,); nan without a micrograph."""
        return _mean(np.abs(self.difference))

    @property
    def mean_absolute_error(self) -> float:
        """Mean of `mean_absolute` over the classes: one number for model selection, lower is better."""
        return float(self.mean_absolute.mean())

    @property
    def bias(self) -> NDArray[np.float64]:
        """Mean difference, (K,); positive if a class is overestimated."""
        return _mean(self.difference)

    @property
    def limits_of_agreement(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Bias minus and plus 1.96 standard deviations of the differences (n - 1 in the divisor), each (K,).

        nan with fewer than two micrographs.
        """
        if len(self.names) < 2:
            undefined = np.full(self.true.shape[1], np.nan)
            return undefined, undefined.copy()
        spread = _LIMIT * self.difference.std(axis=0, ddof=1)
        return self.bias - spread, self.bias + spread

    def document(self, classes: Sequence[str]) -> dict[str, Any]:
        """The summary for metrics.json; None for nan."""
        low, high = self.limits_of_agreement
        columns = {
            "mean_absolute_error": self.mean_absolute,
            "bias": self.bias,
            "limit_low": low,
            "limit_high": high,
        }
        figures = {
            name: {key: none_if_undefined(values[index]) for key, values in columns.items()}
            for index, name in enumerate(classes)
        }
        return {
            "micrographs": len(self.names),
            "mean_absolute_error": none_if_undefined(self.mean_absolute_error),
            "classes": figures,
        }


def area_fraction_errors(matrices: Mapping[str, ConfusionMatrix]) -> AreaErrors:
    """Area fractions of whole micrographs, true and predicted.

    Args:
        matrices: The confusion matrix of each micrograph, by name, all with the same number of classes. Only
            labelled pixels count, in truth and prediction; a micrograph without any is left out.

    Raises:
        ValueError: No matrix is given.

    Example:
        >>> from microseg_ray.evaluation.metrics import ConfusionMatrix
        >>> area_fraction_errors({"a": ConfusionMatrix(np.array([[6, 2], [0, 8]]))}).mean_absolute_error
        0.125
    """
    if not matrices:
        raise ValueError("no confusion matrix is given, so there are no areas to compare")
    measured = {name: matrix.counts for name, matrix in matrices.items() if matrix.counts.any()}
    classes = next(iter(matrices.values())).classes
    true = np.array([counts.sum(axis=1) / counts.sum() for counts in measured.values()])
    predicted = np.array([counts.sum(axis=0) / counts.sum() for counts in measured.values()])
    return AreaErrors(tuple(measured), true.reshape(-1, classes), predicted.reshape(-1, classes))


def percentages(counts: Sequence[int] | NDArray[np.int64], digits: int = 4) -> tuple[str, ...]:
    """Shares in percent with a fixed number of decimals and a sum of exactly 100.

    Largest remainder method: all shares are rounded down, and the missing units go to the largest remainders, the first
    on a tie. No share is off by as much as one unit of the last digit.

    Args:
        counts: Pixels of each class.
        digits: Decimals.

    Returns:
        Text, because 33.3333 has no exact float. Empty strings if nothing is counted.

    Raises:
        ValueError: A negative count.

    Example:
        >>> percentages([1, 1, 1]), percentages([0, 0])
        (('33.3334', '33.3333', '33.3333'), ('', ''))
    """
    whole = [int(count) for count in counts]
    if any(count < 0 for count in whole):
        raise ValueError(f"counts {whole}: none may be negative")
    total, scale = sum(whole), 10**digits
    if not total:
        return tuple("" for _ in whole)
    units = [count * 100 * scale // total for count in whole]
    lost = [count * 100 * scale % total for count in whole]
    by_loss = sorted(range(len(whole)), key=lambda index: -lost[index])
    for index in by_loss[: 100 * scale - sum(units)]:
        units[index] += 1
    if not digits:
        return tuple(str(value) for value in units)
    return tuple(f"{value // scale}.{value % scale:0{digits}d}" for value in units)


def _mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
    if not len(values):
        return np.full(values.shape[1], np.nan)
    means: NDArray[np.float64] = values.mean(axis=0)
    return means
