"""Chord lengths of classes by direction, counted block by block, and their distribution.

A chord is a run of pixels of one class on a line: a row, a column or a diagonal of pixels, all lines of each direction. It is
whole where both of its ends are at pixels of another class; a chord that ends at the border of the micrograph or at an
unmeasured pixel is cut, and is counted apart: it is longer than it is seen. Chord (lineal intercept) length distributions:
Underwood, Quantitative Stereology, 1970; Torquato, Random Heterogeneous Materials, 2002, section 2.5; ASTM E1382 measures the
same on grains.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.statistics.objects.finding import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.settings import ClassSpec

__all__ = ["DIRECTIONS", "ChordRow", "ChordTable", "Chords", "count_chords", "step_lengths"]

DIRECTIONS = ("x", "y", "down", "up")
"""Along rows, along columns, down to the right, up to the right."""

BLOCK = 1024
_STEPS = 2
"""Bins end at powers of the square root of 2, as those of object_sizes.csv."""


@dataclass(frozen=True, eq=False)
class Chords:
    """Numbers of chords of one mask, by length in pixels.

    Attributes:
        whole: By direction and class: {length: chords}, lengths in steps from pixel to pixel.
        cut: The same of chords that touch the border or unmeasured pixels.
    """

    whole: Mapping[tuple[str, int], Mapping[int, int]]
    cut: Mapping[tuple[str, int], Mapping[int, int]]


@dataclass(frozen=True, slots=True)
class ChordRow:
    """Chords of one class, direction and range of lengths; the columns of chords.csv.

    Shares are of the whole chords: by number, and by length (the share of the line).
    """

    scope: str
    name: str
    unfinished_micrographs: int
    class_index: int
    class_name: str
    direction: str
    unit: str
    length_from: float
    length_to: float
    chord_count: int
    cut_count: int
    mean_length: float | None
    number_share: float | None
    length_share: float | None


def step_lengths(pixel_size: tuple[float, float] = (1.0, 1.0)) -> dict[str, float]:
    """Distance of neighbouring pixels in each direction.

    Example:
        >>> step_lengths((3.0, 4.0))
        {'x': 4.0, 'y': 3.0, 'down': 5.0, 'up': 5.0}
    """
    height, width = pixel_size
    return {"x": width, "y": height, "down": math.hypot(height, width), "up": math.hypot(height, width)}


def count_chords(
    shape: tuple[int, int], read: Callable[[Box], NDArray[np.uint8]], classes: int, block: int = BLOCK
) -> Chords:
    """Count the chords of a mask.

    One block is in memory at a time, and for each line the chord that is open at the border of the blocks: memory grows with
    height plus width.

    Args:
        shape: (height, width) of the mask.
        read: Gives the (y, x) uint8 pixels of a box.
        classes: Number of classes K; other values are not measured.
        block: Side of a block.

    Example:
        >>> mask = np.array([[0, 1, 1, 0, 1]], np.uint8)
        >>> found = count_chords(mask.shape, lambda box: mask[box.slices], 2)
        >>> found.whole["x", 1], found.cut["x", 1], found.whole["x", 0]
        ({2: 1}, {1: 1}, {1: 1})
    """
    lines = {direction: _Lines(direction, shape, classes) for direction in DIRECTIONS}
    for box in blocks(shape, block):
        pixels = read(box)
        for direction in DIRECTIONS[:3]:
            lines[direction].add(box, pixels)
    # A line up to the right, read downwards, meets the blocks of a row of blocks from right to left.
    for box in blocks(shape, block, leftwards=True):
        lines["up"].add(box, read(box))
    for each in lines.values():
        each.end()
    return Chords(
        {(name, index): each.counts(index, cut=False) for name, each in lines.items() for index in range(classes)},
        {(name, index): each.counts(index, cut=True) for name, each in lines.items() for index in range(classes)},
    )


class _Lines:
    """The lines of one direction: what is counted, and the chord that is open at the end of each."""

    def __init__(self, direction: str, shape: tuple[int, int], classes: int) -> None:
        height, width = shape
        self._direction, self._classes, self._height = direction, classes, height
        number = {"x": height, "y": width}.get(direction, height + width - 1)
        # Before its first pixel a line has an unmeasured one, which no chord continues.
        self._value = np.full(number, 255, np.uint8)
        self._length = np.zeros(number, np.int64)
        self._cut = np.ones(number, np.bool_)
        longest = {"x": width, "y": height}.get(direction, min(shape))
        self._counts = np.zeros((2, classes, longest + 1), np.int64)

    def add(self, box: Box, pixels: NDArray[np.uint8]) -> None:
        """The next block on the lines; each line meets its blocks in order."""
        order, starts, own = _walk(self._direction, pixels.shape[0], pixels.shape[1])
        keys = own + self._first(box)
        values = pixels.ravel()[order]
        begins = np.empty(len(values), np.bool_)
        begins[0] = True
        np.not_equal(values[1:], values[:-1], out=begins[1:])
        begins[starts] = True
        runs = np.flatnonzero(begins)
        kinds = values[runs]
        lengths = np.diff(np.append(runs, len(values)))
        first = np.searchsorted(runs, starts)
        last = np.append(first[1:], len(runs)) - 1
        # A chord is cut if the pixel before or after it is not measured.
        before = np.append(np.uint8(255), kinds[:-1])
        before[first] = self._value[keys]
        cut = before >= self._classes
        same = kinds[first] == self._value[keys]
        lengths[first] += np.where(same, self._length[keys], 0)
        cut[first] = np.where(same, self._cut[keys], cut[first])
        ended = ~same
        self._count(
            self._value[keys][ended],
            self._length[keys][ended],
            self._cut[keys][ended] | (kinds[first][ended] >= self._classes),
        )
        after = np.append(kinds[1:], np.uint8(255))
        inner = np.ones(len(runs), np.bool_)
        inner[last] = False
        self._count(kinds[inner], lengths[inner], (cut | (after >= self._classes))[inner])
        self._value[keys], self._length[keys], self._cut[keys] = kinds[last], lengths[last], cut[last]

    def end(self) -> None:
        """Close what is open: it touches the border."""
        self._count(self._value, self._length, np.ones(len(self._value), np.bool_))

    def counts(self, index: int, *, cut: bool) -> dict[int, int]:
        """{length: chords} of a class."""
        row = self._counts[int(cut), index]
        return {int(length): int(row[length]) for length in np.flatnonzero(row)}

    def _first(self, box: Box) -> int:
        """Number of the first line of a block."""
        if self._direction in DIRECTIONS[:2]:
            return box.y0 if self._direction == "x" else box.x0
        if self._direction == "down":
            return box.x0 - (box.y1 - 1) + self._height - 1
        return box.x0 + box.y0

    def _count(self, kinds: NDArray[np.uint8], lengths: NDArray[np.int64], cut: NDArray[np.bool_]) -> None:
        known = (kinds < self._classes) & (lengths > 0)
        sides = self._counts.shape
        place = (cut[known].astype(np.int64) * sides[1] + kinds[known]) * sides[2] + lengths[known]
        if len(place):
            self._counts += np.bincount(place, minlength=math.prod(sides)).reshape(sides)


@lru_cache(maxsize=16)
def _walk(direction: str, height: int, width: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """All pixels of a block line by line: their order, where each line begins in it, and the number of each line."""
    y, x = np.divmod(np.arange(height * width), width)
    line = {"x": y, "y": x, "down": x - y + height - 1, "up": x + y}[direction]
    # Stable: on a line, pixels are in the order of rows (of columns, along x).
    order = np.argsort(line, kind="stable").astype(np.intp)
    sorted_lines = line[order]
    starts = np.flatnonzero(np.append(True, sorted_lines[1:] != sorted_lines[:-1]))
    return order, starts.astype(np.intp), sorted_lines[starts].astype(np.intp)


class ChordTable:
    """Adds up distributions: bins are the same for all micrographs of a unit."""

    def __init__(self, classes: Sequence[ClassSpec]) -> None:
        self._classes = classes
        self._bins: dict[tuple[int, str, str], dict[int, list[float]]] = defaultdict(dict)

    def add(self, chords: Chords, pixel_size_um: tuple[float, float] | None) -> None:
        """Add a micrograph.

        Args:
            chords: Its chords.
            pixel_size_um: (y, x), or None; lengths are in pixels then.
        """
        unit = "px" if pixel_size_um is None else "um"
        steps = step_lengths(pixel_size_um or (1.0, 1.0))
        for place, found in enumerate((chords.whole, chords.cut)):
            for (direction, index), counts in found.items():
                bins = self._bins[index, direction, unit]
                for pixels, number in counts.items():
                    length = pixels * steps[direction]
                    # Lengths at the end of a bin, but for rounding, are in the next one.
                    step = math.floor(_STEPS * math.log2(length) + 1e-9)
                    cell = bins.setdefault(step, [0, 0, 0.0])
                    cell[place] += number
                    cell[2] += number * length if place == 0 else 0.0

    def rows(self, scope: str, name: str, unfinished: int = 0) -> Iterator[ChordRow]:
        """The rows of all that was added."""
        for (index, direction, unit), bins in sorted(self._bins.items(), key=_order):
            number = sum(each[0] for each in bins.values())
            total = math.fsum(each[2] for each in bins.values())
            for step in range(min(bins, default=0), max(bins, default=-1) + 1):
                whole, cut, length = bins.get(step, (0, 0, 0.0))
                yield ChordRow(
                    scope=scope,
                    name=name,
                    unfinished_micrographs=unfinished,
                    class_index=index,
                    class_name=self._classes[index].name,
                    direction=direction,
                    unit=unit,
                    length_from=2 ** (step / _STEPS),
                    length_to=2 ** ((step + 1) / _STEPS),
                    chord_count=int(whole),
                    cut_count=int(cut),
                    mean_length=length / whole if whole else None,
                    number_share=whole / number if number else None,
                    length_share=length / total if total else None,
                )


def _order(item: tuple[tuple[int, str, str], object]) -> tuple[int, str, int]:
    (index, direction, unit), _ = item
    return index, unit, DIRECTIONS.index(direction)
