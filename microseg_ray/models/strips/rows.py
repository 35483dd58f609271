"""Which rows of a layer's input its output rows need: all that a strip must know of a layer.

Rows are counted from the top of the whole image. A need may leave the image: the rows above 0 or below the height are then
the layer's padding, as in a pass over the whole image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

__all__ = ["Bordered", "Cut", "Range", "Resampled", "Rows", "Same", "Transposed", "Window"]


class Range(NamedTuple):
    """Rows from `begin` up to and without `end`.

    Example:
        >>> Range(-1, 4).inside(3), Range(2, 5).length
        (Range(begin=0, end=3), 3)
    """

    begin: int
    end: int

    @property
    def length(self) -> int:
        """Number of rows; 0 where there are none."""
        return max(0, self.end - self.begin)

    def inside(self, height: int) -> Range:
        """The rows that an image of this height has."""
        return Range(max(0, self.begin), min(height, self.end))


class Cut(NamedTuple):
    """How a layer is applied to a range of rows, without reference to where the rows lie.

    Attributes:
        above: Rows of padding at the top.
        below: Rows of padding at the bottom.
        skip: Rows of the result that are dropped at its top.
        length: Rows of the result that remain.
    """

    above: int
    below: int
    skip: int
    length: int


class Rows(Protocol):
    """The rows of one kind of layer.

    Attributes:
        whole: Input rows that belong together: output rows are made of so many, and no row is used twice; else 1.
    """

    @property
    def whole(self) -> int:
        """See above."""

    def height(self, height: int) -> int:
        """Rows that come out of so many rows."""

    def needs(self, begin: int, end: int) -> Range:
        """Input rows that the output rows from `begin` to `end` need, padding included."""

    def ready(self, end: int) -> int:
        """Output rows that can be computed from the input rows up to `end`, if the image goes on below them."""

    def cut(self, wanted: Range, given: Range, height: int) -> Cut:
        """How `wanted` comes out of the input rows `given`, of an input of `height` rows."""


@dataclass(frozen=True)
class Same:
    """Each output row needs its own input row."""

    whole: ClassVar[int] = 1

    def height(self, height: int) -> int:
        """As `Rows.height`."""
        return height

    def needs(self, begin: int, end: int) -> Range:
        """As `Rows.needs`."""
        return Range(begin, end)

    def ready(self, end: int) -> int:
        """As `Rows.ready`."""
        return end

    def cut(self, wanted: Range, given: Range, height: int) -> Cut:  # noqa: ARG002 - a method of `Rows`
        """As `Rows.cut`."""
        return Cut(0, 0, 0, wanted.length)


@dataclass(frozen=True)
class Window:
    """Convolution or pooling.

    Example:
        >>> rows = Window(kernel=3, stride=2, padding=1)
        >>> rows.height(8), rows.needs(1, 3), rows.ready(8)
        (4, Range(begin=1, end=6), 4)
    """

    kernel: int
    stride: int = 1
    padding: int = 0
    dilation: int = 1

    @property
    def whole(self) -> int:
        """As `Rows.whole`."""
        return self.stride if self.kernel == self.stride and self.dilation == 1 and not self.padding else 1

    @property
    def _reach(self) -> int:
        return self.dilation * (self.kernel - 1)

    def height(self, height: int) -> int:
        """As `Rows.height`."""
        return (height + 2 * self.padding - self._reach - 1) // self.stride + 1

    def needs(self, begin: int, end: int) -> Range:
        """As `Rows.needs`."""
        first = begin * self.stride - self.padding
        return Range(first, (end - 1) * self.stride - self.padding + self._reach + 1)

    def ready(self, end: int) -> int:
        """As `Rows.ready`."""
        return max(0, (end - 1 + self.padding - self._reach) // self.stride + 1)

    def cut(self, wanted: Range, given: Range, height: int) -> Cut:  # noqa: ARG002 - a method of `Rows`
        """As `Rows.cut`."""
        needed = self.needs(*wanted)
        return Cut(max(0, -needed.begin), max(0, needed.end - height), 0, wanted.length)


@dataclass(frozen=True)
class Transposed:
    """Transposed convolution.

    Example:
        >>> rows = Transposed(kernel=2, stride=2)
        >>> rows.height(4), rows.needs(3, 6), rows.ready(4)
        (8, Range(begin=1, end=3), 8)
    """

    whole: ClassVar[int] = 1
    kernel: int
    stride: int
    padding: int = 0
    dilation: int = 1

    @property
    def _reach(self) -> int:
        return self.dilation * (self.kernel - 1)

    def height(self, height: int) -> int:
        """As `Rows.height`."""
        return (height - 1) * self.stride - 2 * self.padding + self._reach + 1

    def needs(self, begin: int, end: int) -> Range:
        """As `Rows.needs`; rows beyond the border contribute nothing."""
        first = -((self._reach - self.padding - begin) // self.stride)
        return Range(first, (end - 1 + self.padding) // self.stride + 1)

    def ready(self, end: int) -> int:
        """As `Rows.ready`."""
        return max(0, end * self.stride - self.padding)

    def cut(self, wanted: Range, given: Range, height: int) -> Cut:  # noqa: ARG002 - a method of `Rows`
        """As `Rows.cut`."""
        return Cut(0, 0, wanted.begin + self.padding - given.begin * self.stride, wanted.length)


@dataclass(frozen=True)
class Resampled:
    """Enlargement by a whole factor, nearest or bilinear.

    Example:
        >>> Resampled(2, bilinear=True).needs(2, 4), Resampled(2, bilinear=False).needs(2, 4)
        (Range(begin=0, end=3), Range(begin=1, end=2))
    """

    whole: ClassVar[int] = 1
    factor: int
    bilinear: bool

    def height(self, height: int) -> int:
        """As `Rows.height`."""
        return height * self.factor

    def needs(self, begin: int, end: int) -> Range:
        """As `Rows.needs`; bilinear rows beyond the border are the border's own row again."""
        if not self.bilinear:
            return Range(begin // self.factor, (end - 1) // self.factor + 1)
        # The centre of output row o lies at (o + 1/2) / factor - 1/2 of the input.
        return Range(self._above(begin), self._above(end - 1) + 2)

    def _above(self, row: int) -> int:
        return (2 * row + 1 - self.factor) // (2 * self.factor)

    def ready(self, end: int) -> int:
        """As `Rows.ready`."""
        if not self.bilinear:
            return end * self.factor
        # The last row whose lower neighbour is row end - 1.
        return max(0, (2 * (end - 1) * self.factor + self.factor) // 2)

    def cut(self, wanted: Range, given: Range, height: int) -> Cut:  # noqa: ARG002 - a method of `Rows`
        """As `Rows.cut`."""
        return Cut(0, 0, wanted.begin - given.begin * self.factor, wanted.length)


@dataclass(frozen=True)
class Bordered:
    """Padding as a layer of its own: constant, replicated or mirrored rows.

    Attributes:
        top: Rows above.
        bottom: Rows below.
        source: How many rows from the border inwards the padding is made of.
    """

    whole: ClassVar[int] = 1
    top: int
    bottom: int
    source: int

    def height(self, height: int) -> int:
        """As `Rows.height`."""
        return height + self.top + self.bottom

    def needs(self, begin: int, end: int) -> Range:
        """As `Rows.needs`; with the rows that a border at either end would be made of."""
        first, last = begin - self.top, end - self.top
        return Range(min(first, first - self.source), max(last, self.source) if first < 0 else last)

    def ready(self, end: int) -> int:
        """As `Rows.ready`."""
        return end + self.top if end >= self.source else 0

    def cut(self, wanted: Range, given: Range, height: int) -> Cut:
        """As `Rows.cut`; `skip` is where the middle begins in `given`."""
        above = min(wanted.length, max(0, self.top - wanted.begin))
        below = min(wanted.length, max(0, wanted.end - self.top - height))
        middle = max(wanted.begin - self.top, 0)
        return Cut(above, below, middle - given.begin, wanted.length)
