"""Area fractions corrected by the confusion matrix of a test set, with the standard error that the model causes.

A model errs by a class's own rates, so the area that it finds is biased, however large the archive. Two corrections of the
predicted fractions p by rates from a test set:

* `stratified` (Olofsson et al., Remote Sens. Environ. 148:42, 2014; Buonaccorsi, Measurement Error, 2010, chapter 2, on
  reclassification rates): by the true classes of the pixels that are predicted as i, P(true j | predicted i). Always a fraction.
  It takes the test set to have classes in about the same proportions as what is measured.
* `inverse` (Buonaccorsi, the same chapter, on misclassification rates): by the predicted classes of the pixels that are truly j,
  P(predicted i | true j), a system of equations. It holds for other proportions too, but is unstable where a class is hardly
  recognised, and may leave 0 to 1.

Olofsson's own standard error takes test pixels to be independent. Pixels of a mask are not: the error of a model varies from
micrograph to micrograph. Here each test micrograph (or group of them) in turn is corrected by the rates of the others, and the
error that is left, against its true mask, is what the correction does to a micrograph that the test set has not seen. With s its
standard deviation over n test units, the model's standard error of the mean of m measured micrographs is s sqrt(1/n + 1/m).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.statistics.bootstrap import MIN_UNITS

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["METHODS", "Correction", "Method", "correction_matrix", "correction_of", "olofsson_standard_error"]

Method = Literal["stratified", "inverse"]
METHODS: tuple[Method, ...] = ("inverse", "stratified")
"""The first one that the test set allows is part of combined intervals: only it holds for other proportions."""

_WORST_CONDITION = 1e3


@dataclass(frozen=True, eq=False)
class Correction:
    """How predicted fractions are corrected, and how far corrected ones are off.

    Attributes:
        method: Which rates are used.
        matrix: (K, K) float64; corrected fractions are `matrix @ predicted`.
        spread: (K,) float64 standard deviation over test units of the error that is left; nan with one unit.
        bias: (K,) float64 mean of the same.
        units: Test units n.
        reason: Why there is no spread, or what the rates leave open; empty otherwise.
    """

    method: Method
    matrix: NDArray[np.float64]
    spread: NDArray[np.float64]
    bias: NDArray[np.float64]
    units: int
    reason: str = ""

    def corrected(self, fractions: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Corrected area fractions, (..., K)."""
        found: NDArray[np.float64] = fractions @ self.matrix.T
        return found

    def standard_error(self, measured: int | None) -> NDArray[np.float64]:
        """By the model alone, (K,).

        Args:
            measured: Of the corrected fraction of so many micrographs together; None: of the rates alone, where the spread
                between the measured micrographs is known otherwise.
        """
        return self.spread * math.sqrt(1 / self.units + (0 if measured is None else 1 / measured))

    @property
    def degrees_of_freedom(self) -> int:
        """Of the standard error."""
        return self.units - 1


def correction_matrix(confusion: NDArray[np.integer[Any]], method: Method = "stratified") -> NDArray[np.float64]:
    """The matrix that corrects predicted fractions.

    Args:
        confusion: (K, K) pixels, (true, predicted).
        method: Which rates are used.

    Returns:
        (K, K) float64. A class that the test set never predicts (`stratified`) or never holds (`inverse`) is left as it is.

    Raises:
        ValueError: The rates of `inverse` cannot be inverted: a class is not told from another one.

    Example:
        >>> confusion = np.array([[90, 10], [5, 95]])
        >>> [(correction_matrix(confusion, method) @ [0.475, 0.525]).round(3).tolist() for method in METHODS]
        [[0.5, 0.5], [0.5, 0.5]]
    """
    counts = confusion.astype(np.float64)
    if method == "stratified":
        totals = counts.sum(axis=0)
        matrix = np.divide(counts, totals, out=np.eye(len(counts)), where=totals > 0)
        return np.asarray(matrix, np.float64)
    totals = counts.sum(axis=1, keepdims=True)
    rates = np.divide(counts, totals, out=np.eye(len(counts)), where=totals > 0).T
    if np.linalg.cond(rates) > _WORST_CONDITION:
        raise ValueError("the rates of the test set cannot be inverted: a class is hardly recognised")
    return np.asarray(np.linalg.inv(rates), np.float64)


def correction_of(confusions: NDArray[np.integer[Any]], method: Method = "stratified") -> Correction:
    """The correction of a test set, with the errors that it leaves in micrographs that it was not made from.

    Args:
        confusions: (n, K, K) pixels of each test unit, (true, predicted); units without a pixel are left out.
        method: Which rates are used.

    Raises:
        ValueError: No pixel, or rates that cannot be inverted.

    Example:
        >>> generator = np.random.default_rng(0)
        >>> units = np.stack([generator.multinomial(1000, [0.4, 0.1, 0.05, 0.45]).reshape(2, 2) for _ in range(20)])
        >>> found = correction_of(units)
        >>> found.corrected(np.array([0.45, 0.55])).round(2).tolist(), found.spread.round(2).tolist()
        ([0.5, 0.5], [0.01, 0.01])
    """
    units = confusions[confusions.sum(axis=(1, 2)) > 0].astype(np.int64)
    if not len(units):
        raise ValueError("the test set holds no pixel with both a true and a predicted class")
    pooled = units.sum(axis=0)
    matrix = correction_matrix(pooled, method)
    classes = pooled.shape[0]
    if len(units) < MIN_UNITS:
        unknown = np.full(classes, np.nan)
        reason = "one test unit: nothing is known of how the error varies"
        return Correction(method, matrix, unknown, unknown.copy(), len(units), reason)
    left = []
    for unit in units:
        other = correction_matrix(pooled - unit, method)
        left.append((other @ unit.sum(axis=0) - unit.sum(axis=1)) / unit.sum())
    errors = np.array(left)
    without = np.flatnonzero(pooled.sum(axis=0 if method == "stratified" else 1) == 0)
    reason = f"class {int(without[0])} is not in the test set, and is left as predicted" if len(without) else ""
    return Correction(method, matrix, errors.std(axis=0, ddof=1), errors.mean(axis=0), len(units), reason)


def olofsson_standard_error(
    predicted: NDArray[np.floating[Any]], confusion: NDArray[np.integer[Any]]
) -> NDArray[np.float64]:
    """Standard error of stratified fractions from n independent test pixels (Olofsson et al. 2014).

    For masks of whole test micrographs it is many times too small, because their pixels are not independent; use
    `correction_of`. It is for points that were drawn at random and judged one by one.

    Args:
        predicted: (K,) predicted area fractions W.
        confusion: (K, K) test pixels, (true, predicted).

    Returns:
        (K,) float64.

    Example:
        The example of their section 5 (deforestation, forest gain, stable forest, stable non-forest): 235086 +- 68418 ha, of
        which the second number is 1.96 standard errors of 0.0262 of the area.

        >>> confusion = np.array([[66, 0, 1, 2], [0, 55, 0, 1], [5, 8, 153, 9], [4, 12, 11, 313]])
        >>> area = np.array([200_000, 150_000, 3_200_000, 6_450_000])
        >>> error = olofsson_standard_error(area / area.sum(), confusion)
        >>> (1.96 * error * area.sum()).round().astype(int).tolist()[0]
        68418
    """
    totals = confusion.sum(axis=0).astype(np.float64)
    share = np.divide(confusion, totals, out=np.zeros(confusion.shape), where=totals > 0)
    variance = predicted**2 * share * (1 - share) / np.maximum(totals - 1, 1)
    error: NDArray[np.float64] = np.sqrt(variance.sum(axis=1))
    return error
