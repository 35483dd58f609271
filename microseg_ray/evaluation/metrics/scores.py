"""Probabilities against true masks: precision, recall and thresholds, from histograms that can be merged.

Each class is evaluated against all others. A pixel is positive at threshold t if its probability is **above** t, as in
`microseg threshold`. Bins include their upper edge, so the counts are exact at the edges (`EDGES`); thresholds between two
edges are not evaluated. Figures from the bins equal those that scikit-learn computes from probabilities rounded up to the
next edge. The edges are k/4096 from 1/32 to 31/32, and 256 to each factor of two of p or 1 - p outside of that: the
probabilities of a rare class may all be below 1/4096 and still be ordered well.
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

_STEPS = 4096
_PER_OCTAVE = 256
_LINEAR_FROM = 5  # octaves below 1: edges are k/4096 above 2**-5
_LOWEST = 64  # octaves below 1: probabilities up to 2**-64 share a bin
_HIGHEST = 24  # octaves: no float32 lies between 1 - 2**-24 and 1


def _edges() -> NDArray[np.float64]:
    """Upper edges of the bins, increasing from 0 to 1; all are exact in float64, and symmetric about 1/2 from 2**-24 up."""
    within = 1 + np.arange(_PER_OCTAVE) / _PER_OCTAVE
    low = np.concatenate([within * 2.0**-octave for octave in range(_LOWEST, _LINEAR_FROM, -1)])
    near_one = 1 - np.concatenate([within * 2.0**-octave for octave in range(_HIGHEST, _LINEAR_FROM, -1)])
    margin = _STEPS >> _LINEAR_FROM
    middle = np.arange(margin, _STEPS - margin + 1) / _STEPS
    return np.concatenate([[0.0], low, middle, near_one[::-1], [1.0]])


EDGES: NDArray[np.float64] = _edges()
"""Upper edges of the bins, (23811,) float64: bin 0 is for probabilities of 0, bin k for those in (EDGES[k - 1], EDGES[k]]."""

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

        Of neighbouring thresholds with equal values the one in the middle of their range is taken, which is the least
        sensitive.

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
        # The lowest threshold stands for "all pixels" and has no place on the scale of the others.
        low = min(first + 1, last) if first == 0 else first
        middle = (self.thresholds[low] + self.thresholds[last]) / 2
        chosen = float(self.thresholds[int(np.searchsorted(self.thresholds, middle, side="right")) - 1])
        return {"threshold": chosen, **self.at(chosen)}


class ScoreHistogram:
    """Histograms of probabilities: per class, for its pixels and for all others; bounded memory.

    Args:
        counts: int64 (K, 2, len(EDGES)): class, (other, of the class), bin. Bin 0 is for probabilities of exactly 0.

    Raises:
        ValueError: Wrong shape, or negative counts.

    Example:
        >>> histogram = ScoreHistogram.zeros(2)
        >>> histogram.update(np.array([0, 1, 255], np.uint8), np.array([[0.75, 0.25, 0.5], [0.25, 0.75, 0.5]], np.float32))
        >>> histogram.counts.sum(axis=2).tolist()
        [[1, 1], [1, 1]]
        >>> histogram.curve(1).best("iou")["threshold"]
        0.499755859375
    """

    def __init__(self, counts: NDArray[np.int64]) -> None:
        if counts.ndim != 3 or counts.shape[1:] != (2, len(EDGES)) or (counts < 0).any():
            raise ValueError(f"a histogram of scores is (K, 2, {len(EDGES)}) counts, not {counts.shape}")
        self.counts = counts

    @classmethod
    def zeros(cls, classes: int) -> ScoreHistogram:
        """An empty histogram of `classes` classes."""
        return cls(np.zeros((classes, 2, len(EDGES)), np.int64))

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
                placed = _bins_of(values)
                placed += (part == index) * np.int32(len(EDGES))
                fresh[index] += np.bincount(placed, minlength=2 * len(EDGES)).reshape(2, -1)
        self.counts = self.counts + fresh

    def __add__(self, other: ScoreHistogram) -> ScoreHistogram:
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"histograms of {self.counts.shape} and {other.counts.shape} cannot be added")
        return ScoreHistogram(self.counts + other.counts)

    def curve(self, index: int) -> ThresholdCurve:
        """The curve of one class at the thresholds -1 (all pixels are positive) and `EDGES`."""
        others, own = self.counts[index]
        # Pixels above the upper edge of a bin are in the bins after it.
        above = [np.concatenate([counts[::-1].cumsum()[::-1], [0]]) for counts in (own, others)]
        thresholds = np.concatenate([[_EVERYTHING], EDGES])
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


def _bins_of(values: NDArray[np.float32]) -> NDArray[np.int32]:
    """The bin of each probability, `np.searchsorted(EDGES, values)`, several times faster."""
    if not bool(((values >= -PROBABILITY_SLACK) & (values <= 1 + PROBABILITY_SLACK)).all()):
        wrong = values[~((values >= -PROBABILITY_SLACK) & (values <= 1 + PROBABILITY_SLACK))][0]
        raise ValueError(f"a probability is {wrong}; probabilities are from 0 to 1 (of {IGNORE_INDEX} no one asks)")
    # The sum turns -0.0, whose bits are those of a large number, into 0.0.
    values = np.clip(values, np.float32(0), np.float32(1)) + np.float32(0)
    near = np.minimum(values, 1 - values)
    high = (values > near).view(np.uint8)
    cells = near.view(np.uint32) + np.uint32(_CELL - 1)
    cells += high
    cells >>= np.uint32(_CELL_BITS)
    cells += high * np.uint32(_CELLS)
    placed: NDArray[np.int32] = _BIN_OF_CELL[cells]
    return placed


_CELL_BITS = 13
_CELL = 1 << _CELL_BITS
_CELLS = (0x3F000000 >> _CELL_BITS) + 2  # 0x3F000000 are the bits of 1/2


def _bin_of_cell() -> NDArray[np.int32]:
    """The bin of each cell of p up to 1/2, then of each cell of 1 - p.

    A cell is the exponent and 10 bits of the mantissa of a float32 from 0 to 1/2. The edges of the bins, and their
    distances from 1, have at most 10 bits there, so that no cell lies in two bins. A cell of p includes its upper end as the
    bins do, cell 0 is 0 alone; a cell of 1 - p includes its lower end, and cell 1 begins at 0.
    """
    ends = (np.arange(_CELLS, dtype=np.uint32) << np.uint32(_CELL_BITS)).view(np.float32).astype(np.float64)
    begins = np.concatenate([[0.0], ends[:-1]])
    return np.searchsorted(EDGES, np.concatenate([ends, 1 - begins])).astype(np.int32)


_BIN_OF_CELL = _bin_of_cell()


def _share(part: NDArray[Any], whole: NDArray[Any]) -> NDArray[np.float64]:
    share = np.full(len(part), np.nan)
    np.divide(part, whole, out=share, where=np.asarray(whole) > 0)
    return share
