"""Judging one micrograph after the other: counts that are added up, whatever the size of the data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.evaluation.metrics import (
    CRITERIA,
    BoundaryCounts,
    ConfusionMatrix,
    PixelSample,
    Reliability,
    ScoreHistogram,
    Temperature,
    boundary_counts,
    fit_temperature,
)
from microseg_ray.evaluation.metrics.calibration import tempered

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from microseg_ray.evaluation.pairs import Pair
    from microseg_ray.geometry import Box

__all__ = ["Calibration", "CalibrationSample", "Judge", "Scores", "Tally"]

_CSURKA = 0.0075
_SAMPLED = 1 << 20
"""Pixels that a temperature is fitted on, at most: its standard error is far below what matters."""


@dataclass(frozen=True, eq=False)
class Scores:
    """Probabilities against true masks.

    Attributes:
        histogram: For thresholds.
        reliability: As predicted.
        tempered: With the temperature that was fitted on other micrographs; None without one.
    """

    histogram: ScoreHistogram
    reliability: Reliability
    tempered: Reliability | None

    def __add__(self, other: Scores) -> Scores:
        both = None if self.tempered is None or other.tempered is None else self.tempered + other.tempered
        return Scores(self.histogram + other.histogram, self.reliability + other.reliability, both)


@dataclass(frozen=True, eq=False)
class Tally:
    """Counts of one micrograph, or of all together.

    Attributes:
        matrix: Pixels of each true class by predicted class.
        boundary: Counts of boundary pixels, and of those that match.
        scores: Histograms of the probabilities, if there are any.
    """

    matrix: ConfusionMatrix
    boundary: BoundaryCounts
    scores: Scores | None

    def __add__(self, other: Tally) -> Tally:
        scores = self.scores if other.scores is None else other.scores
        if self.scores is not None and other.scores is not None:
            scores = self.scores + other.scores
        return Tally(self.matrix + other.matrix, self.boundary + other.boundary, scores)


@dataclass(frozen=True, eq=False)
class Calibration:
    """What was chosen on micrographs that are not judged.

    Attributes:
        split: Theirs.
        micrographs: How many.
        temperature: What the logits are to be divided by.
        thresholds: The best threshold of each class index and criterion, with the figures there; None for a class that
            these micrographs do not hold.
    """

    split: str
    micrographs: int
    temperature: Temperature
    thresholds: tuple[Mapping[str, Mapping[str, Any] | None], ...]


class CalibrationSample:
    """Collects what thresholds and a temperature are chosen from.

    Args:
        classes: Number of classes K.
        micrographs: How many are coming, to share the sampled pixels.
        seed: Of the draw.
    """

    def __init__(self, classes: int, micrographs: int, seed: int) -> None:
        self._classes, self._seed = classes, seed
        self._quota = max(256, _SAMPLED // max(1, micrographs))
        self._histogram = ScoreHistogram.zeros(classes)
        self._samples: list[PixelSample] = []

    def add(self, pair: Pair, truth: NDArray[np.uint8]) -> None:
        """Take a micrograph in, whole or, where it cannot be used, not at all."""
        histogram = ScoreHistogram.zeros(self._classes)
        parts = max(1, truth.size >> 22)
        sample = PixelSample(self._classes, max(1, self._quota // parts), self._seed + len(self._samples))

        def sink(box: Box, probabilities: NDArray[np.floating[Any]], _: NDArray[np.uint8]) -> None:
            histogram.update(truth[box.slices], probabilities)
            sample.add(truth[box.slices], probabilities)

        pair.predict(truth, sink)
        self._histogram = self._histogram + histogram
        self._samples.append(sample)

    def chosen(self, split: str) -> Calibration | None:
        """The best thresholds and the temperature; None where no labelled pixel was seen."""
        labels = np.concatenate([sample.labels for sample in self._samples]) if self._samples else np.zeros(0, np.uint8)
        if not len(labels):
            return None
        temperature = fit_temperature(np.concatenate([sample.logs for sample in self._samples]), labels)
        curves = [self._histogram.curve(index) for index in range(self._classes)]
        thresholds: tuple[dict[str, Mapping[str, Any] | None], ...] = tuple(
            {name: curve.best(name) if curve.positives else None for name in CRITERIA} for curve in curves
        )
        return Calibration(split, len(self._samples), temperature, thresholds)


@dataclass(frozen=True)
class Judge:
    """How micrographs are judged.

    Attributes:
        classes: Number of classes.
        tolerance: Of boundaries in pixels; `auto`: 0.75 % of the micrograph's diagonal, as Csurka et al. have it.
        probabilities: Whether probabilities are evaluated, where there are any.
        temperature: What was fitted on other micrographs, or None.
        withheld_is_wrong: Whether labelled pixels that are predicted as 255 count as wrong.
    """

    classes: int
    tolerance: float | str
    probabilities: bool
    temperature: float | None
    withheld_is_wrong: bool = False

    def zeros(self) -> Tally:
        """Nothing judged yet."""
        return Tally(self._no_pixels(), BoundaryCounts.zeros(self.classes), None)

    def tally(self, pair: Pair, truth: NDArray[np.uint8]) -> tuple[Tally, NDArray[np.uint8]]:
        """Judge one micrograph.

        Returns:
            Its counts, and the predicted mask.

        Raises:
            InputError: The prediction cannot be had, or does not lie on the truth's pixels.
            ValueError: A value is no class.
        """
        histogram = ScoreHistogram.zeros(self.classes)
        plain = Reliability.zeros(self.classes)
        warm = Reliability.zeros(self.classes)
        scored = 0

        def sink(box: Box, probabilities: NDArray[np.floating[Any]], guess: NDArray[np.uint8]) -> None:
            nonlocal scored
            scored += 1
            part = truth[box.slices]
            histogram.update(part, probabilities)
            plain.update(part, probabilities, guess)
            if self.temperature is not None:
                warm.update(part, tempered(probabilities, self.temperature), guess)

        prediction = pair.predict(truth, sink if self.probabilities else None)
        matrix = self._no_pixels()
        matrix.update(truth, prediction, unmeasured="ignore")
        scores = Scores(histogram, plain, None if self.temperature is None else warm) if scored else None
        boundary = boundary_counts(truth, prediction, self.classes, self.tolerance_px(truth.shape))
        return Tally(matrix, boundary, scores), prediction

    def _no_pixels(self) -> ConfusionMatrix:
        return ConfusionMatrix.zeros(self.classes, withheld_is_wrong=self.withheld_is_wrong)

    def tolerance_px(self, shape: tuple[int, ...]) -> float:
        """The tolerance for a micrograph of this shape.

        Example:
            >>> Judge(2, "auto", True, None).tolerance_px((300, 400)), Judge(2, 2.0, True, None).tolerance_px((300, 400))
            (3.75, 2.0)
        """
        return _CSURKA * math.hypot(*shape) if isinstance(self.tolerance, str) else self.tolerance
