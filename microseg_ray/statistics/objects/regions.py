"""Where the pixels of each object are, in windows of bounded size: what objects are drawn from in other formats."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.statistics.objects.finding import BLOCK, ObjectRule, label_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from numpy.typing import NDArray

    from microseg_ray.statistics.objects.finding import Objects

__all__ = ["LARGEST", "Window", "object_windows"]

LARGEST = BLOCK
"""An object that is higher or wider, in pixels, is cut along the borders of the blocks, so that memory does not grow with it."""


@dataclass(frozen=True, eq=False)
class Window:
    """The pixels of some objects.

    Attributes:
        box: Where it lies in the mask.
        numbers: (y, x) int64, the number of the object from 1, as in objects.csv; 0 where none of these is.
        parts: The number of the part, from 1, of each object that is cut. Others are here as a whole.
    """

    box: Box
    numbers: NDArray[np.int64]
    parts: Mapping[int, int]


def object_windows(
    shape: tuple[int, int],
    read: Callable[[Box], NDArray[np.uint8]],
    objects: Objects,
    rule: ObjectRule | None = None,
    largest: int = LARGEST,
) -> Iterator[Window]:
    """The pixels of each object, each of them exactly once.

    Args:
        shape: (height, width) of the mask.
        read: Gives the (y, x) uint8 pixels of a box.
        objects: What `find_objects` gave.
        rule: As for `find_objects`.
        largest: An object that is higher or wider, in pixels, comes in parts.

    Example:
        >>> from microseg_ray.statistics.objects.finding import find_objects
        >>> mask = np.array([[1, 1, 1, 0]], np.uint8)
        >>> def read(box):
        ...     return mask[box.slices]
        >>> rule = ObjectRule(8, block=2)
        >>> found = find_objects((1, 4), read, rule)
        >>> for window in object_windows((1, 4), read, found, rule, largest=2):
        ...     window.box.x0, window.numbers.tolist(), dict(window.parts)
        (0, [[2, 2]], {2: 1})
        (2, [[2, 1]], {2: 2})
        >>> for window in object_windows((1, 4), read, found, rule):
        ...     window.box.x0, window.numbers.tolist(), dict(window.parts)
        (0, [[2, 2, 2]], {})
        (2, [[0, 1]], {})
    """
    rule = rule or ObjectRule()
    boxes = objects.sums.box
    large = np.any(boxes[:, 2:] - boxes[:, :2] > largest, axis=1)
    first = boxes[:, :2] // rule.block
    crossing = np.any(first != (boxes[:, 2:] - 1) // rule.block, axis=1) & ~large
    # By the block in which their box begins, so that what was read for the block is still at hand.
    waiting = np.flatnonzero(crossing)
    across = -(-shape[1] // rule.block)
    waiting = waiting[np.argsort(first[waiting] @ np.array([across, 1]), kind="stable")]
    block_of = first[waiting] @ np.array([across, 1])
    keep = np.concatenate([[False], ~crossing])
    parts: Counter[int] = Counter()
    for number, (box, labels) in enumerate(label_blocks(shape, read, objects, rule)):
        begin, end = np.searchsorted(block_of, (number, number + 1))
        for index in waiting[begin:end]:
            yield _whole_object(int(index), read, objects, rule)
        numbers = np.where(keep[labels], labels, 0).astype(np.int64)
        present = np.unique(numbers)
        present = present[present > 0]
        if len(present):
            cut = [int(each) for each in present[large[present - 1]]]
            parts.update(cut)
            yield Window(box, numbers, {each: parts[each] for each in cut})


def _whole_object(index: int, read: Callable[[Box], NDArray[np.uint8]], objects: Objects, rule: ObjectRule) -> Window:
    """One object in its own box, found there again: of all pieces of its class it alone touches all four sides."""
    import cc3d

    box = Box(*(int(each) for each in objects.sums.box[index]))
    own = read(box) == objects.sums.class_index[index]
    labels = np.asarray(cc3d.connected_components(own, connectivity=rule.connectivity, out_dtype=np.uint32))
    sides = [set(np.unique(side).tolist()) for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1])]
    label = max(set.intersection(*sides) - {0})
    return Window(box, np.where(labels == label, np.int64(index + 1), np.int64(0)), {})
