"""A micrograph reduced to 128 x 128 means, summed up from regions as they are read for something else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box

__all__ = ["SIDE", "Reduced", "Reducer"]

SIDE = 128
"""Height and width of a reduced micrograph, whatever the shape of the micrograph."""


@dataclass(frozen=True)
class Reduced:
    """A reduced micrograph.

    Attributes:
        shape: (height, width) of the micrograph in pixels.
        means: (128, 128) float32 means of the intensities (over channels too), stretched to 0 to 1; all 0 where the
            micrograph has one intensity.
    """

    shape: tuple[int, int]
    means: NDArray[np.float32]


class Reducer:
    """Sums up regions that partition a micrograph.

    A pixel belongs to the cell that its centre lies in, so that a mirrored micrograph gives mirrored means.

    Args:
        shape: (height, width) of the micrograph in pixels.

    Example:
        >>> from microseg_ray.geometry import Box
        >>> reducer = Reducer((256, 256))
        >>> reducer.add(Box(0, 0, 256, 128), np.zeros((1, 256, 128), np.uint8))
        >>> reducer.add(Box(0, 128, 256, 256), np.full((1, 256, 128), 9, np.uint8))
        >>> reducer.reduced().means[0, [0, 63, 64, 127]].tolist()
        [0.0, 0.0, 1.0, 1.0]
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        self._cells = tuple(min(SIDE, length) for length in shape)
        self._sums = np.zeros(self._cells, np.float64)
        self._pixels = np.zeros(self._cells, np.float64)

    def add(self, box: Box, pixels: NDArray[Any]) -> None:
        """Take in one region; none of its pixels may be given twice.

        Args:
            box: Where it lies in the micrograph.
            pixels: (channel, y, x), any dtype.
        """
        rows, columns = (self._cell(axis, *span) for axis, span in enumerate(((box.y0, box.y1), (box.x0, box.x1))))
        exact = np.int64 if pixels.dtype.kind in "bui" else np.float64
        # Along x first, where numpy adds contiguous numbers; then the few columns that are left.
        starts_x, starts_y = _starts(columns), _starts(rows)
        lines = np.add.reduceat(pixels.sum(axis=0, dtype=exact) if len(pixels) > 1 else pixels[0], starts_x, 1, exact)
        sums = np.add.reduceat(lines, starts_y, 0).astype(np.float64) / len(pixels)
        here = np.ix_(rows[starts_y], columns[starts_x])
        self._sums[here] += sums
        self._pixels[here] += np.outer(
            np.diff(np.append(starts_y, box.height)), np.diff(np.append(starts_x, box.width))
        )

    def reduced(self) -> Reduced:
        """The means of what was added."""
        means = self._sums / np.maximum(self._pixels, 1)
        for axis, cells in enumerate(self._cells):
            if cells < SIDE:
                means = means.take((2 * np.arange(SIDE) + 1) * cells // (2 * SIDE), axis=axis)
        low, high = float(means.min()), float(means.max())
        # Means of equal intensities may differ by rounding.
        flat = high - low <= 1e-9 * max(abs(low), abs(high))
        stretched = np.zeros_like(means) if flat else (means - low) / (high - low)
        return Reduced(self.shape, stretched.astype(np.float32))

    def _cell(self, axis: int, start: int, stop: int) -> NDArray[np.int64]:
        cells, length = self._cells[axis], self.shape[axis]
        return (2 * np.arange(start, stop, dtype=np.int64) + 1) * cells // (2 * length)


def _starts(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.flatnonzero(np.diff(cells, prepend=-1))
