"""What is done to a mask, on dask arrays: cut into chunks with halos, equal to the whole mask in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import dask.array as da
import numpy as np
from scipy import ndimage

from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Steps", "majority_filter", "remove_small"]

# The votes of a square of this radius fit 16 bits: 255 x 255.
LARGEST_RADIUS = 127


@dataclass(frozen=True)
class Steps:
    """What is done to a mask; part of the identity of the result.

    Attributes:
        min_speck: Parts of a class above 0 with fewer pixels are removed.
        min_hole: Parts of class 0, the background, with fewer pixels are filled.
        majority: Radius of the majority filter in pixels; 0: none.

    Example:
        >>> steps = Steps(min_speck=9, min_hole=4, majority=2)
        >>> steps.limits(3), steps.halo(3), Steps(min_speck=9).halo(3)
        ((4, 9, 9), 40, 16)
    """

    min_speck: int = 0
    min_hole: int = 0
    majority: int = 0

    def limits(self, classes: int) -> tuple[int, ...]:
        """The smallest part that stays, in pixels, by class."""
        return (self.min_hole, *(self.min_speck for _ in range(classes - 1)))

    def halo(self, classes: int) -> int:
        """Pixels around a box that its result depends on, at most."""
        reach = sum(map(_reach, self.limits(classes)))
        return 2 * reach + self.majority if self.majority else reach

    def apply(self, mask: da.Array, classes: int) -> da.Array:
        """The mask after all steps, lazily.

        The majority filter can cut a part in two or leave a new small one, so small parts are removed before and after it.

        Args:
            mask: (y, x) uint8.
            classes: Number of classes.
        """
        limits = self.limits(classes)
        settled = remove_small(mask, limits)
        if self.majority == 0:
            return settled
        return remove_small(majority_filter(settled, classes, self.majority), limits)


def remove_small(mask: da.Array, limits: Sequence[int]) -> da.Array:
    """Give every small connected part of a class to the class around it, until none is left.

    A part is a maximal set of pixels of one class connected by edges (4 neighbours). One with fewer pixels than its
    class's limit becomes the class that is most frequent in its outer border: the pixels outside it that share an edge
    with one of its own, each counted once; the lowest class on a tie. `IGNORE_INDEX` is no class: it has no parts and never
    wins. A part with nothing else around it stays: there is no class that it could become.

    The classes take turns in the order of their index, once each. In the turn of class c all its small parts are judged by
    the mask as the turns before left it, and replaced at once.

    Fixed point: one turn per class is enough, and a second call changes nothing. In a turn of class c only pixels of c
    change, and each replaced part joins a part of the winning class that touches it, so a part of another class only
    grows. After its own turn a class w has no small part but those that nothing can replace; later turns add pixels
    only to parts that exist, and none of these is small (a part that nothing can replace has no neighbour to grow by).

    Halo of one turn: let N be the class's limit and p any pixel. A part of fewer than N pixels is connected, so a shortest
    path in it from p to any of its pixels has at most N - 2 steps, and its border lies within N - 1 of p: a window that
    reaches N - 1 beyond p holds part and border whole, hence finds the same size and the same votes. A part of N pixels or
    more holds N pixels that paths of at most N - 1 steps inside it connect with p (take them in the order of their
    distance: a pixel on a shortest path is nearer than its end), so that the same window finds N of them and leaves p
    alone. A depth of N - 1 therefore gives the result of the whole mask; a straight line of N - 1 pixels needs all of it.
    The turns follow each other, so the halo of the result is the sum over the classes.

    Args:
        mask: (y, x) uint8, in any chunks.
        limits: Pixels of the smallest part that stays, for each class; 0 and 1 leave a class as it is.

    Returns:
        (y, x) uint8, lazily. A task holds about 10 bytes a pixel of a chunk with the halo of one turn.

    Example:
        >>> mask = da.from_array(np.array([[1, 1, 1, 1], [1, 0, 1, 2], [1, 1, 1, 1]], np.uint8), chunks=(2, 2))
        >>> remove_small(mask, limits=(2, 0, 0)).compute()
        array([[1, 1, 1, 1],
               [1, 1, 1, 2],
               [1, 1, 1, 1]], dtype=uint8)
    """
    for index, limit in enumerate(limits):
        reach = _reach(limit)
        if reach == 0:
            continue
        mask = da.map_overlap(
            _without_small,
            mask,
            index=index,
            limit=limit,
            classes=len(limits),
            # An axis that is shorter than the reach is seen whole.
            depth={axis: min(reach, side) for axis, side in enumerate(mask.shape)},
            boundary="none",
            dtype=np.uint8,
            meta=np.empty((0, 0), np.uint8),
        )
    return mask


def _reach(limit: int) -> int:
    """Pixels that removing the small parts of one class looks ahead: N - 1, nothing where no part can be below the limit."""
    return max(0, limit - 1)


def _without_small(mask: NDArray[np.uint8], index: int, limit: int, classes: int) -> NDArray[np.uint8]:
    """A mask in memory after the turn of one class."""
    own = mask == index
    if not own.any():
        return mask
    labels, count = ndimage.label(own)
    small = np.bincount(labels.ravel(), minlength=count + 1) < limit
    small[0] = False
    if not small.any():
        return mask
    result = mask.copy()
    winners = _winners(mask, labels, small, classes)
    pixels = small[labels]
    result[pixels] = winners[labels[pixels]]
    # Nothing around them: they stay.
    result[pixels & (result == IGNORE_INDEX)] = index
    return result


def _winners(
    mask: NDArray[np.uint8], labels: NDArray[np.int32], small: NDArray[np.bool_], classes: int
) -> NDArray[np.uint8]:
    """The class around each small part, by label; `IGNORE_INDEX` where there is none."""
    rows, columns = (part.astype(np.int64) for part in np.nonzero(small[labels]))
    height, width = mask.shape
    pairs = []
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        y, x = rows + down, columns + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x, label = y[inside], x[inside], labels[rows[inside], columns[inside]].astype(np.int64)
        # A pixel of the same class beside a part is of that part.
        outer = (labels[y, x] == 0) & (mask[y, x] != IGNORE_INDEX)
        pairs.append((label * height * width + y * width + x)[outer])
    # Once each: a border pixel may touch a part with several edges.
    border = np.unique(np.concatenate(pairs))
    label, place = np.divmod(border, height * width)
    # Small parts only, so that the table of votes grows with them and not with all labels.
    order = np.cumsum(small) - 1
    voters = mask.ravel()[place].astype(np.int64)
    votes = np.bincount(order[label] * classes + voters, minlength=int(small.sum()) * classes).reshape(-1, classes)
    winners = np.full(len(small), IGNORE_INDEX, np.uint8)
    winners[small] = np.where(votes.any(axis=1), votes.argmax(axis=1), IGNORE_INDEX)
    return winners


def majority_filter(mask: da.Array, classes: int, radius: int) -> da.Array:
    """Give every pixel the most frequent class of the square around it.

    The square has 2 * radius + 1 pixels a side; `IGNORE_INDEX` and what lies outside the mask have no vote. On a tie the
    pixel's own class wins if it takes part in the tie, else the lowest class. Pixels of `IGNORE_INDEX` stay.

    Each class's votes are counted by two convolutions with lines of ones (a square of ones is their product), in
    integers, so that chunks do not show; dask-image reads `radius` pixels beyond a chunk for them.

    Args:
        mask: (y, x) uint8, in any chunks.
        classes: Number of classes.
        radius: In pixels, at most 127; 0 returns the mask as it is.

    Returns:
        (y, x) uint8, lazily. A task holds about 2 bytes a pixel and class.

    Raises:
        ValueError: The radius is too large or negative.

    Example:
        >>> mask = da.from_array(np.array([[0, 0, 0], [1, 1, 0], [0, 1, 255]], np.uint8), chunks=2)
        >>> majority_filter(mask, classes=2, radius=1).compute()
        array([[  0,   0,   0],
               [  1,   0,   0],
               [  1,   1, 255]], dtype=uint8)
    """
    from dask_image.ndfilters import convolve

    if not 0 <= radius <= LARGEST_RADIUS:
        raise ValueError(f"radius {radius}: the majority filter takes 0 to {LARGEST_RADIUS} px")
    if radius == 0:
        return mask
    # No further than the mask reaches: beyond it there are no votes, and dask takes no depth larger than an axis.
    tall, wide = (2 * min(radius, side - 1) + 1 for side in mask.shape)
    votes = []
    for index in range(classes):
        counted = (mask == index).astype(np.uint16)
        for line in (np.ones((tall, 1), np.uint16), np.ones((1, wide), np.uint16)):
            counted = convolve(counted, line, mode="constant", cval=0)
        # Depths may have merged chunks that are smaller.
        votes.append(counted.rechunk(mask.chunks))
    elected: da.Array = da.map_blocks(_elected, mask, *votes, dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
    return elected


def _elected(mask: NDArray[np.uint8], *votes: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The class with most votes; one's own, else the lowest, on a tie."""
    most = np.zeros(mask.shape, np.uint16)
    winner = np.full(mask.shape, IGNORE_INDEX, np.uint8)
    for index, own in enumerate(votes):
        better = (own > most) | ((own == most) & (mask == index))
        winner[better] = index
        np.maximum(most, own, out=most)
    winner[mask == IGNORE_INDEX] = IGNORE_INDEX
    return winner
