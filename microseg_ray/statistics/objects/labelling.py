"""Labels blocks of a mask one after the other, and finds which parts continue in which.

A *part* is the piece of an object inside one block. Parts are numbered through the whole mask in the order of the blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box

__all__ = ["Connectivity", "LabelledBlock", "Labeller"]

Connectivity = Literal[4, 8]
"""Pixels are connected by edges (4), or by edges and corners (8)."""

_SHIFTS = ((slice(None), slice(None)), (slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1)))
"""Pixels of two lines that may touch: straight across, and along both diagonals."""


@dataclass(frozen=True, eq=False)
class LabelledBlock:
    """One block with its labels, and with a border of one pixel above and to the left.

    At the bottom and right of the mask there is a border there, too, so that each 2 x 2 window of the mask, and of one pixel
    around it, lies in exactly one block.

    Attributes:
        box: Where the block lies.
        classes: (y, x) uint8 with the border; `IGNORE_INDEX` outside the mask.
        labels: (y, x) uint32 with the border; 0 where no part is.
        core: (y, x) uint32, the labels of the block itself, contiguous.
        ids: (label,) int64, the number of the part of each label; -1 for label 0. The block's own parts come first.
        count: How many parts are the block's own.
        joins: (n, 2) int64 numbers of parts that touch across the border of the block.
    """

    box: Box
    classes: NDArray[np.uint8]
    labels: NDArray[np.uint32]
    core: NDArray[np.uint32]
    ids: NDArray[np.int64]
    count: int
    joins: NDArray[np.int64]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """The classes of the block itself."""
        return self.classes[1 : 1 + self.box.height, 1 : 1 + self.box.width]


class Labeller:
    """Labels the blocks of one mask; they are given once each, in row-major order.

    What is kept is a row of the mask's width and a column of a block's height: 9 bytes a pixel.

    Args:
        shape: (height, width) of the mask.
        connectivity: 4 or 8.
        only: Indices of the classes whose objects are wanted; None for all.

    Example:
        >>> from microseg_ray.geometry import Box
        >>> labeller = Labeller((2, 4), connectivity=4)
        >>> left = labeller.add(Box(0, 0, 2, 2), np.array([[0, 1], [0, 0]], np.uint8))
        >>> right = labeller.add(Box(0, 2, 2, 4), np.array([[1, 1], [255, 1]], np.uint8))
        >>> left.count, right.count, right.joins.tolist(), labeller.parts
        (2, 1, [[1, 2]], 3)
    """

    def __init__(self, shape: tuple[int, int], connectivity: Connectivity, only: Collection[int] | None = None) -> None:
        self.shape = shape
        self.connectivity = connectivity
        self.parts = 0
        # cc3d leaves out 0: a class is one more there.
        self._codes = np.zeros(256, np.uint8)
        wanted = range(IGNORE_INDEX) if only is None else only
        self._codes[list(wanted)] = np.array(list(wanted), np.uint8) + 1
        # One more on the left, for what lies outside.
        self._above = _Line.empty(shape[1] + 1)
        self._below = _Line.empty(shape[1] + 1)
        self._left = _Line.empty(0)

    def add(self, box: Box, mask: NDArray[np.uint8]) -> LabelledBlock:
        """Label the next block.

        Args:
            box: Where it lies.
            mask: (y, x) uint8.

        Returns:
            The block with its labels.
        """
        import cc3d

        height, width = box.shape
        if box.x0 == 0:
            self._above, self._below = (self._below, self._above) if box.y0 else (self._above, self._below)
            self._left = _Line.empty(height + 1)
        found = cc3d.connected_components(self._codes[mask], connectivity=self.connectivity, out_dtype=np.uint32)
        core = np.asarray(found, np.uint32)
        count = int(core.max(initial=0))
        ids = np.arange(-1, count, dtype=np.int64)
        ids[1:] += self.parts
        self.parts += count

        shape = (1 + height + (box.y1 == self.shape[0]), 1 + width + (box.x1 == self.shape[1]))
        classes, labels = np.full(shape, IGNORE_INDEX, np.uint8), np.zeros(shape, np.uint32)
        above, left = self._above.part(box.x0, box.x1 + 1), self._left
        known = np.unique(np.concatenate([above.parts, left.parts]))
        known = known[known >= 0]
        for line, at in ((above, np.s_[0, : width + 1]), (left, np.s_[1 : height + 1, 0])):
            chosen = line if at[0] == 0 else line.part(1, height + 1)
            classes[at] = chosen.classes
            labels[at] = np.where(chosen.parts < 0, 0, np.searchsorted(known, chosen.parts) + count + 1)
        classes[1 : height + 1, 1 : width + 1] = mask
        labels[1 : height + 1, 1 : width + 1] = core
        ids = np.concatenate([ids, known])

        inside = np.s_[: height + 1, : width + 1]
        joins = ids[_touching(classes[inside], labels[inside], self.connectivity)]
        row, column = classes[height, 1 : width + 1], classes[: height + 1, width]
        self._below.classes[box.x0 + 1 : box.x1 + 1] = row
        self._below.parts[box.x0 + 1 : box.x1 + 1] = ids[labels[height, 1 : width + 1]]
        self._left = _Line(column.copy(), ids[labels[: height + 1, width]])
        return LabelledBlock(box, classes, labels, core, ids, count, joins)


@dataclass(frozen=True, eq=False)
class _Line:
    """A row or a column of pixels: classes, and numbers of parts (-1: none)."""

    classes: NDArray[np.uint8]
    parts: NDArray[np.int64]

    @classmethod
    def empty(cls, length: int) -> _Line:
        return cls(np.full(length, IGNORE_INDEX, np.uint8), np.full(length, -1, np.int64))

    def part(self, first: int, last: int) -> _Line:
        return _Line(self.classes[first:last], self.parts[first:last])


def _touching(classes: NDArray[np.uint8], labels: NDArray[np.uint32], connectivity: Connectivity) -> NDArray[np.uint32]:
    """(n, 2) labels that touch between the first two rows and the first two columns, each pair once."""
    pairs = []
    for near, named in ((classes[:2], labels[:2]), (classes[:, :2].T, labels[:, :2].T)):
        for first, second in _SHIFTS[: 1 if connectivity == 4 else 3]:
            a, b = named[0, first], named[1, second]
            same = (near[0, first] == near[1, second]) & (a > 0) & (b > 0) & (a != b)
            pairs.append(np.stack([a[same], b[same]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0)
