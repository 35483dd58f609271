"""The rule to beat: one threshold on one number, the mean absolute gradient of a micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from microseg_ray.classification.views import Views

__all__ = ["GradientRule", "fit_rule", "mean_gradient"]


@dataclass(frozen=True)
class GradientRule:
    """Two classes separated by one number.

    Attributes:
        threshold: Threshold of the mean absolute gradient, in scaled intensities per pixel.
        above: Index of the class above it; the other one is at or below.

    Example:
        >>> GradientRule(0.5, above=1).predict(np.array([0.2, 0.7])).tolist()
        [0, 1]
    """

    threshold: float
    above: int

    def predict(self, values: NDArray[np.float64]) -> NDArray[np.int64]:
        """Classes, int64 (n,), of mean gradients (n,)."""
        return np.where(values > self.threshold, self.above, 1 - self.above).astype(np.int64)


def mean_gradient(views: Views) -> float:
    """Mean of |difference of neighbours| along y and x over all views and channels, of scaled intensities.

    Example:
        >>> from microseg_ray.classification.views import Views
        >>> mean_gradient(Views(np.array([[[[0, 255], [0, 255]]]], np.uint8), (0, 255), (2, 2), None))
        0.5
    """
    low, high = views.limits
    scaled = (views.pixels.astype(np.float64) - low) / (high - low)
    return float((np.abs(np.diff(scaled, axis=-1)).mean() + np.abs(np.diff(scaled, axis=-2)).mean()) / 2)


def fit_rule(values: Sequence[float], labels: Sequence[int]) -> GradientRule:
    """The rule with the fewest errors on these micrographs; of equal ones that in the widest gap.

    Args:
        values: Mean gradients (n,).
        labels: 0 or 1, (n,).

    Raises:
        ValueError: No values, or labels beside 0 and 1.

    Example:
        >>> fit_rule([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1])
        GradientRule(threshold=0.4, above=1)
    """
    found, truth = np.asarray(values, np.float64), np.asarray(labels, np.int64)
    if not len(found) or not set(truth.tolist()) <= {0, 1}:
        raise ValueError("a one-threshold rule needs micrographs of the classes 0 and 1")
    held = np.unique(found)
    gaps = np.concatenate([[0.0], np.diff(held), [0.0]])
    places = np.concatenate([[held[0] - 1.0], (held[:-1] + held[1:]) / 2, [held[-1] + 1.0]])
    best = max(
        (int((GradientRule(place, above).predict(found) == truth).sum()), float(gap), -above, float(place))
        for place, gap in zip(places.tolist(), gaps, strict=True)
        for above in (0, 1)
    )
    return GradientRule(round(best[3], 12), -best[2])
