"""What people draw, as shapes that fill pixels: polygon, rectangle, ellipse, line, bitmap.

Coordinates are (y, x) floats in px, and the centre of the first pixel is (0, 0). Formats that put (0, 0) at the first
pixel's outer corner are shifted by half a pixel when they are read. A shape is asked for the pixels of one box at a time,
so what it takes is bounded by the region and not by the micrograph.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor
from typing import TYPE_CHECKING, Protocol

import numpy as np

from microseg_ray.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Bitmap", "Ellipse", "Extent", "Line", "Polygon", "Rectangle", "Shape", "Union"]

Extent = tuple[float, float, float, float]
"""Least y, least x, greatest y, greatest x."""

# Index arrays of skimage.draw take 16 bytes a pixel, so they are asked for a band of rows at a time.
_BAND_PIXELS = 1 << 20
_LEAF_PIXELS = 1 << 11


class Shape(Protocol):
    """What can be filled."""

    @property
    def extent(self) -> Extent:
        """Where it lies, as drawn: it may leave the micrograph."""
        ...

    def bounds(self) -> Box:
        """A box that holds all its pixels; it may leave the micrograph."""
        ...

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Which pixels of a box belong to it: bool (y, x) of the box's shape."""
        ...


@dataclass(frozen=True, eq=False)
class Polygon:
    """Rings by the even-odd rule: one ring is a polygon, a second one inside it a hole.

    A pixel belongs to a ring if its centre lies inside or on it, exactly as `skimage.draw.polygon` has it.

    Args:
        rings: Of each ring, the corners: float (n, 2), (y, x), n >= 3; the last is joined to the first.

    Example:
        >>> square = Polygon((np.array([[1, 1], [1, 3], [3, 3], [3, 1]], float),))
        >>> square.fill(Box(0, 0, 5, 5)).sum()
        np.int64(9)
    """

    rings: tuple[NDArray[np.float64], ...]

    @property
    def extent(self) -> Extent:
        """Where it lies."""
        return _extent(np.concatenate(self.rings))

    def bounds(self) -> Box:
        """The box of its pixels."""
        return _box(self.extent)

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Its pixels in a box."""
        inside = np.zeros(box.shape, bool)
        for ring in self.rings if box.area else ():
            part = np.zeros(box.shape, bool)
            _fill_ring(ring, box, part)
            inside ^= part
        return inside


@dataclass(frozen=True, eq=False)
class Union:
    """Shapes that count as one region, as the parts of a multipolygon do.

    Example:
        >>> pair = Union((Rectangle(0, 0, 1, 2), Rectangle(0, 1, 1, 4)))
        >>> pair.fill(Box(0, 0, 1, 5)).tolist()
        [[True, True, True, True, False]]
    """

    parts: tuple[Shape, ...]

    @property
    def extent(self) -> Extent:
        """Where they lie."""
        least = np.array([part.extent[:2] for part in self.parts]).min(axis=0)
        greatest = np.array([part.extent[2:] for part in self.parts]).max(axis=0)
        return float(least[0]), float(least[1]), float(greatest[0]), float(greatest[1])

    def bounds(self) -> Box:
        """The box of their pixels."""
        return _box(self.extent)

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Their pixels in a box."""
        inside = np.zeros(box.shape, bool)
        for part in self.parts:
            inner = part.bounds().intersection(box)
            if inner.area:
                inside[inner.relative_to(box).slices] |= part.fill(inner)
        return inside


@dataclass(frozen=True)
class Rectangle:
    """Half-open: a pixel belongs to it if y0 <= y < y1 and x0 <= x < x1, so whole numbers give height times width.

    Example:
        >>> Rectangle(1, 1, 3, 4).fill(Box(0, 0, 5, 5)).sum()
        np.int64(6)
    """

    y0: float
    x0: float
    y1: float
    x1: float

    @property
    def extent(self) -> Extent:
        """Where it lies."""
        return self.y0, self.x0, self.y1, self.x1

    def bounds(self) -> Box:
        """The box of its pixels."""
        y0, x0 = ceil(self.y0), ceil(self.x0)
        return Box(y0, x0, max(y0, ceil(self.y1)), max(x0, ceil(self.x1)))

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Its pixels in a box."""
        inside = np.zeros(box.shape, bool)
        inner = self.bounds().intersection(box)
        if inner.area:
            inside[inner.relative_to(box).slices] = True
        return inside


@dataclass(frozen=True)
class Ellipse:
    """Pixels whose centre lies inside, as `skimage.draw.ellipse` has it; a circle has two equal radii.

    Args:
        y: Of the centre.
        x: Of the centre.
        ry: Half axis along y before it is turned, px.
        rx: Half axis along x before it is turned, px.
        theta: Turned clockwise as seen on the screen (y points down), radians.

    Example:
        >>> Ellipse(2, 2, 1.5, 1.5).fill(Box(0, 0, 5, 5)).sum()
        np.int64(9)
    """

    y: float
    x: float
    ry: float
    rx: float
    theta: float = 0.0

    @property
    def extent(self) -> Extent:
        """Where it lies."""
        sine, cosine = abs(np.sin(self.theta)), abs(np.cos(self.theta))
        half_y = float(np.hypot(self.ry * cosine, self.rx * sine))
        half_x = float(np.hypot(self.rx * cosine, self.ry * sine))
        return self.y - half_y, self.x - half_x, self.y + half_y, self.x + half_x

    def bounds(self) -> Box:
        """The box of its pixels."""
        return _box(self.extent)

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Its pixels in a box."""
        from skimage.draw import ellipse

        inside = np.zeros(box.shape, bool)
        for band in _bands(box):
            # skimage turns against the clock.
            rows, columns = ellipse(
                self.y - band.y0, self.x - band.x0, self.ry, self.rx, shape=band.shape, rotation=-self.theta
            )
            inside[rows + (band.y0 - box.y0), columns] = True
        return inside


@dataclass(frozen=True, eq=False)
class Line:
    """A line through points, drawn with a round pen: pixels whose centre is at most half the width away.

    Args:
        points: float (n, 2), (y, x), n >= 2.
        width: px, at least 1, so that the line has no gaps.

    Example:
        >>> Line(np.array([[1, 0], [1, 4]], float), 1).fill(Box(0, 0, 3, 5)).sum()
        np.int64(5)
    """

    points: NDArray[np.float64]
    width: float

    @property
    def extent(self) -> Extent:
        """Where its middle lies."""
        return _extent(self.points)

    def bounds(self) -> Box:
        """The box of its pixels."""
        y0, x0, y1, x1 = self.extent
        half = self.width / 2
        return _box((y0 - half, x0 - half, y1 + half, x1 + half))

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Its pixels in a box."""
        inside = np.zeros(box.shape, bool)
        for start, end in zip(self.points[:-1], self.points[1:], strict=True):
            piece = Line(np.stack([start, end]), self.width).bounds().intersection(box)
            for band in _bands(piece) if piece.area else ():
                inside[band.relative_to(box).slices] |= _near_segment(start, end, self.width / 2, band)
        return inside


@dataclass(frozen=True, eq=False)
class Bitmap:
    """Pixels given one by one.

    Args:
        y0: Row of the first pixel of `mask` in the micrograph.
        x0: Its column.
        mask: bool (y, x).

    Example:
        >>> Bitmap(1, 0, np.array([[True, False]])).fill(Box(0, 0, 2, 2)).tolist()
        [[False, False], [True, False]]
    """

    y0: int
    x0: int
    mask: NDArray[np.bool_]

    @property
    def extent(self) -> Extent:
        """Where it lies."""
        height, width = self.mask.shape
        return float(self.y0), float(self.x0), float(self.y0 + height - 1), float(self.x0 + width - 1)

    def bounds(self) -> Box:
        """The box of its pixels."""
        return Box(self.y0, self.x0, self.y0 + self.mask.shape[0], self.x0 + self.mask.shape[1])

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Its pixels in a box."""
        inside = np.zeros(box.shape, bool)
        own = self.bounds()
        inner = own.intersection(box)
        if inner.area:
            inside[inner.relative_to(box).slices] = self.mask[inner.relative_to(own).slices]
        return inside


def _extent(points: NDArray[np.float64]) -> Extent:
    (y0, x0), (y1, x1) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    return y0, x0, y1, x1


def _box(extent: Extent) -> Box:
    y0, x0, y1, x1 = extent
    return Box(floor(y0), floor(x0), ceil(y1) + 1, ceil(x1) + 1)


def _bands(box: Box) -> Iterator[Box]:
    rows = max(1, _BAND_PIXELS // max(1, box.shape[1]))
    for y0 in range(box.y0, box.y1, rows):
        yield Box(y0, box.x0, min(y0 + rows, box.y1), box.x1)


def _fill_ring(ring: NDArray[np.float64], box: Box, inside: NDArray[np.bool_]) -> None:
    """Set the pixels of a box that a ring holds, in `inside`, which has the box's shape.

    skimage looks at every corner for every pixel. So the box is halved until no edge is near, where one pixel speaks for
    all, or until it is small; the time goes with the length of the outline and not with the area.
    """
    from skimage.draw import polygon

    # A run of corners that are all above the box, below it, left or right of it, is replaced by its two ends: with the
    # line between them it closes a loop beside the box, and a ray from inside the box meets a loop an even number of times.
    for axis, low, high in ((0, box.y0, box.y1), (1, box.x0, box.x1)):
        side = np.where(ring[:, axis] < low - 1, -1, np.where(ring[:, axis] > high, 1, 0))
        ring = ring[(side == 0) | (side != np.roll(side, 1)) | (side != np.roll(side, -1))]
    if not len(ring):
        return
    before = np.roll(ring, 1, axis=0)
    least, greatest = np.minimum(ring, before), np.maximum(ring, before)
    near = (greatest >= (box.y0 - 1, box.x0 - 1)).all(axis=1) & (least <= (box.y1, box.x1)).all(axis=1)
    corners = ring - (box.y0, box.x0)
    if not near.any():
        inside[:] = len(polygon(corners[:, 0], corners[:, 1], (1, 1))[0]) > 0
    elif box.area <= _LEAF_PIXELS:
        inside[polygon(corners[:, 0], corners[:, 1], box.shape)] = True
    elif box.height >= box.width:
        half = box.y0 + box.height // 2
        _fill_ring(ring, Box(box.y0, box.x0, half, box.x1), inside[: half - box.y0])
        _fill_ring(ring, Box(half, box.x0, box.y1, box.x1), inside[half - box.y0 :])
    else:
        half = box.x0 + box.width // 2
        _fill_ring(ring, Box(box.y0, box.x0, box.y1, half), inside[:, : half - box.x0])
        _fill_ring(ring, Box(box.y0, half, box.y1, box.x1), inside[:, half - box.x0 :])


def _near_segment(start: NDArray[np.float64], end: NDArray[np.float64], reach: float, box: Box) -> NDArray[np.bool_]:
    y = np.arange(box.y0, box.y1)[:, None] - start[0]
    x = np.arange(box.x0, box.x1)[None, :] - start[1]
    along = end - start
    length2 = float(along @ along)
    share = np.clip((y * along[0] + x * along[1]) / length2, 0, 1) if length2 else np.zeros(np.broadcast(y, x).shape)
    near: NDArray[np.bool_] = (y - share * along[0]) ** 2 + (x - share * along[1]) ** 2 <= reach**2 + 1e-9
    return near
