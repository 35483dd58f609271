"""Calibration of probabilities: reliability curves, expected calibration error, temperature scaling.

Of the pixels that a model predicts as pore with a probability of 0.9, nine in ten should be pores. Networks are usually
overconfident; dividing the logits by one number, fitted on other micrographs, corrects most of it without changing masks
(Guo, Pleiss, Sun and Weinberger, "On calibration of modern neural networks", ICML 2017).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.evaluation.metrics.undefined import ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PixelSample", "Reliability", "Temperature", "fit_temperature", "log_probabilities", "tempered"]

BINS = 15
_SCALE = 1 << 24
"""Probabilities are summed as integer multiples of this fraction, so that sums do not depend on the order."""

_COOLEST, _HOTTEST = 0.05, 20.0


class Reliability:
    """Counts for reliability curves.

    Group 0 is the predicted class of each pixel with its probability (the confidence); group 1 + k is class k against
    all others. Bins are (l, r] of equal width, as scikit-learn's `calibration_curve`; probabilities of 0 are in the first.

    Args:
        counts: int64 (K + 1, 3, bins): pixels, correct pixels, sum of the probabilities in units of 2**-24.

    Example:
        >>> reliability = Reliability.zeros(2, bins=2)
        >>> scores = np.array([[0.75, 0.75, 0.25], [0.25, 0.25, 0.75]], np.float32)
        >>> reliability.update(np.array([0, 1, 1], np.uint8), scores, np.array([0, 0, 1], np.uint8))
        >>> reliability.confidence(0).tolist(), reliability.observed(0).round(2).tolist()
        ([nan, 0.75], [nan, 0.67])
        >>> round(reliability.expected_error(0), 4)
        0.0833
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        if counts.ndim != 3 or counts.shape[1] != 3:
            raise ValueError(f"reliability counts are (K + 1, 3, bins), not {counts.shape}")
        self.counts = counts

    @classmethod
    def zeros(cls, classes: int, bins: int = BINS) -> Reliability:
        """Counts of zero."""
        return cls(np.zeros((classes + 1, 3, bins), np.int64))

    @property
    def edges(self) -> NDArray[np.float64]:
        """Edges of the bins, (bins + 1,)."""
        return np.linspace(0, 1, self.counts.shape[2] + 1)

    def update(
        self, truth: NDArray[np.uint8], probabilities: NDArray[np.floating[Any]], prediction: NDArray[np.uint8]
    ) -> None:
        """Add pixels.

        Args:
            truth: True classes of any shape; values that are no class are not counted.
            probabilities: (K, *shape).
            prediction: Predicted classes, same shape as truth.
        """
        classes = len(self.counts) - 1
        known = (truth < classes) & (prediction < classes)
        labels, guesses = truth[known], prediction[known]
        scores = np.stack([plane[known] for plane in probabilities]).astype(np.float32)
        top = np.take_along_axis(scores, guesses[None].astype(np.intp), axis=0)[0]
        counts = [self._counted(top, guesses == labels)]
        counts += [self._counted(scores[index], labels == index) for index in range(classes)]
        self.counts = self.counts + np.stack(counts)

    def _counted(self, scores: NDArray[np.float32], right: NDArray[np.bool_]) -> NDArray[np.int64]:
        bins = self.counts.shape[2]
        place = np.searchsorted(self.edges[1:-1], scores)
        # Float sums of integers below 2**53 are exact.
        sums = np.bincount(place, np.rint(scores.astype(np.float64) * _SCALE), bins)
        return np.stack(
            [np.bincount(place, minlength=bins), np.bincount(place[right], minlength=bins), sums.astype(np.int64)]
        )

    def __add__(self, other: Reliability) -> Reliability:
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"reliabilities of {self.counts.shape} and {other.counts.shape} cannot be added")
        return Reliability(self.counts + other.counts)

    def confidence(self, group: int) -> NDArray[np.float64]:
        """Mean probability in each bin, (bins,); nan for an empty bin."""
        pixels, _, sums = self.counts[group]
        return ratio(sums, pixels) / _SCALE

    def observed(self, group: int) -> NDArray[np.float64]:
        """Observed frequency in each bin, (bins,); nan for an empty bin."""
        pixels, hits, _ = self.counts[group]
        return ratio(hits, pixels)

    def mean_confidence(self) -> float:
        """Mean probability of the predicted class; nan without pixels."""
        pixels, _, sums = self.counts[0]
        total = int(pixels.sum())
        return float(sums.sum() / _SCALE / total) if total else float("nan")

    def gaps(self) -> NDArray[np.float64]:
        """Sum over the pixels of each bin of correct minus confidence, (bins,); what `expected_error(0)` adds up."""
        _, hits, sums = self.counts[0]
        return np.asarray(hits - sums / _SCALE, np.float64)

    def expected_error(self, group: int) -> float:
        """Expected calibration error: mean |confidence - observed|, weighted by the pixels of the bins; nan without pixels."""
        pixels, hits, sums = self.counts[group]
        total = int(pixels.sum())
        return float(np.abs(hits - sums / _SCALE).sum() / total) if total else float("nan")


class PixelSample:
    """Log-probabilities of a random sample of labelled pixels of each micrograph; bounded memory.

    Args:
        classes: Number of classes K.
        quota: Maximum number of pixels kept from each part.
        seed: Seed of the sampling.

    Example:
        >>> sample = PixelSample(2, quota=1)
        >>> sample.add(np.array([0, 1, 255], np.uint8), np.array([[0.9, 0.2, 0.5], [0.1, 0.8, 0.5]], np.float32))
        >>> len(sample.labels)
        1
    """

    def __init__(self, classes: int, quota: int, seed: int = 0) -> None:
        self._classes, self._quota = classes, quota
        self._random = np.random.default_rng(seed)
        self._logs: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.uint8]] = []

    def add(self, truth: NDArray[np.uint8], probabilities: NDArray[np.floating[Any]]) -> None:
        """Sample pixels of a part of a micrograph: truth of any shape, probabilities (K, *shape)."""
        known = np.flatnonzero(truth.ravel() < self._classes)
        if len(known) > self._quota:
            known = np.sort(self._random.choice(known, self._quota, replace=False))
        self._labels.append(truth.ravel()[known])
        self._logs.append(log_probabilities(probabilities.reshape(len(probabilities), -1)[:, known]).T)

    @property
    def labels(self) -> NDArray[np.uint8]:
        """True classes of the sampled pixels, (n,)."""
        return np.concatenate(self._labels) if self._labels else np.zeros(0, np.uint8)

    @property
    def logs(self) -> NDArray[np.float32]:
        """Their log-probabilities, (n, K): logits up to a constant per pixel."""
        return np.concatenate(self._logs) if self._logs else np.zeros((0, self._classes), np.float32)


@dataclass(frozen=True)
class Temperature:
    """The number that logits are divided by.

    Attributes:
        value: The temperature; above 1 for an overconfident model.
        nll_before: Mean negative log-likelihood of the fitted pixels, as predicted.
        nll_after: The same with the temperature.
        pixels: Number of fitted pixels.
    """

    value: float
    nll_before: float
    nll_after: float
    pixels: int


def fit_temperature(logits: NDArray[np.floating[Any]], truth: NDArray[np.uint8]) -> Temperature:
    """Fit the temperature, from 0.05 to 20, with the lowest negative log-likelihood.

    The negative log-likelihood is convex in 1/T, so a bounded one-dimensional search (Brent) finds the minimum.

    Args:
        logits: (n, K) logits or log-probabilities.
        truth: (n,) true classes.

    Raises:
        ValueError: No pixels, or a label that is no class.

    Example:
        >>> sure = np.log(np.array([[0.99, 0.01]] * 4))
        >>> fitted = fit_temperature(sure, np.array([0, 0, 0, 1], np.uint8))  # right three times in four, not 99 in 100
        >>> round(float(np.exp(sure[0] / fitted.value)[0] / np.exp(sure[0] / fitted.value).sum()), 3)
        0.75
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    if not len(truth) or logits.shape[0] != len(truth) or int(truth.max()) >= logits.shape[1]:
        raise ValueError(
            f"logits of {logits.shape} do not fit {len(truth)} labels of classes 0 to {logits.shape[1] - 1}"
        )
    exact = logits.astype(np.float64)
    own = exact[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        cooled = np.exp(-log_temperature)
        return float((logsumexp(exact * cooled, axis=1) - own * cooled).mean())

    limits = (float(np.log(_COOLEST)), float(np.log(_HOTTEST)))
    found = minimize_scalar(loss, bounds=limits, method="bounded", options={"xatol": 1e-6})
    before = loss(0.0)
    if found.fun > before:
        return Temperature(1.0, before, before, len(truth))
    return Temperature(float(np.exp(found.x)), before, float(found.fun), len(truth))


def log_probabilities(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
    """Logarithms of probabilities; probabilities rounded to 0 get a finite floor.

    Example:
        >>> log_probabilities(np.array([1.0, 0.0], np.float32)).round(1).tolist()
        [0.0, -87.3...]
    """
    floor = 2.0**-25 if probabilities.dtype == np.float16 else float(np.finfo(np.float32).tiny)
    logs: NDArray[np.float32] = np.log(np.maximum(probabilities.astype(np.float32), np.float32(floor)))
    return logs


def tempered(probabilities: NDArray[np.floating[Any]], temperature: float) -> NDArray[np.float32]:
    """Probabilities for logits divided by a temperature.

    Args:
        probabilities: (K, ...) with a sum of 1 over the classes.
        temperature: Above 0.

    Returns:
        float32 of the same shape.

    Raises:
        ValueError: A temperature that is not above 0.

    Example:
        >>> tempered(np.array([0.9, 0.1], np.float32), 2.0).round(2).tolist()
        [0.75, 0.25]
    """
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: must be above 0")
    powers = log_probabilities(probabilities)
    powers /= np.float32(temperature)
    powers -= powers.max(axis=0)
    np.exp(powers, out=powers)
    powers /= powers.sum(axis=0)
    return powers
