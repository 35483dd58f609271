"""Boundary F1: agreement of class boundaries within a tolerance.

This is the BF score of Csurka, Larlus and Perronnin, "What is a good evaluation measure for semantic segmentation?", BMVC 2013:
precision is the share of predicted boundary pixels that lie within the tolerance of a true one, recall the share of true
boundary pixels that lie within the tolerance of a predicted one. Here a distance equal to the tolerance counts as
within, so that a tolerance of 0 requires identical pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.evaluation.metrics.undefined import ratio
from microseg_ray.geometry import Box
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.statistics.objects.finding import blocks

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["BoundaryCounts", "boundary_counts"]

_BLOCK = 2048


@dataclass(frozen=True, eq=False)
class BoundaryCounts:
    """Counts of boundary pixels of each class; additive over micrographs.

    Attributes:
        predicted: (K,) int64 predicted boundary pixels.
        predicted_near: Those of them within the tolerance of a true one.
        true: (K,) int64 true boundary pixels.
        true_near: Those of them within the tolerance of a predicted one.
    """

    predicted: NDArray[np.int64]
    predicted_near: NDArray[np.int64]
    true: NDArray[np.int64]
    true_near: NDArray[np.int64]

    @classmethod
    def zeros(cls, classes: int) -> BoundaryCounts:
        """Counts of zero.

        Example:
            >>> BoundaryCounts.zeros(2).f1.tolist()
            [nan, nan]
        """
        return cls(*(np.zeros(classes, np.int64) for _ in range(4)))

    def __add__(self, other: BoundaryCounts) -> BoundaryCounts:
        return BoundaryCounts(
            self.predicted + other.predicted,
            self.predicted_near + other.predicted_near,
            self.true + other.true,
            self.true_near + other.true_near,
        )

    @property
    def precision(self) -> NDArray[np.float64]:
        """(K,) float64; nan for classes without a predicted boundary."""
        return ratio(self.predicted_near, self.predicted)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(K,) float64; nan for classes without a true boundary."""
        return ratio(self.true_near, self.true)

    @property
    def f1(self) -> NDArray[np.float64]:
        """Harmonic mean of precision and recall, (K,); 0 if only truth or prediction has a boundary, nan if neither has."""
        precision, recall = np.nan_to_num(self.precision), np.nan_to_num(self.recall)
        f1 = np.where(self.predicted + self.true > 0, 0.0, np.nan)
        np.divide(2 * precision * recall, precision + recall, out=f1, where=precision + recall > 0)
        return f1


def boundary_counts(
    truth: NDArray[np.uint8],
    prediction: NDArray[np.uint8],
    classes: int,
    tolerance: float = 2.0,
    block: int = _BLOCK,
) -> BoundaryCounts:
    """Count boundary pixels, and those that match, class by class.

    A pixel is on the boundary of its class if one of its four neighbours has another class. The rim of the micrograph
    and pixels without a label (255) are no boundary and create none; predictions on unlabelled pixels are ignored.

    Args:
        truth: (y, x) uint8.
        prediction: (y, x) uint8.
        classes: Number of classes K.
        tolerance: Euclidean distance in pixels, 0 or more.
        block: Side in pixels of the blocks that are computed at once; affects memory only, not the result.

    Raises:
        ValueError: Shapes differ, or tolerance or block is out of range.

    Example:
        >>> truth = np.repeat([[0, 0, 0, 1, 1, 1]], 4, axis=0).astype(np.uint8)
        >>> moved = np.repeat([[0, 0, 1, 1, 1, 1]], 4, axis=0).astype(np.uint8)
        >>> boundary_counts(truth, moved, 2, tolerance=0).f1.tolist(), boundary_counts(truth, moved, 2, tolerance=1).f1.tolist()
        ([0.0, 0.0], [1.0, 1.0])
    """
    if truth.shape != prediction.shape or truth.ndim != 2:
        raise ValueError(f"truth of {truth.shape} and prediction of {prediction.shape} must be two masks of one shape")
    if not (math.isfinite(tolerance) and tolerance >= 0) or block < 1:
        raise ValueError(f"tolerance {tolerance} px must be 0 or more, and block {block} px 1 or more")
    counts = BoundaryCounts.zeros(classes)
    # A match can lie `tolerance` px outside the block, and one more pixel shows whether it is a boundary.
    margin = math.ceil(tolerance) + 1
    for core in blocks(truth.shape, block):
        frame = core.grow(margin).intersection(Box.of_shape(truth.shape))
        counts = counts + _in_block(
            truth[frame.slices], prediction[frame.slices], core.relative_to(frame), classes, tolerance
        )
    return counts


def _in_block(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], core: Box, classes: int, tolerance: float
) -> BoundaryCounts:
    known = (truth != IGNORE_INDEX) & (prediction != IGNORE_INDEX)
    edges = [_edges(mask, known) for mask in (truth, prediction)]
    counts = BoundaryCounts.zeros(classes)
    for index in range(classes):
        own, other = (edge & (mask == index) for edge, mask in zip(edges, (truth, prediction), strict=True))
        inside, outside = own[core.slices], other[core.slices]
        counts.true[index] = np.count_nonzero(inside)
        counts.predicted[index] = np.count_nonzero(outside)
        if counts.true[index] and other.any():
            counts.true_near[index] = np.count_nonzero(inside & _near(other, tolerance)[core.slices])
        if counts.predicted[index] and own.any():
            counts.predicted_near[index] = np.count_nonzero(outside & _near(own, tolerance)[core.slices])
    return counts


def _edges(mask: NDArray[np.uint8], known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    edge = np.zeros(mask.shape, bool)
    across = (mask[:, 1:] != mask[:, :-1]) & known[:, 1:] & known[:, :-1]
    down = (mask[1:] != mask[:-1]) & known[1:] & known[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _near(boundary: NDArray[np.bool_], tolerance: float) -> NDArray[np.bool_]:
    from scipy.ndimage import distance_transform_edt

    near: NDArray[np.bool_] = distance_transform_edt(~boundary) <= tolerance
    return near
