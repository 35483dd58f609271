"""What is kept of one micrograph for groups, boundaries and intervals: a few numbers per class, whatever its size."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from microseg_ray.statistics.sampling import SamplingError, sampling_error

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from microseg_ray.statistics.blocks import BlockCounts
    from microseg_ray.statistics.counts import Spreads
    from microseg_ray.statistics.model_error import Correction, Method

__all__ = ["Field", "Parts", "field_of"]


class Parts(NamedTuple):
    """What is added up over the parts of a mask.

    Attributes:
        blocks: Pixels of each class in each block.
        crossings: (4, K, K) int64 of `count_crossings`.
    """

    blocks: BlockCounts
    crossings: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Field:
    """One micrograph.

    Attributes:
        name: Its path below the archive.
        group: Its group.
        counts: (K,) int64 pixels.
        pixels: All pixels of the mask, info bar and unmeasured ones included.
        bar_pixels: Those of the info bar.
        pixel_size_um: (y, x) in micrometres, or None.
        crossings: (4, K, K) int64 of `count_crossings`.
        sampling: Of each class, as predicted.
        corrections: How the fractions are corrected, by method; empty without a test set.
        corrected_sampling: Of each class, of the fractions corrected by each method.
        spreads: (m, K) int64 pixels by each checkpoint of an ensemble, by each symmetry; empty where there is one prediction.
    """

    name: str
    group: str
    counts: NDArray[np.int64]
    pixels: int
    bar_pixels: int
    pixel_size_um: tuple[float, float] | None
    crossings: NDArray[np.int64]
    sampling: tuple[SamplingError, ...]
    corrections: Mapping[Method, Correction] = field(default_factory=dict)
    corrected_sampling: Mapping[Method, tuple[SamplingError, ...]] = field(default_factory=dict)
    spreads: Spreads = field(default_factory=dict)

    @property
    def measured(self) -> int:
        """Pixels with a class."""
        return int(self.counts.sum())

    @property
    def fractions(self) -> NDArray[np.float64]:
        """(K,) area fractions; nan where nothing was measured."""
        if not self.measured:
            return np.full(len(self.counts), np.nan)
        fractions: NDArray[np.float64] = self.counts / self.measured
        return fractions


def field_of(base: Field, blocks: BlockCounts) -> Field:
    """The micrograph with its sampling errors, from the counts in its blocks.

    Args:
        base: The micrograph without them.
        blocks: Its blocks.

    Example:
        >>> from microseg_ray.geometry import Box
        >>> from microseg_ray.statistics.blocks import BlockCounts
        >>> mask = (np.random.default_rng(0).random((64, 64)) < 0.3).astype(np.uint8)
        >>> blocks = BlockCounts(mask.shape, classes=2)
        >>> blocks.add(Box.of_shape(mask.shape), mask)
        >>> counts = np.bincount(mask.ravel(), minlength=2)
        >>> base = Field("a.tif", "a", counts, 4096, 0, None, np.zeros((4, 2, 2), np.int64), ())
        >>> [round(each.variance**0.5, 3) for each in field_of(base, blocks).sampling]
        [0.007, 0.007]
    """
    measured = blocks.measured
    spacing = base.pixel_size_um or (1.0, 1.0)
    # Classes are added as floats: a sum of products of integers of a large block overflows 32 bits.
    values = blocks.counts.astype(np.float64)

    def errors(planes: NDArray[np.float64]) -> tuple[SamplingError, ...]:
        return tuple(sampling_error(plane, measured, blocks.side, spacing) for plane in planes)

    corrected = {
        method: errors(np.tensordot(correction.matrix, values, axes=1))
        for method, correction in base.corrections.items()
    }
    return replace(base, sampling=errors(values), corrected_sampling=corrected)
