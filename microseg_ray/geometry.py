"""Pixel geometry: boxes, tiles, and the grid that divides a micrograph.

Uses integers and the standard library only. Intervals are half-open, y comes before x, and the origin is the top left
pixel of the micrograph.

```
                 tile.box (what the model sees)
             +---------------------------+
             |  halo                     |
             |    +-----------------+    |        the cores partition the micrograph;
             |    |    tile.core    |    |        neighbouring tiles overlap by at least 2 * halo
             |    +-----------------+    |
             |                           |
             +---------------------------+

   an edge tile (here: top right) is shifted inward, not padded, so its core reaches the micrograph's border:

        micrograph x1
   +------+------------+|
   |      |   core     ||
   |      |            ||
   |      +------------+|
   |         halo      ||
   +-------------------+|
```

A model with poolings needs tile origins and sizes that are multiples of its *stride*. Only the bottom and the right
of a micrograph are padded for that, by less than one stride: tiles lie inside the *padded* micrograph, and
`Tile.visible` is the part of a tile that holds real pixels. With stride 1 nothing is padded.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Box", "Tile", "TileGrid", "ceil_to", "floor_to"]


def ceil_to(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`.

    Example:
        >>> ceil_to(92, 16), ceil_to(96, 16)
        (96, 96)
    """
    return -(-value // multiple) * multiple


def floor_to(value: int, multiple: int) -> int:
    """The largest multiple of `multiple` that is at most `value`.

    Example:
        >>> floor_to(92, 16), floor_to(96, 16)
        (80, 96)
    """
    return value // multiple * multiple


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A half-open rectangle of pixels: rows y0 to y1 - 1, columns x0 to x1 - 1.

    Raises:
        ValueError: An end lies before its start.

    Example:
        >>> box = Box(0, 10, 4, 13)
        >>> box.shape, box.area
        ((4, 3), 12)
        >>> box.intersection(Box(2, 12, 9, 20))
        Box(y0=2, x0=12, y1=4, x1=13)
    """

    y0: int
    x0: int
    y1: int
    x1: int

    def __post_init__(self) -> None:
        if self.y1 < self.y0 or self.x1 < self.x0:
            raise ValueError(f"Box(y0={self.y0}, x0={self.x0}, y1={self.y1}, x1={self.x1}) ends before it starts")

    @classmethod
    def of_shape(cls, shape: tuple[int, int]) -> Box:
        """The box of a whole micrograph of this (height, width)."""
        return cls(0, 0, shape[0], shape[1])

    @property
    def height(self) -> int:
        """Rows."""
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        """Columns."""
        return self.x1 - self.x0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width), as a numpy shape."""
        return self.height, self.width

    @property
    def area(self) -> int:
        """Pixels inside."""
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """Slices that cut this box out of a (..., y, x) array: `array[(..., *box.slices)]`."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def contains(self, other: Box) -> bool:
        """Whether every pixel of `other` lies inside this box."""
        return self.y0 <= other.y0 and self.x0 <= other.x0 and other.y1 <= self.y1 and other.x1 <= self.x1

    def intersection(self, other: Box) -> Box:
        """The pixels in both boxes; an empty box where there are none."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        return Box(y0, x0, max(y0, min(self.y1, other.y1)), max(x0, min(self.x1, other.x1)))

    def union(self, other: Box) -> Box:
        """The smallest box that contains both."""
        return Box(min(self.y0, other.y0), min(self.x0, other.x0), max(self.y1, other.y1), max(self.x1, other.x1))

    def grow(self, margin: int) -> Box:
        """This box with `margin` pixels added on each of its four sides (it may leave the micrograph)."""
        return Box(self.y0 - margin, self.x0 - margin, self.y1 + margin, self.x1 + margin)

    def relative_to(self, frame: Box) -> Box:
        """This box in the coordinates of an array that covers `frame`.

        Example:
            >>> Box(10, 10, 12, 12).relative_to(Box(8, 9, 20, 20))
            Box(y0=2, x0=1, y1=4, x1=3)
        """
        return Box(self.y0 - frame.y0, self.x0 - frame.x0, self.y1 - frame.y0, self.x1 - frame.x0)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """One input window of a model, and the part of its prediction that is kept.

    Attributes:
        box: Input of the model, inside the padded micrograph.
        core: Pixels that are kept; inside `box` and inside the micrograph.
        visible: The part of `box` inside the micrograph (real pixels); the rest is padding.

    Raises:
        ValueError: The core leaves the tile.
    """

    box: Box
    core: Box
    visible: Box

    def __post_init__(self) -> None:
        if not self.box.contains(self.core):
            raise ValueError(f"the core {self.core} leaves its tile {self.box}")

    @property
    def origin(self) -> tuple[int, int]:
        """(y0, x0) of the tile in the micrograph."""
        return self.box.y0, self.box.x0

    @property
    def core_in_tile(self) -> Box:
        """The core in the coordinates of the tile's own array."""
        return self.core.relative_to(self.box)


@dataclass(frozen=True, slots=True)
class _Interval:
    """One axis of a tile: its start, and the interval of its core."""

    start: int
    core_start: int
    core_stop: int


@dataclass(frozen=True)
class TileGrid:
    """The tiles of one micrograph: cores partition it, every tile has the same shape.

    Without `shard`, tiles have a constant pitch (tile - 2 * halo) and only the last tile of each axis is shifted inward;
    training tiles and blending use this grid. With `shard`, every core lies inside one shard, so that a shard can be
    computed independently and no tile is computed for two shards; the tile size is reduced as far as the number of tiles allows.

    Args:
        shape: (height, width) of the micrograph, at least 1 x 1.
        tile: Side or (height, width) of a tile; with `shard`, the largest that is allowed.
        halo: Side or (y, x) of the halo in pixels: each core pixel has at least that many real pixels (or the micrograph's
            border) on each side within its tile.
        stride: The model's stride; tile origins are multiples of it.
        shard: Side or (height, width) of a mask shard, a multiple of `stride`.

    Raises:
        ValueError: A value is out of range, or the halo leaves no core.

    Example:
        >>> grid = TileGrid(shape=(100, 70), tile=64, halo=8)
        >>> [tile.origin for tile in grid]
        [(0, 0), (0, 6), (36, 0), (36, 6)]
        >>> [tile.core.shape for tile in grid]
        [(56, 56), (56, 14), (44, 56), (44, 14)]
        >>> sum(tile.core.area for tile in grid) == 100 * 70
        True
    """

    shape: tuple[int, int]
    tile: int | tuple[int, int]
    halo: int | tuple[int, int] = 0
    stride: int = 1
    shard: int | tuple[int, int] | None = None
    _tile: tuple[int, int] = field(init=False, repr=False, compare=False)
    _halo: tuple[int, int] = field(init=False, repr=False, compare=False)
    _shard: tuple[int, int] | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        tile, halo = _pair(self.tile), _pair(self.halo)
        shard = None if self.shard is None else _pair(self.shard)
        if len(self.shape) != 2 or min(self.shape) < 1:
            raise ValueError(f"shape {self.shape}: must be (height, width), at least 1 x 1 pixels")
        if self.stride < 1:
            raise ValueError(f"stride {self.stride}: must be at least 1")
        if min(halo) < 0:
            raise ValueError(f"halo {halo}: must not be negative")
        if min(tile) < 1 or tile[0] % self.stride or tile[1] % self.stride:
            raise ValueError(f"tile {tile}: must be a positive multiple of the stride {self.stride}")
        if shard is not None and (min(shard) < 1 or shard[0] % self.stride or shard[1] % self.stride):
            raise ValueError(f"shard {shard}: must be a positive multiple of the stride {self.stride}")
        object.__setattr__(self, "_tile", tile)
        object.__setattr__(self, "_halo", halo)
        object.__setattr__(self, "_shard", shard)
        _ = self._axes  # raises now, not on first use, if the halo leaves no core

    @property
    def padded_shape(self) -> tuple[int, int]:
        """(height, width) of the micrograph padded at the bottom and right to a multiple of the stride."""
        return ceil_to(self.shape[0], self.stride), ceil_to(self.shape[1], self.stride)

    @property
    def tile_shape(self) -> tuple[int, int]:
        """(height, width) of every tile; smaller than requested if the micrograph is smaller."""
        return self._axes[0][0], self._axes[1][0]

    @cached_property
    def _axes(self) -> tuple[tuple[int, list[_Interval]], tuple[int, list[_Interval]]]:
        y, x = (
            _axis(
                self.shape[i],
                self._tile[i],
                self._halo[i],
                self.stride,
                None if self._shard is None else self._shard[i],
            )
            for i in (0, 1)
        )
        return y, x

    @property
    def counts(self) -> tuple[int, int]:
        """Tiles along (y, x)."""
        return len(self._axes[0][1]), len(self._axes[1][1])

    def __len__(self) -> int:
        return self.counts[0] * self.counts[1]

    def __iter__(self) -> Iterator[Tile]:
        """Tiles in row-major order, which is the order of all sums and writes."""
        for row in range(self.counts[0]):
            for column in range(self.counts[1]):
                yield self.at(row, column)

    def at(self, row: int, column: int) -> Tile:
        """The tile at this row and column of the grid."""
        (height, rows), (width, columns) = self._axes
        y, x = rows[row], columns[column]
        box = Box(y.start, x.start, y.start + height, x.start + width)
        core = Box(y.core_start, x.core_start, y.core_stop, x.core_stop)
        return Tile(box, core, box.intersection(Box.of_shape(self.shape)))

    def tiles_touching(self, box: Box) -> list[Tile]:
        """Tiles whose visible part shares a pixel with `box`, in row-major order.

        Example:
            >>> grid = TileGrid(shape=(100, 70), tile=64, halo=8)
            >>> [tile.origin for tile in grid.tiles_touching(Box(0, 0, 1, 1))]
            [(0, 0)]
        """
        box = box.intersection(Box.of_shape(self.shape))
        if box.area == 0:
            return []
        rows = _touching(*self._axes[0], box.y0, box.y1)
        columns = _touching(*self._axes[1], box.x0, box.x1)
        return [self.at(row, column) for row in rows for column in columns]

    def tiles_owning(self, box: Box) -> list[Tile]:
        """Tiles whose core shares a pixel with `box`, in row-major order."""
        box = box.intersection(Box.of_shape(self.shape))
        if box.area == 0:
            return []
        rows, columns = _owning(self._axes[0][1], box.y0, box.y1), _owning(self._axes[1][1], box.x0, box.x1)
        return [self.at(row, column) for row in rows for column in columns]

    @property
    def halo_tax(self) -> float:
        """Pixels computed for each pixel kept; 1.0 means that nothing is computed twice.

        Example:
            >>> TileGrid(shape=(1024, 1024), tile=512, halo=0).halo_tax
            1.0
        """
        height, width = self.tile_shape
        return len(self) * height * width / (self.shape[0] * self.shape[1])


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _axis(length: int, tile: int, halo: int, stride: int, shard: int | None) -> tuple[int, list[_Interval]]:
    """Divide one axis: the tile size, and start and core of each tile."""
    if shard is None:
        return _regular_axis(length, tile, halo, stride)
    return _sharded_axis(length, tile, halo, stride, shard)


def _regular_axis(length: int, tile: int, halo: int, stride: int) -> tuple[int, list[_Interval]]:
    padded = ceil_to(length, stride)
    if padded <= tile:
        return padded, [_Interval(0, 0, length)]
    # Rounding the pitch down makes the effective halo larger than requested.
    pitch = floor_to(tile - 2 * halo, stride)
    if pitch < 1:
        raise ValueError(f"a tile of {tile} px leaves no core: it must exceed 2 x halo ({halo}) by a stride ({stride})")
    intervals: list[_Interval] = []
    core_start = 0
    # All tiles but the last, which is shifted inward; each core ends `halo` before its tile does.
    for start in range(0, padded - tile, pitch):
        core_stop = start + tile - halo
        intervals.append(_Interval(start, core_start, core_stop))
        core_start = core_stop
    return tile, [*intervals, _Interval(padded - tile, core_start, length)]


def _sharded_axis(length: int, tile: int, halo: int, stride: int, shard: int) -> tuple[int, list[_Interval]]:
    padded = ceil_to(length, stride)
    halo = ceil_to(halo, stride)
    smallest = min(2 * halo + stride, padded)
    if tile < smallest:
        raise ValueError(f"a tile of {tile} px leaves no core: it must exceed 2 x halo ({halo}) by a stride ({stride})")

    def cut(side: int) -> list[_Interval]:
        return [
            interval
            for begin in range(0, length, shard)
            for interval in _shard_cores(
                begin, min(begin + shard, length), min(begin + shard + halo, padded), side, halo
            )
        ]

    # The smallest tile that needs as few tiles as the largest allowed one; a larger tile never needs more.
    sides = range(smallest, min(tile, padded) + 1, stride)
    side = sides[bisect_left(sides, -len(cut(sides[-1])), key=lambda side: -len(cut(side)))]
    return side, cut(side)


def _shard_cores(begin: int, end: int, reach: int, side: int, halo: int) -> Iterator[_Interval]:
    """Divide [begin, end) into the longest cores that a tile of `side` allows; no tile extends beyond `reach`."""
    core_start = begin
    while core_start < end:
        # No halo at the micrograph's border: there, a whole-image pass uses the network's padding, too.
        start = max(0, min(core_start - halo, reach - side))
        core_stop = end if start + side >= reach else start + side - halo
        yield _Interval(start, core_start, core_stop)
        core_start = core_stop


def _touching(size: int, intervals: list[_Interval], begin: int, end: int) -> range:
    """Indices of the tiles that share a pixel with [begin, end); starts are sorted, so the indices are consecutive."""
    first = bisect_right(intervals, begin - size, key=lambda interval: interval.start)
    return range(first, bisect_left(intervals, end, key=lambda interval: interval.start))


def _owning(intervals: list[_Interval], begin: int, end: int) -> range:
    first = bisect_right(intervals, begin, key=lambda interval: interval.core_stop)
    return range(first, bisect_left(intervals, end, key=lambda interval: interval.core_start))
