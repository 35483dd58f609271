"""The info bar: the strip with scale bar and text that microscopes burn in at the bottom of an image, found from its pixels.

A bar is found by what survives JPEG compression and resizing: a background that is flat or a smooth gradient, a straight
edge or a drawn line across the whole width, and text, that is ink of one contrast in many separate strokes. Everything is
measured against the contrast of the rows that are read, so that the dtype does not matter.

Some microscopes leave one or a few rows of specimen below the bar (Zeiss SmartSEM: 1 or 2). They count as bar: the
specimen is one box, and its lower edge is the upper edge of the bar.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.sources.scale.provenance import LARGEST_BAR

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["bar_rows", "find_info_bar"]

_SMALLEST = 10  # rows: text in a lower bar is not legible
_NARROWEST = 64  # columns of a micrograph that is searched
_LARGEST_ROWS = 2048  # rows that are read, at most; bars grow with the image, but not so far
_BAND = 64  # rows that are read at a time, from the bottom upwards
_COLUMNS = 8192  # columns that are used, at most, evenly spread
_ABOVE = 8  # rows above the bar that are compared with it
_BELOW = 0.03  # of the height: rows of specimen below the bar, at most
_SEGMENTS = 16  # across the width; the background is interpolated between their medians

# Parts of the contrast (the range of the rows that are read).
_NEAR = 0.05  # a pixel this close to the background is background
_TIGHT = 0.015  # the same where nothing was compressed
_STEP = 0.03  # between two rows: more is no gradient, but another surface
_INK = 0.2  # between background and text, at least

_EDGE = 1.2  # of these limits: a pixel this far from the background is not background

# Shares of a row, or of a strip.
_PANEL = 0.3  # background, in every row except drawn lines
_USUAL = 0.5  # background, in the median row
_MARGIN = 0.75  # background, in the empty row below the upper edge
_FULL = 0.9  # a drawn line
_STRAIGHT = 0.8  # of the columns that can show the edge, those that show it in one row
_SEEN = 0.25  # columns where the specimen differs from the background, at least: elsewhere no edge can show
_TEXT = (0.004, 0.5)  # ink
_EMPTY = 0.03  # columns without ink: gaps between words
_FOREIGN = 0.3  # rows of drawn lines and of thick scale bars

_LINE = 4  # rows of a drawn line, at most
_BLUR = 6  # rows from the edge to the empty row, at most: a JPEG block carries the edge 7 rows far
_STROKES = 5  # that a row through the text crosses: "10 um" has more
_TEXT_ROWS = 4  # such rows
_STROKE = 0.15  # of the panel's height, the mean width of a stroke at most


def find_info_bar(read: Callable[[Box], NDArray[Any]], shape: tuple[int, int]) -> int:
    """Rows from the upper edge of the info bar to the bottom of a micrograph; 0 where there is no bar.

    Only the lowest rows are read where no background lies in them; else as far up as rows have one, a quarter of the
    height at most.

    Args:
        read: Returns (channel, y, x) pixels of a box; the first channel is used.
        shape: (height, width) of the micrograph.

    Example:
        >>> image = np.random.default_rng(0).integers(40, 200, (1, 400, 300), dtype=np.uint8)
        >>> find_info_bar(lambda box: image[(..., *box.slices)], (400, 300))
        0
        >>> image[:, 370:398] = 0
        >>> image[:, 380:392, 20:200:3] = 255
        >>> find_info_bar(lambda box: image[(..., *box.slices)], (400, 300))
        30
    """
    height, width = shape
    most = min(int(height * LARGEST_BAR), _LARGEST_ROWS)
    if most < _SMALLEST or width < _NARROWEST:
        return 0
    step = -(-width // _COLUMNS)
    seen = np.empty((0, -(-width // step)))
    while len(seen) < most + _ABOVE:
        y1 = height - len(seen)
        y0 = max(y1 - _BAND, height - most - _ABOVE)
        band = read(Box(y0, 0, y1, width))[0, :, ::step]
        lowest = not len(seen)
        seen = band if lowest else np.concatenate([band, seen])
        # The lowest rows may be specimen; else specimen in the upper rows of a band ends the search.
        looked = band[-(_below(height) + _SMALLEST) :] if lowest else band[:_ABOVE]
        if not _has_background(looked, seen).any():
            break
        if lowest and not _has_background(band[:_ABOVE], seen).any():
            break
    return bar_rows(seen, most, _below(height))


def bar_rows(pixels: NDArray[Any], most: int, below: int = 0) -> int:
    """Rows of the info bar at the bottom of gray pixels; 0 where there is none.

    Args:
        pixels: (y, x), the bottom of a micrograph, with some rows of specimen if there are any.
        most: Rows that a bar takes at most.
        below: Rows of specimen below the bar, at most.

    Example:
        >>> bar_rows(np.zeros((40, 100), np.uint8), most=20)
        0
    """
    contrast = _contrast(pixels)
    if contrast <= 0:
        return 0
    values = pixels.astype(np.float32) / np.float32(contrast)
    found, allowed = 0, below
    # A bar of several panels, each with text of its own, is found panel by panel.
    while rows := _panel_rows(values[: len(values) - found], most - found, allowed):
        found, allowed = found + rows, 0
    return found


def _below(height: int) -> int:
    return max(_LINE, ceil(height * _BELOW))


def _contrast(pixels: NDArray[Any]) -> float:
    """The range of the intensities, a few outliers not counted.

    Text is as little as 0.4 % of a panel, and the panel is part of the rows: hence so few.
    """
    low, high = np.percentile(pixels, [0.02, 99.98])
    return float(high) - float(low)


def _panel_rows(values: NDArray[np.float32], most: int, below: int) -> int:
    """Rows of the highest panel that ends at the bottom, or `below` rows above it at most; values have the contrast 1."""
    height = len(values)
    levels = _levels(values)
    panels: dict[int, bool] = {}
    found = 0
    for margin, near in _margins(values, levels, max(2, height - most)):
        top = _upper_edge(values, _straight(levels[margin], values.shape[1]), margin, near * _EDGE)
        if top is None or not max(_SMALLEST, found + 1) <= height - top <= most:
            continue
        if margin not in panels:
            panel = _Panel.below(values, levels, margin, below)
            panels[margin] = panel is not None and _has_text(panel)
        if panels[margin]:
            found = height - top
    return found


def _margins(values: NDArray[np.float32], levels: NDArray[np.float32], first: int) -> list[tuple[int, float]]:
    """Rows that are nearly all background, where the row before is not or is of another one; and how near they are to it.

    A tight limit finds the edge between a panel and specimen of nearly its intensity; JPEG needs the wide one.
    """
    place = np.linspace(0, _SEGMENTS - 1, values.shape[1])
    left = np.floor(place).astype(int)
    weight = (place - left).astype(np.float32)
    background = levels[:, left] * (1 - weight) + levels[:, np.minimum(left + 1, _SEGMENTS - 1)] * weight
    distance = np.abs(values - background)
    steps = np.median(np.abs(np.diff(levels, axis=0)), axis=1)
    found = []
    for near in (_NEAR, _TIGHT):
        empty = np.mean(distance <= near, axis=1) >= _MARGIN
        begins = empty.copy()
        begins[1:] &= ~empty[:-1] | (steps > min(_STEP, near))
        found += [(int(row), near) for row in np.flatnonzero(begins) if row >= first]
    return found


def _levels(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(row, segment) medians."""
    edges = np.linspace(0, values.shape[1], _SEGMENTS + 1).round().astype(int)
    parts = [np.median(values[:, x0:x1], axis=1) for x0, x1 in pairwise(edges.tolist())]
    return np.stack(parts, axis=1)


@dataclass(frozen=True, eq=False)
class _Panel:
    """A strip of one background, which may change smoothly along both axes.

    Attributes:
        margin: The empty row below its upper edge.
        bottom: The row after its last one.
        across: float32 (x,), how the background differs from its level along a row.
        down: float32 (y,), the level of each row from `margin` to `bottom`.
        residual: float32 (y, x), the rows without their background.
    """

    margin: int
    bottom: int
    across: NDArray[np.float32]
    down: NDArray[np.float32]
    residual: NDArray[np.float32]

    @classmethod
    def below(cls, values: NDArray[np.float32], levels: NDArray[np.float32], margin: int, below: int) -> _Panel | None:
        """The panel that begins at a row; None where what lies there is no panel down to the bottom."""
        strip = slice(margin, max(margin + _SMALLEST // 2, len(values) - min(below, (len(values) - margin) // 4)))
        relative = levels[strip] - np.median(levels[strip], axis=1, keepdims=True)
        across = _straight(np.median(relative, axis=0), values.shape[1])
        flat = values[margin:] - across
        down = np.median(flat, axis=1)
        share = np.mean(np.abs(flat - down[:, None]) <= _NEAR, axis=1)
        rows = _connected(down, share)
        bottom = int(rows[-1]) + 1
        foreign = np.diff(rows) - 1
        if len(values) - margin - bottom > below + _LINE or bottom < _SMALLEST // 2:
            return None
        if (
            foreign.sum() > _FOREIGN * bottom
            or foreign.max(initial=0) > max(2 * _LINE, bottom // 6)
            or np.median(share[rows]) < _USUAL
        ):
            return None
        kept = np.sort(rows)
        return cls(margin, margin + bottom, across, down[kept], flat[kept] - down[kept, None])


def _straight(medians: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """A straight line through the medians of the segments, for each column; a logo in one of them counts for little."""
    place = (np.arange(_SEGMENTS) + 0.5) / _SEGMENTS
    first, second = np.triu_indices(_SEGMENTS, 1)
    slope = np.median((medians[second] - medians[first]) / (place[second] - place[first]))
    level = np.median(medians - slope * place)
    return np.asarray(level + slope * (np.arange(width) + 0.5) / width, np.float32)


def _connected(down: NDArray[np.float32], share: NDArray[np.float64]) -> NDArray[np.intp]:
    """The rows, from the first on, whose level continues that of the rows before them; the others are drawn lines."""
    rows, level = [0], float(down[0])
    for row in range(1, len(down)):
        if share[row] >= _PANEL and abs(float(down[row]) - level) <= _STEP * min(row - rows[-1], 2):
            rows.append(row)
            level = float(down[row])
    return np.array(rows)


def _upper_edge(values: NDArray[np.float32], background: NDArray[np.float32], margin: int, edge: float) -> int | None:
    """The first row of the panel that has an empty row `margin`, its drawn line included; None where no edge is straight.

    Args:
        values: Rows of the contrast 1.
        background: (x,), of the panel.
        margin: The row.
        edge: How far from the background a pixel of the specimen is.
    """
    first = max(0, margin - _BLUR - _ABOVE)
    other = np.abs(values[first : margin + 1] - background) > edge
    share = other.mean(axis=1)
    level = (np.median(share[:_ABOVE]) + share[-1]) / 2
    # The lowest row above the margin that is more specimen than panel; JPEG blurs some rows below it.
    specimen = np.flatnonzero(share[:-1] > level)
    if not len(specimen):
        return None
    top = first + int(specimen[-1]) + 1
    if lines := _line_above(values, background, top):
        return top - lines
    above = other[max(0, top - first - _ABOVE) : top - first]
    if len(above) < 2:
        return None
    # Where the specimen is as dark as the panel, only the columns where it is brighter show the edge.
    seen = above.mean(axis=0) > 2 / 3
    under = other[min(top - first + 1, len(other) - 1) :]
    sharp = above[-2:].any(axis=0) & (under.mean(axis=0) <= 1 / 3)
    needed = _STRAIGHT if seen.mean() > _USUAL else _FULL
    return top if seen.mean() >= _SEEN and sharp[seen].mean() >= needed else None


def _line_above(values: NDArray[np.float32], background: NDArray[np.float32], top: int) -> int:
    """Rows of the line that is drawn above a row: of one intensity, unlike the rows on both sides; 0 where there is none."""
    for rows in range(1, min(_LINE, top - 1) + 1):
        line = values[top - rows : top]
        level = np.median(line[len(line) // 2])
        flat = np.mean(np.abs(line[len(line) // 2] - level) <= _NEAR) >= _FULL
        unlike = [
            np.mean(np.abs(side - level) > _NEAR * _EDGE) >= _FULL for side in (values[top - rows - 1], background)
        ]
        if flat and all(unlike):
            return rows
    return 0


def _has_text(panel: _Panel) -> bool:
    """Whether a panel holds text: ink of one contrast, in many strokes of a few rows, with gaps between the words."""
    from scipy import ndimage

    distance = np.abs(panel.residual)
    ink = float(np.percentile(distance, 99.7))
    if ink < _INK:
        return False
    marks = distance > ink / 2
    share = float(marks.mean())
    if not _TEXT[0] <= share <= _TEXT[1] or float(np.mean(distance <= max(_NEAR, ink / 5))) < _USUAL:
        return False
    # Scale bars and separators are long, and leave no gap.
    marks &= ~ndimage.binary_opening(marks, np.ones((1, max(4, marks.shape[1] // 16))))
    strokes = (marks[:, 1:] & ~marks[:, :-1]).sum(axis=1)
    thin = marks.sum() <= max(3.0, _STROKE * len(panel.down)) * strokes.sum()
    empty = float(np.mean(~marks.any(axis=0)))
    return bool(thin and empty >= _EMPTY and np.count_nonzero(strokes >= _STROKES) >= _TEXT_ROWS)


def _has_background(rows: NDArray[Any], seen: NDArray[Any]) -> NDArray[np.bool_]:
    """Which rows have a background, flat or a gradient, that a third of their pixels are near to."""
    near = _NEAR * _contrast(seen)
    values = rows.astype(np.float32)
    background = np.stack([_straight(level, values.shape[1]) for level in _levels(values)])
    found: NDArray[np.bool_] = np.mean(np.abs(values - background) <= near, axis=1) >= _PANEL
    return found
