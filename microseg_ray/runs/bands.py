"""Bands: the unit of work where micrographs are computed in strips.

A band is some rows of shards of one micrograph, over its whole width, or over a group of shard columns where the width would
not fit the memory. It begins a halo above its first row, as a stream of its own, and leaves those rows out; so its pixels do not
depend on how the micrograph was divided.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from microseg_ray.geometry import Box, ceil_to, floor_to
from microseg_ray.stitching.extra import extra_output
from microseg_ray.stitching.shards import EnginePlan, ShardPixels, extended, unmeasured
from microseg_ray.stitching.spread import SpreadTally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.runs.store.spec import MaskSpec

__all__ = ["BAND_PIXELS", "Division", "StripStream", "band_pixels", "band_tax"]

Shard = tuple[int, int]
Limits = tuple[float, float]

BAND_PIXELS = 1 << 26
"""Pixels of a band, at most; with fewer rows than `_LEAST_ROWS` the halo above it would cost too much."""

_LEAST_ROWS = 4
"""Rows of shards that are not divided for their size."""


class PredictedRows(Protocol):
    """Rows that a stream has finished; `models.strips.predictor.PredictedRows` is one."""

    @property
    def begin(self) -> int:
        """First row."""

    @property
    def mask(self) -> NDArray[np.uint8]:
        """(y, x) classes."""

    @property
    def scores(self) -> NDArray[np.float32] | None:
        """(class, y, x) probabilities, where asked for."""

    @property
    def members(self) -> NDArray[np.uint8] | None:
        """(member, y, x) classes by each member of an ensemble; None of a single model."""


class StripStream(Protocol):
    """A model in strips; `models.strips.predictor.StripPredictor` is one."""

    def run(
        self,
        read: Callable[[int, int], NDArray[Any]],
        shape: tuple[int, int],
        limits: Limits,
        wanted: int | None = None,
        *,
        scores: bool = False,
    ) -> Iterator[PredictedRows]:
        """Predict an image from the top down."""


@dataclass(frozen=True)
class Division:
    """How micrographs are divided into bands.

    Attributes:
        plan: The engine's plan.
        workers: Processes that share the work.
    """

    plan: EnginePlan
    workers: int

    def parts(self, micrographs: int) -> int:
        """Bands of each micrograph, so that all workers have one."""
        return -(-max(1, self.workers) // max(1, micrographs))

    def bands(self, missing: Sequence[Shard], shape: tuple[int, int], parts: int) -> Iterator[tuple[Shard, ...]]:
        """The missing shards of a micrograph in bands.

        Args:
            missing: Shards, in any order.
            shape: (height, width) of the micrograph.
            parts: Bands that are wanted; more are made where one would be too large, or where shards between are done.

        Example:
            >>> plan = EnginePlan(tile=64, halo=8, stride=8, shard=64, strip=16, strip_width=1024)
            >>> list(Division(plan, 1).bands([(0, 0), (1, 0), (3, 0)], (256, 64), 1))
            [((0, 0), (1, 0)), ((3, 0),)]
        """
        shard, group = self.plan.shard, self._columns(shape[1])
        width = min(shape[1], group * shard)
        rows_at_once = max(_LEAST_ROWS, BAND_PIXELS // (shard * width))
        for _, members in groupby(
            sorted(missing, key=lambda each: (each[1] // group, each)), lambda each: each[1] // group
        ):
            found = list(members)
            rows = sorted({row for row, _ in found})
            size = min(rows_at_once, -(-len(rows) // parts))
            for run in _runs(rows):
                for start in range(0, len(run), size):
                    chosen = set(run[start : start + size])
                    yield tuple(each for each in found if each[0] in chosen)

    def _columns(self, width: int) -> int:
        """Shard columns that are computed together."""
        count = -(-width // self.plan.shard)
        return count if width <= self.plan.strip_width else max(1, self.plan.strip_width // self.plan.shard)

    def columns(self, shard: Shard, width: int) -> tuple[int, int]:
        """First and last (exclusive) pixel column of the piece that a shard is computed in."""
        group = self._columns(width)
        first = shard[1] // group * group
        return first * self.plan.shard, min((first + group) * self.plan.shard, width)


def _runs(rows: Sequence[int]) -> Iterator[list[int]]:
    """Rows without gaps."""
    for _, run in groupby(enumerate(rows), lambda pair: pair[1] - pair[0]):
        yield [row for _, row in run]


class _Frame(NamedTuple):
    """Where a band's stream lies.

    Attributes:
        box: Of the padded micrograph, in pixels; its sides are multiples of the stride.
        kept: The pixels that the band is for, inside the specimen.
        ends: Whether the stream reaches the specimen's end.
    """

    box: Box
    kept: Box
    ends: bool


def _frame(shards: Sequence[Shard], spec: MaskSpec, specimen: Box, division: Division) -> _Frame:
    plan = division.plan
    x0, x1 = division.columns(shards[0], specimen.width)
    y0, y1 = shards[0][0] * plan.shard, (shards[-1][0] + 1) * plan.shard
    kept = Box(y0, x0, min(y1, spec.shape[0]), x1).intersection(specimen)
    height, width = ceil_to(specimen.height, plan.stride), ceil_to(specimen.width, plan.stride)
    left = floor_to(max(0, x0 - plan.halo), plan.stride)
    right = min(width, ceil_to(x1 + plan.halo, plan.stride))
    top = floor_to(max(0, y0 - plan.halo), plan.stride)
    return _Frame(Box(top, left, height, right), kept, kept.y1 == specimen.height)


def band_tax(shape: tuple[int, int], spec: MaskSpec, division: Division, parts: int) -> float:
    """Pixels computed for each pixel kept, of a whole micrograph.

    Args:
        shape: (height, width) of the specimen.
        spec: Of the mask.
        division: How it is divided.
        parts: Into how many bands.
    """
    specimen = Box.of_shape(shape)
    every = [(row, column) for row in range(spec.shards[0]) for column in range(spec.shards[1])]
    seen = 0
    for shards in division.bands(every, spec.shape, parts):
        frame = _frame(shards, spec, specimen, division)
        if frame.kept.area:
            stop = frame.box.y1 if frame.ends else min(frame.box.y1, frame.kept.y1 + division.plan.halo)
            seen += (stop - frame.box.y0) * frame.box.width
    return seen / specimen.area


def band_pixels(
    stream: StripStream,
    read: Callable[[Box], NDArray[Any]],
    shards: Sequence[Shard],
    spec: MaskSpec,
    specimen: Box,
    division: Division,
    limits: Limits,
    *,
    raw_scores: bool = False,
) -> Iterator[tuple[Shard, ShardPixels]]:
    """Compute the shards of a band, each row of shards as soon as its last pixel is finished.

    Args:
        stream: The model.
        read: Gives pixels (channel, y, x) of a box inside the specimen.
        shards: Of the band, in row-major order.
        spec: Of the mask.
        specimen: What is segmented: the mask without the info bar.
        division: How the micrograph is divided.
        limits: Intensities (low, high) of the micrograph's scaling.
        raw_scores: Give float32 probabilities as the extra output, whatever the plan says.

    Yields:
        Each shard with its pixels. They are views of a buffer that the next row of shards is written into.
    """
    plan = division.plan
    frame = _frame(shards, spec, specimen, division)
    wanted = {row: [each for each in shards if each[0] == row] for row in sorted({row for row, _ in shards})}
    rows = _ShardRows(frame, spec, plan, len(spec.classes), raw_scores=raw_scores)
    if frame.kept.area:
        stop = None if frame.ends else frame.kept.y1 - frame.box.y0
        parts = stream.run(_Reader(read, frame.box, specimen), frame.box.shape, limits, stop, scores=rows.needs_scores)
        for part in parts:
            for row in rows.add(part):
                yield from ((each, rows.pixels(each)) for each in wanted.get(row, ()))
    first_below = -(-frame.kept.y1 // plan.shard) if frame.kept.area else 0
    for row, members in wanted.items():
        if row >= first_below:
            yield from ((each, unmeasured(spec.box(each).shape, plan.extra, len(spec.classes))) for each in members)


class _Reader:
    """Reads rows of a band, reflected at the specimen's bottom and right up to a multiple of the stride."""

    def __init__(self, read: Callable[[Box], NDArray[Any]], frame: Box, specimen: Box) -> None:
        self._read = read
        self._frame = frame
        self._specimen = specimen

    def __call__(self, begin: int, end: int) -> NDArray[Any]:
        frame, specimen = self._frame, self._specimen
        y0, y1 = frame.y0 + begin, frame.y0 + end
        below, beside = max(0, y1 - specimen.height), max(0, frame.x1 - specimen.width)
        # What is reflected must have been read.
        above = min(y0, max(0, specimen.height - below - 1)) if below else y0
        pixels = self._read(Box(above, frame.x0, min(y1, specimen.height), min(frame.x1, specimen.width)))
        if below or beside:
            pixels = np.pad(pixels, ((0, 0), (0, below), (0, beside)), mode="reflect")
        return pixels[:, y0 - above :]


class _ShardRows:
    """Collects finished rows until a row of shards is complete."""

    def __init__(
        self, frame: _Frame, spec: MaskSpec, plan: EnginePlan, classes: int, *, raw_scores: bool = False
    ) -> None:
        self._frame, self._spec, self._plan = frame, spec, plan
        self._raw = raw_scores
        self._row = frame.kept.y0 // plan.shard
        self._classes = classes
        self._tallies: dict[int, SpreadTally] = {}
        self._mask = np.empty((min(plan.shard, spec.shape[0]), frame.kept.width), np.uint8)
        self._extra: NDArray[Any] | None = None
        self.needs_scores = raw_scores or plan.extra != "none"
        if self.needs_scores:
            wide = raw_scores or plan.extra == "probabilities"
            shape = (classes, *self._mask.shape) if wide else self._mask.shape
            self._extra = np.empty(shape, np.float32 if raw_scores else np.float16 if wide else np.uint8)

    def add(self, part: PredictedRows) -> Iterator[int]:
        """Take finished rows; gives each row of shards that is complete, which must be used at once."""
        kept, shard = self._frame.kept, self._plan.shard
        columns = slice(kept.x0 - self._frame.box.x0, kept.x1 - self._frame.box.x0)
        begin = self._frame.box.y0 + part.begin
        y, end = max(begin, kept.y0), min(begin + part.mask.shape[0], kept.y1)
        while y < end:
            if y // shard != self._row:
                self._row, self._tallies = y // shard, {}
            stop = min(end, (self._row + 1) * shard)
            here, there = slice(y - self._row * shard, stop - self._row * shard), slice(y - begin, stop - begin)
            self._mask[here] = part.mask[there, columns]
            if self._extra is not None and part.scores is not None:
                scores = part.scores[:, there, columns]
                self._extra[..., here, :] = scores if self._raw else extra_output(scores, self._plan.extra)
            if part.members is not None:
                self._count(part.members[:, there, columns])
            y = stop
            if y in {kept.y1, (self._row + 1) * shard}:
                yield self._row

    def _count(self, members: NDArray[np.uint8]) -> None:
        """Count rows of all shards of this row, (member, y, x), by each member of an ensemble."""
        kept, side = self._frame.kept, self._plan.shard
        for column in range(kept.x0 // side, -(-kept.x1 // side)):
            part = slice(max(column * side, kept.x0) - kept.x0, min((column + 1) * side, kept.x1) - kept.x0)
            self._tallies.setdefault(column, SpreadTally(self._classes)).add_members(members[..., part])

    def pixels(self, shard: Shard) -> ShardPixels:
        """One shard of the row that is complete."""
        box = self._spec.box(shard)
        inside = box.intersection(self._frame.kept)
        x0 = self._frame.kept.x0
        part = (slice(0, inside.height), slice(inside.x0 - x0, inside.x1 - x0))
        extra = None if self._extra is None else self._extra[(..., *part)]
        tally = self._tallies.get(shard[1])
        found = ShardPixels(self._mask[part], extra, {} if tally is None else tally.found)
        return found if inside.height == box.height else extended(found, box.height)
