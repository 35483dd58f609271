"""Counts of the pixels of each class in square blocks of a mask: what the two-point correlation is computed from.

A block is a power of two of pixels wide, so that there are at most 2^18 blocks whatever the size of the micrograph. Nothing is
lost by that: sums over pairs of blocks are sums over pairs of pixels, and correlation within a block is in its own square.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box

__all__ = ["BlockCounts", "block_side"]

MOST_BLOCKS = 1 << 18


def block_side(shape: tuple[int, int], most: int = MOST_BLOCKS) -> int:
    """The smallest power of two, in pixels, with which a micrograph of this shape has at most `most` blocks.

    Example:
        >>> block_side((300, 400)), block_side((2048, 2048)), block_side((100_000, 80_000))
        (1, 4, 256)
    """
    side = 1
    while -(-shape[0] // side) * -(-shape[1] // side) > most:
        side *= 2
    return side


class BlockCounts:
    """Pixels of each class in each block of a micrograph, added up from its parts in any order.

    Attributes:
        side: Of a block in pixels.
        counts: (K, by, bx) int32.

    Example:
        >>> from microseg_ray.geometry import Box
        >>> blocks = BlockCounts((2, 4), classes=2, side=2)
        >>> blocks.add(Box(0, 0, 2, 3), np.array([[0, 0, 1], [0, 1, 255]], np.uint8))
        >>> blocks.add(Box(0, 3, 2, 4), np.array([[1], [1]], np.uint8))
        >>> blocks.counts.tolist(), blocks.measured.tolist()
        ([[[3, 0]], [[1, 3]]], [[4, 3]])
    """

    def __init__(self, shape: tuple[int, int], classes: int, side: int | None = None) -> None:
        self.side = block_side(shape) if side is None else side
        blocks = (-(-shape[0] // self.side), -(-shape[1] // self.side))
        self.counts: NDArray[np.int32] = np.zeros((classes, *blocks), np.int32)

    @property
    def measured(self) -> NDArray[np.int64]:
        """Pixels of any class in each block, (by, bx)."""
        total: NDArray[np.int64] = self.counts.sum(axis=0, dtype=np.int64)
        return total

    def add(self, box: Box, mask: NDArray[np.uint8]) -> None:
        """Add a part of the mask.

        Args:
            box: Where it lies.
            mask: (y, x) uint8; values that are no class are not counted.
        """
        first = (box.y0 // self.side, box.x0 // self.side)
        rows = _starts(box.y0, box.y1, self.side)
        columns = _starts(box.x0, box.x1, self.side)
        place = (slice(first[0], first[0] + len(rows)), slice(first[1], first[1] + len(columns)))
        for index in range(len(self.counts)):
            own = (mask == index).view(np.uint8)
            summed = np.add.reduceat(own, columns, axis=1, dtype=np.int32)
            self.counts[index][place] += np.add.reduceat(summed, rows, axis=0)


def _starts(first: int, last: int, side: int) -> NDArray[np.intp]:
    """Where in a part each of its blocks begins.

    Example:
        >>> _starts(3, 10, 4).tolist()
        [0, 1, 5]
    """
    inner = np.arange((first // side + 1) * side, last, side) - first
    return np.concatenate([[0], inner]).astype(np.intp)
