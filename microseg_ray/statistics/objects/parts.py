"""What is added up over the pixels of each part of a block."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.statistics.objects.hulls import hull_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.statistics.objects.labelling import LabelledBlock

__all__ = ["PART", "PART_FLOAT", "Hulls", "part_sums", "touches_unmeasured"]

PART = np.dtype(
    [
        ("class_index", "u1"),
        ("y0", "i4"),
        ("x0", "i4"),
        ("y1", "i4"),
        ("x1", "i4"),
        # x of the first pixel in row y0
        ("first_x", "i4"),
        # of the block, from which the sums are counted
        ("origin_y", "i4"),
        ("origin_x", "i4"),
        ("pixels", "i8"),
        ("sum_y", "i8"),
        ("sum_x", "i8"),
        ("sum_yy", "i8"),
        ("sum_xx", "i8"),
        ("sum_xy", "i8"),
        ("intensity", "i8"),
        ("intensity_squares", "i8"),
    ]
)
"""Sums of one part. They are integers, so that no order of adding changes a digit."""

PART_FLOAT = np.dtype([(name, "f8" if name.startswith("intensity") else PART[name]) for name in PART.names or ()])
"""The same where the intensities are no integers."""

_INDEX_BITS = 32


@dataclass(frozen=True, eq=False)
class Hulls:
    """Hulls of parts or objects, one after the other.

    Attributes:
        counts: (part,) points of each.
        points: (point, 2) int32 (y, x) in pixels of the mask, as of `hull_rows`.
    """

    counts: NDArray[np.int64]
    points: NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _Runs:
    """Pixels of one part side by side in a row, sorted by part, row and column; within the block.

    Attributes:
        at: Which run of the block it is, in row-major order.
        part: Number from 0.
        y: Row.
        first: x of the first pixel.
        last: x of the last.
    """

    at: NDArray[np.int64]
    part: NDArray[np.int64]
    y: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


def part_sums(block: LabelledBlock, intensity: NDArray[Any] | None = None) -> tuple[NDArray[np.void], Hulls]:
    """The sums and hulls of a block's own parts.

    Args:
        block: The block.
        intensity: (y, x) of the block, integers of at most 16 bits or float64; None leaves those sums 0.

    Returns:
        (part,) of dtype `PART`, or `PART_FLOAT` with float intensities, and the hulls of the pixel centres.
    """
    whole = intensity is None or np.issubdtype(intensity.dtype, np.integer)
    sums = np.zeros(block.count, PART if whole else PART_FLOAT)
    if not block.count:
        return sums, Hulls(np.zeros(0, np.int64), np.zeros((0, 2), np.int32))
    starts = _starts(block.mask)
    runs = _sorted_runs(block, starts)
    groups = np.flatnonzero(np.diff(runs.part, prepend=-1))
    ends = np.append(groups[1:], len(runs.part)) - 1
    box = block.box
    sums["class_index"] = block.mask[runs.y[groups], runs.first[groups]]
    sums["origin_y"], sums["origin_x"] = box.y0, box.x0
    sums["y0"], sums["y1"] = box.y0 + runs.y[groups], box.y0 + runs.y[ends] + 1
    sums["x0"] = box.x0 + np.minimum.reduceat(runs.first, groups)
    sums["x1"] = box.x0 + np.maximum.reduceat(runs.last, groups) + 1
    sums["first_x"] = box.x0 + runs.first[groups]
    _add_moments(sums, runs, groups)
    if intensity is not None:
        _add_intensity(sums, runs.at, groups, starts, intensity)
    return sums, _hulls(runs, (box.y0, box.x0))


def _starts(mask: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Flat positions at which a run begins: a first pixel of a row, or one of another class than its left neighbour."""
    begins = np.ones(mask.shape, bool)
    np.not_equal(mask[:, 1:], mask[:, :-1], out=begins[:, 1:])
    return np.flatnonzero(begins)


def _sorted_runs(block: LabelledBlock, starts: NDArray[np.intp]) -> _Runs:
    width = block.box.width
    label = block.core.ravel()[starts].astype(np.int64)
    # One sort of plain integers, which numpy does several times faster than an indirect one.
    key = (label << _INDEX_BITS) | np.arange(len(starts))
    key = np.sort(key[label > 0])
    at = key & ((1 << _INDEX_BITS) - 1)
    lengths = np.diff(starts, append=block.core.size)
    y, first = np.divmod(starts[at], width)
    return _Runs(at, (key >> _INDEX_BITS) - 1, y, first, first + lengths[at] - 1)


def _add_moments(sums: NDArray[np.void], runs: _Runs, groups: NDArray[np.intp]) -> None:
    """Sums of 1, y, x, yy, xx, xy over pixels, from the closed forms over a run."""
    count = runs.last - runs.first + 1
    along = (runs.first + runs.last) * count // 2
    for name, values in (
        ("pixels", count),
        ("sum_y", runs.y * count),
        ("sum_x", along),
        ("sum_yy", runs.y**2 * count),
        ("sum_xy", runs.y * along),
        ("sum_xx", _squares_to(runs.last) - _squares_to(runs.first - 1)),
    ):
        sums[name] = np.add.reduceat(values, groups)


def _squares_to(last: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 + 1 + 4 + ... + last^2."""
    return last * (last + 1) * (2 * last + 1) // 6


def _add_intensity(
    sums: NDArray[np.void],
    at: NDArray[np.int64],
    groups: NDArray[np.intp],
    starts: NDArray[np.intp],
    intensity: NDArray[Any],
) -> None:
    flat = intensity.ravel().astype(sums.dtype["intensity"])
    # What is not a number stays so in the sums of its part alone.
    with np.errstate(invalid="ignore", over="ignore"):
        for name, values in (("intensity", flat), ("intensity_squares", flat * flat)):
            sums[name] = np.add.reduceat(np.add.reduceat(values, starts)[at], groups)


def _hulls(runs: _Runs, origin: tuple[int, int]) -> Hulls:
    """The hulls of the parts, from the first and last pixel of each of their rows."""
    begins = np.ones(len(runs.part), bool)
    begins[1:] = (runs.part[1:] != runs.part[:-1]) | (runs.y[1:] != runs.y[:-1])
    rows = np.flatnonzero(begins)
    lasts = np.append(rows[1:], len(begins)) - 1
    counts, points, _ = hull_rows(runs.part[rows], runs.y[rows], runs.first[rows], runs.last[lasts])
    return Hulls(counts, (points + origin).astype(np.int32))


def touches_unmeasured(block: LabelledBlock) -> NDArray[np.int64]:
    """Numbers of the parts with a pixel beside one that is not measured, over the edges of pixels of one block and its border.

    Args:
        block: The block.
    """
    box = block.box
    # Without what lies outside the mask.
    inside = np.s_[int(box.y0 == 0) : 1 + box.height, int(box.x0 == 0) : 1 + box.width]
    classes, labels = block.classes[inside], block.labels[inside]
    missing = classes == IGNORE_INDEX
    if not missing.any():
        return np.zeros(0, np.int64)
    first, second = np.s_[:-1], np.s_[1:]
    found = [
        labels[first][missing[second]],
        labels[second][missing[first]],
        labels[:, first][missing[:, second]],
        labels[:, second][missing[:, first]],
    ]
    touching = np.unique(np.concatenate(found))
    found_ids: NDArray[np.int64] = block.ids[touching[touching > 0]]
    return found_ids
