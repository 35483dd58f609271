"""Objects of a mask that is read block by block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.statistics.objects.labelling import Labeller
from microseg_ray.statistics.objects.merging import Found, merge, without_small
from microseg_ray.statistics.objects.outlines import OUTLINE, outline_sums
from microseg_ray.statistics.objects.parts import PART, Hulls, part_sums, touches_unmeasured
from microseg_ray.statistics.objects.shapes import intensities, lengths, shapes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from microseg_ray.statistics.objects.labelling import Connectivity
    from microseg_ray.statistics.objects.merging import Merged
    from microseg_ray.statistics.objects.shapes import Intensities, Lengths, Shapes

__all__ = ["BLOCK", "ObjectRule", "Objects", "blocks", "find_objects", "label_blocks"]

BLOCK = 2048
"""Side of a block in pixels, a multiple of the zarr chunk. The peak of memory depends on it, the result does not."""

_EXACT_BITS = 16


@dataclass(frozen=True)
class ObjectRule:
    """What an object is.

    Attributes:
        connectivity: Pixels are connected by edges (4), or by edges and corners (8).
        only: Indices of the classes whose objects are wanted; None for all.
        least: Smaller objects, in pixels, are left out.
        block: Side of a block in pixels.
    """

    connectivity: Connectivity = 8
    only: frozenset[int] | None = None
    least: int = 1
    block: int = BLOCK


@dataclass(frozen=True, eq=False)
class Objects:
    """The objects of one mask, sorted by class and then by the first pixel in row-major order.

    So the objects of one class are in the order of the labels that `scipy.ndimage.label` gives for that class.

    Attributes:
        shape: (height, width) of the mask.
        sums: Classes, boxes, pixels, centroids, Euler numbers.
        px: Sizes in pixels.
        um: Sizes in micrometres; None without a pixel size.
        shapes: Figures without a unit, of the true shape where the pixel size is known.
        intensities: None if there are none.
        frame: The smallest box that holds all measured pixels; None without one.
        measured: How many pixels are measured.
        left_out: How many objects were too small.
    """

    shape: tuple[int, int]
    sums: Merged
    px: Lengths
    um: Lengths | None
    shapes: Shapes
    intensities: Intensities | None
    frame: Box | None
    measured: int
    left_out: int = 0

    def __len__(self) -> int:
        return len(self.sums.pixels)

    @property
    def holes(self) -> NDArray[np.int64]:
        """(object,) how many holes each has: 1 - Euler number."""
        found: NDArray[np.int64] = 1 - self.sums.euler
        return found

    @property
    def touches_edge(self) -> NDArray[np.bool_]:
        """(object,) whether it has a pixel in the first or last row or column of the mask."""
        box = self.sums.box
        first: NDArray[np.bool_] = (box[:, :2] == 0).any(axis=1)
        last: NDArray[np.bool_] = (box[:, 2:] == self.shape).any(axis=1)
        return first | last


def blocks(shape: tuple[int, int], side: int, *, leftwards: bool = False) -> Iterator[Box]:
    """Boxes of at most `side` pixels a side that partition a mask, in row-major order, or each row from right to left.

    Example:
        >>> [box.shape for box in blocks((3, 5), 4)], [box.shape for box in blocks((3, 5), 4, leftwards=True)]
        ([(3, 4), (3, 1)], [(3, 1), (3, 4)])
    """
    columns = range(0, shape[1], side)
    for y0 in range(0, shape[0], side):
        for x0 in reversed(columns) if leftwards else columns:
            yield Box(y0, x0, min(y0 + side, shape[0]), min(x0 + side, shape[1]))


def find_objects(
    shape: tuple[int, int],
    read: Callable[[Box], NDArray[np.uint8]],
    rule: ObjectRule | None = None,
    pixel_size_um: tuple[float, float] | None = None,
    intensity: Callable[[Box], NDArray[Any]] | None = None,
) -> Objects:
    """Find and measure the connected components of each class of a mask.

    They are those of `scipy.ndimage.label` on the whole mask, whatever the block. A pixel of `IGNORE_INDEX` is in no object.
    One block of the mask is in memory at a time, a row and a column of labels, and 0.6 to 1.4 kB for each object and for each
    place where one crosses the border of a block: more points of its hull, the longer and smoother its outline is.

    Args:
        shape: (height, width) of the mask.
        read: Gives the (y, x) uint8 pixels of a box.
        rule: What an object is.
        pixel_size_um: (y, x) in micrometres, or None.
        intensity: Gives the (y, x) intensities of the micrograph in a box, always of one dtype.

    Example:
        >>> mask = np.array([[1, 0, 0], [0, 1, 0], [255, 0, 1]], np.uint8)
        >>> found = find_objects(mask.shape, lambda box: mask[box.slices], ObjectRule(8, block=2))
        >>> found.sums.class_index.tolist(), found.sums.pixels.tolist(), found.sums.unmeasured.tolist()
        ([0, 1], [5, 3], [True, False])
        >>> found.holes.tolist(), found.px.area.tolist()
        ([1, 0], [5.0, 3.0])
    """
    rule = rule or ObjectRule()
    labeller = Labeller(shape, rule.connectivity, rule.only)
    parts, counts, points, outlines, corners, joins, unmeasured = _empty()
    offset = 0.0
    frame = _Frame()
    for box in blocks(shape, rule.block):
        mask = read(box)
        frame.add(box, mask)
        block = labeller.add(box, mask)
        values = None if intensity is None else _values(intensity(box))
        if values is not None and values.dtype == np.float64:
            # Squares of numbers far from 0 would lose the digits that the deviation is made of.
            offset = offset or _middle(values)
            values = values - offset
        sums, hulls = part_sums(block, values)
        outline = outline_sums(block, rule.connectivity)
        parts.append(sums)
        counts.append(hulls.counts)
        points.append(hulls.points)
        outlines.append(outline.sums)
        corners.append(outline.corners)
        joins.append(block.joins)
        unmeasured.append(touches_unmeasured(block))
    merged = merge(
        Found(
            _joined(_with_rows(parts)),
            Hulls(_joined(counts), _joined(points)),
            _joined(outlines),
            _joined(corners),
            _joined(joins),
            _joined(unmeasured),
        )
    )
    found = len(merged.pixels)
    merged = without_small(merged, rule.least)
    px, um, figures = _sizes(merged, pixel_size_um)
    values_of = None if intensity is None else intensities(merged, offset)
    return Objects(shape, merged, px, um, figures, values_of, frame.box, frame.measured, found - len(merged.pixels))


def label_blocks(
    shape: tuple[int, int],
    read: Callable[[Box], NDArray[np.uint8]],
    objects: Objects,
    rule: ObjectRule | None = None,
) -> Iterator[tuple[Box, NDArray[np.uint32]]]:
    """The numbers of the objects, pixel by pixel, block by block.

    Args:
        shape: (height, width) of the mask.
        read: Gives the pixels of a box, as for `find_objects`.
        objects: What `find_objects` gave.
        rule: As for `find_objects`.

    Yields:
        A box, and (y, x) uint32: 1 + the index of the object; 0 where there is none.

    Example:
        >>> mask = np.array([[1, 0, 1]], np.uint8)
        >>> def read(box):
        ...     return mask[box.slices]
        >>> [labels.tolist() for _, labels in label_blocks((1, 3), read, find_objects((1, 3), read))]
        [[[2, 1, 3]]]
    """
    rule = rule or ObjectRule()
    labeller = Labeller(shape, rule.connectivity, rule.only)
    for box in blocks(shape, rule.block):
        block = labeller.add(box, read(box))
        numbers = np.zeros(block.count + 1, np.uint32)
        numbers[1:] = objects.sums.object_of[block.ids[1 : block.count + 1]] + 1
        yield box, numbers[block.core]


def _empty() -> tuple[list[Any], ...]:
    """Lists with one entry without a row each, so that there is a dtype where nothing is found."""
    return (
        [np.zeros(0, PART)],
        [np.zeros(0, np.int64)],
        [np.zeros((0, 2), np.int32)],
        [np.zeros(0, OUTLINE)],
        [np.zeros((0, 4), np.int64)],
        [np.zeros((0, 2), np.int64)],
        [np.zeros(0, np.int64)],
    )


def _with_rows(parts: list[Any]) -> list[Any]:
    """Those with a row, whose dtype tells of intensities; else the first."""
    parts[:] = [each for each in parts if len(each)] or parts[:1]
    return parts


def _joined(arrays: list[Any]) -> Any:
    """All in one array; the list is emptied, so that they are not in memory twice."""
    whole = np.concatenate(arrays)
    arrays.clear()
    return whole


def _values(pixels: NDArray[Any]) -> NDArray[Any]:
    """Integers of at most 16 bits as they are, all else as float64."""
    small = pixels.dtype.kind in "iub" and pixels.dtype.itemsize * 8 <= _EXACT_BITS
    return pixels if small else pixels.astype(np.float64)


def _middle(values: NDArray[np.float64]) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else 0.0


def _sizes(merged: Merged, pixel_size_um: tuple[float, float] | None) -> tuple[Lengths, Lengths | None, Shapes]:
    px = lengths(merged)
    if pixel_size_um is None:
        return px, None, shapes(merged, px)
    if pixel_size_um[0] == pixel_size_um[1]:
        return px, px.scaled(pixel_size_um[0]), shapes(merged, px)
    um = lengths(merged, pixel_size_um)
    return px, um, shapes(merged, um, pixel_size_um)


@dataclass
class _Frame:
    """The smallest box around the measured pixels of the blocks so far, and their number."""

    box: Box | None = None
    measured: int = 0

    def add(self, box: Box, mask: NDArray[np.uint8]) -> None:
        known = mask != IGNORE_INDEX
        count = int(np.count_nonzero(known))
        if not count:
            return
        self.measured += count
        inner = box
        if count < mask.size:
            rows, columns = np.flatnonzero(known.any(axis=1)), np.flatnonzero(known.any(axis=0))
            inner = Box(
                box.y0 + int(rows[0]),
                box.x0 + int(columns[0]),
                box.y0 + int(rows[-1]) + 1,
                box.x0 + int(columns[-1]) + 1,
            )
        self.box = inner if self.box is None else self.box.union(inner)
