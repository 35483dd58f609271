"""Probabilities against true masks: precision, recall and thresholds, from histograms that can be merged.

Each class is evaluated against all others. A pixel is positive at threshold t if its probability is **above** t, as in
`microseg threshold`. Bins include their upper edge, (k-1)/B < p <= k/B, with B a power of two, so the counts are exact
at the thresholds k/B; thresholds between two edges are not evaluated. Figures from the bins equal those that
scikit-learn computes from probabilities rounded up to k/B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.sources.probability_maps import PROBABILITY_SLACK

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CRITERIA", "Criterion", "ScoreHistogram", "ThresholdCurve", "exact_curve", "score_statistics"]

Criterion = Literal["f1", "f2", "f0.5", "iou"]
CRITERIA: tuple[Criterion, ...] = ("f1", "f2", "f0.5", "iou")
"""Criteria for the best threshold. F2 weighs recall, F0.5 precision (van Rijsbergen, 1979)."""

BINS = 4096
_EVERYTHING = -1.0  # a threshold below all probabilities
_CHUNK = 1 << 20


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Counts for one class at increasing thresholds.

    Attributes:
        thresholds: (N,) float64, increasing; a pixel is positive if its score is above the threshold.
        found: (N,) int64, true positives.
        wrong: (N,) int64, false positives.
        positives: Pixels of the class.
        negatives: Other pixels.

    Example:
        >>> curve = exact_curve(np.array([True, False, True]), np.array([0.9, 0.4, 0.6]))
        >>> curve.average_precision, curve.roc_auc, curve.best("f1")["threshold"]
        (1.0, 1.0, 0.4)
    """

    thresholds: NDArray[np.float64]
    found: NDArray[np.int64]
    wrong: NDArray[np.int64]
    positives: int
    negatives: int

    @property
    def precision(self) -> NDArray[np.float64]:
        """(N,); nan where no pixel is positive."""
        return _share(self.found, self.found + self.wrong)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(N,); nan if the class has no pixels."""
        return _share(self.found, np.full_like(self.found, self.positives))

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """Share of pixels that are true positives or true negatives, (N,)."""
        right = self.found + (self.negatives - self.wrong)
        return _share(right, np.full_like(right, self.positives + self.negatives))

    def score(self, criterion: Criterion) -> NDArray[np.float64]:
        """F1, F2, F0.5 or IoU at each threshold, (N,); nan where the class neither occurs nor is predicted."""
        if criterion == "iou":
            return _share(self.found, self.positives + self.wrong)
        square = float(criterion[1:]) ** 2
        return _share((1 + square) * self.found, square * self.positives + self.found + self.wrong)

    @property
    def average_precision(self) -> float:
        """Area under the precision-recall curve as a sum of steps; nan without positives.

        This is scikit-learn's `average_precision_score`.
        Precision is not interpolated between thresholds, because linear interpolation is too optimistic (Davis and
        Goadrich, ICML 2006).
        """
        if not self.positives:
            return float("nan")
        # From the highest threshold down: the increase in recall of each step, times its precision.
        found, total = self.found[::-1], (self.found + self.wrong)[::-1]
        gained = np.diff(found, prepend=0)
        return float((gained * (found / np.maximum(total, 1))).sum() / self.positives)

    @property
    def roc_auc(self) -> float:
        """Area under the ROC curve; nan without positives or without negatives.

        It is the probability that a positive scores above a negative, ties counting half. It is optimistic for rare
        classes; `average_precision` is not.
        """
        if not self.positives or not self.negatives:
            return float("nan")
        height = np.concatenate([self.found, [0]]) / self.positives
        width = -np.diff(np.concatenate([self.wrong, [0]])) / self.negatives
        return float((width * (height[:-1] + height[1:])).sum() / 2)

    def at(self, threshold: float) -> dict[str, float | None]:
        """All figures at one threshold, None where undefined; between two thresholds of the curve, those of the lower one.

        Raises:
            ValueError: The threshold is below the lowest of the curve.
        """
        place = int(np.searchsorted(self.thresholds, threshold, side="right")) - 1
        if place < 0:
            raise ValueError(f"threshold {threshold} is below {self.thresholds[0]}, the lowest of the curve")
        figures: dict[str, float] = {name: self.score(name)[place] for name in CRITERIA}
        figures |= {name: getattr(self, name)[place] for name in ("precision", "recall", "accuracy")}
        return {name: None if np.isnan(value) else float(value) for name, value in figures.items()}

    def best(self, criterion: Criterion) -> dict[str, float | None]:
        """The threshold with the highest value of a criterion, as `threshold`, and all figures at it.

        Of neighbouring thresholds with equal values the middle one is taken, which is the least sensitive.

        Raises:
            ValueError: The class neither occurs nor is predicted.
        """
        values = self.score(criterion)
        if np.isnan(values).all() or not self.positives:
            raise ValueError(f"no threshold is best for {criterion}: the class has no pixel")
        first = int(np.nanargmax(values))
        last = first
        while last + 1 < len(values) and values[last + 1] == values[first]:
            last += 1
        chosen = float(self.thresholds[(first + last) // 2])
        return {"threshold": chosen, **self.at(chosen)}


class ScoreHistogram:
    """Histograms of probabilities: per class, for its pixels and for all others; bounded memory.

    Args:
        counts: int64 (K, 2, B + 1): class, (other, of the class), bin. Bin 0 is for probabilities of exactly 0.

    Raises:
        ValueError: Wrong shape, or negative counts.

    Example:
        >>> histogram = ScoreHistogram.zeros(2, bins=4)
        >>> histogram.update(np.array([0, 1, 255], np.uint8), np.array([[0.8, 0.3, 0.5], [0.2, 0.7, 0.5]], np.float32))
        >>> histogram.counts[1].tolist()
        [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0]]
        >>> histogram.curve(1).best("iou")["threshold"]
        0.25
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        if counts.ndim != 3 or counts.shape[1] != 2 or counts.shape[2] < 2 or (counts < 0).any():
            raise ValueError(f"a histogram of scores is (K, 2, B + 1) counts, not {counts.shape}")
        self.counts = counts

    @classmethod
    def zeros(cls, classes: int, bins: int = BINS) -> ScoreHistogram:
        """An empty histogram.

        Args:
            classes: Number of classes K.
            bins: B, a power of two, so that float32 probabilities are binned without rounding.

        Raises:
            ValueError: `bins` is not a power of two from 2 to 65536.
        """
        if not 2 <= bins <= 1 << 16 or bins & (bins - 1):
            raise ValueError(f"{bins} bins: must be a power of two from 2 to 65536")
        return cls(np.zeros((classes, 2, bins + 1), np.int64))

    @property
    def bins(self) -> int:
        """Number of bins above 0."""
        return int(self.counts.shape[2]) - 1

    def update(self, truth: NDArray[np.uint8], probabilities: NDArray[np.floating[Any]]) -> None:
        """Add pixels.

        Args:
            truth: True classes of any shape; values that are no class, such as 255, are not counted.
            probabilities: (K, *shape of truth), float16 or float32.

        Raises:
            ValueError: Shapes do not match, or a labelled pixel's probability is not in 0 to 1; then nothing is added.
        """
        classes = len(self.counts)
        if probabilities.shape != (classes, *truth.shape):
            raise ValueError(f"probabilities of {probabilities.shape} do not fit {classes} classes and {truth.shape}")
        fresh = np.zeros_like(self.counts)
        labels = truth.ravel()
        planes = probabilities.reshape(classes, -1)
        for start in range(0, labels.size, _CHUNK):
            part = labels[start : start + _CHUNK]
            known = part < classes
            part = part[known]
            for index in range(classes):
                values = planes[index, start : start + _CHUNK][known].astype(np.float32)
                placed = _bins_of(values, self.bins)
                placed += (part == index) * (self.bins + 1)
                fresh[index] += np.bincount(placed, minlength=2 * (self.bins + 1)).reshape(2, -1)
        self.counts = self.counts + fresh

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"histograms of {self.counts.shape} and {other.counts.shape} cannot be added")
        return ScoreHistogram(self.counts + other.counts)

    def curve(self, index: int) -> ThresholdCurve:
        """The curve of one class at the thresholds -1 (all pixels are positive), 0, 1/B, 2/B ... 1."""
        others, own = self.counts[index]
        # Pixels above threshold k/B are in the bins after k.
        above = [np.concatenate([counts[::-1].cumsum()[::-1], [0]]) for counts in (own, others)]
        thresholds = np.concatenate([[_EVERYTHING], np.arange(self.bins + 1) / self.bins])
        return ThresholdCurve(thresholds, above[0], above[1], int(own.sum()), int(others.sum()))


def exact_curve(truth: NDArray[np.bool_], scores: NDArray[np.floating[Any]]) -> ThresholdCurve:
    """The exact curve of scores in memory, at every distinct score; any finite scores.

    Args:
        truth: bool (N,), which pixels are of the class.
        scores: (N,) higher for a more likely class.

    Raises:
        ValueError: Shapes differ, the arrays are empty, or a score is not finite.

    Example:
        >>> exact_curve(np.array([False, True]), np.array([0.25, 0.5])).thresholds[1:].tolist()
        [0.25, 0.5]
    """
    if truth.shape != scores.shape or truth.ndim != 1 or not truth.size:
        raise ValueError(f"truth of {truth.shape} and scores of {scores.shape}: give two arrays of one length above 0")
    if truth.dtype != np.bool_ or not np.isfinite(scores).all():
        raise ValueError("truth is bool (truth == index of the class), and all scores are finite")
    order = np.argsort(scores, kind="stable")
    ordered = scores[order].astype(np.float64)
    ends = np.flatnonzero(np.diff(ordered, append=np.inf))
    # Pixels up to and including each distinct score are not above it.
    below = np.cumsum(truth[order], dtype=np.int64)[ends]
    positives, counted = int(truth.sum()), ends + 1
    found = np.concatenate([[positives], positives - below])
    everything = np.concatenate([[truth.size], truth.size - counted])
    lowest = np.nextafter(ordered[0], -np.inf)
    return ThresholdCurve(
        np.concatenate([[lowest], ordered[ends]]), found, everything - found, positives, truth.size - positives
    )


def score_statistics(curve: ThresholdCurve) -> dict[str, Any]:
    """Statistics of one class's scores: areas under the curves, and the best thresholds.

    Returns:
        `aupr` and `auc`, None where undefined, and for each of `CRITERIA` the result of `ThresholdCurve.best`, None if
        the class has no pixel.

    Example:
        >>> found = score_statistics(exact_curve(np.array([False, True]), np.array([0.25, 0.5])))
        >>> found["aupr"], found["f2"]["threshold"], found["f2"]["accuracy"]
        (1.0, 0.25, 1.0)
    """
    plain = {"aupr": curve.average_precision, "auc": curve.roc_auc}
    figures: dict[str, Any] = {name: None if np.isnan(value) else value for name, value in plain.items()}
    figures |= {name: curve.best(name) if curve.positives else None for name in CRITERIA}
    return figures


def _bins_of(values: NDArray[np.float32], bins: int) -> NDArray[np.intp]:
    if not bool(((values >= -PROBABILITY_SLACK) & (values <= 1 + PROBABILITY_SLACK)).all()):
        wrong = values[~((values >= -PROBABILITY_SLACK) & (values <= 1 + PROBABILITY_SLACK))][0]
        raise ValueError(f"a probability is {wrong}; probabilities are from 0 to 1 (of {IGNORE_INDEX} no one asks)")
    placed: NDArray[np.intp] = np.ceil(values * np.float32(bins)).astype(np.intp)
    return np.clip(placed, 0, bins, out=placed)


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    share = np.full(len(part), np.nan)
    np.divide(part, whole, out=share, where=np.asarray(whole) > 0)
    return share
