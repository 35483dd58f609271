"""The info bar: the strip with scale bar and text that microscopes burn in below an image, found from its pixels.

Specimen has noise, so that one value rarely owns more than a fifth of a row; a drawn panel is a flat fill with text on it,
and its most common value owns half of each row or more. A strip counts as an info bar where its rows are such, it ends
in a sharp boundary or in a drawn line, takes a quarter of the height at most, and holds text: few pixels of another,
distinct intensity, with gaps between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.sources.scale.provenance import LARGEST_BAR

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["bar_rows", "find_info_bar"]

_SMALLEST = 10  # rows: text below this is not legible
_NARROWEST = 64  # columns of a micrograph that is looked at
_LARGEST_ROWS = 2048  # rows that are looked at, at most; bars grow with the image, but not so far
_BAND = 64  # rows that are read at a time, from the bottom upwards
_COLUMNS = 8192  # columns that are looked at, at most, evenly spread
_ABOVE = 8  # rows above the bar that must look like specimen

_PANEL, _USUAL, _SPECIMEN, _LINE = 0.3, 0.5, 0.2, 0.95  # shares of a row that one value owns
_TEXT = (0.004, 0.6)  # share of the panel's pixels that are not its background
_DISTINCT = 0.3  # share of those that are at least half as far from it as the farthest
_EMPTY = 0.03  # share of columns without any text: gaps between words
_THICK = 4  # rows of a drawn line, at most
_STROKES = 5  # that a row through the text crosses: "10 um" has more


def find_info_bar(read: Callable[[Box], NDArray[Any]], shape: tuple[int, int]) -> int:
    """Rows of the info bar at the bottom of a micrograph; 0 where there is none.

    Where the bottom rows are no panel, only they are read; else as far up as rows look like one.

    Args:
        read: Gives (channel, y, x) pixels of a box; the first channel is looked at.
        shape: (height, width) of the micrograph.

    Example:
        >>> image = np.random.default_rng(0).integers(40, 200, (1, 400, 300), dtype=np.uint8)
        >>> find_info_bar(lambda box: image[(..., *box.slices)], (400, 300))
        0
        >>> image[:, 370:] = 0
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
        seen = np.concatenate([band, seen]) if len(seen) else band
        # Specimen begins in this band, or the rows above it are not needed any more.
        if not _is_panel(band[:_ABOVE]).any():
            break
    return bar_rows(seen, most)


def bar_rows(pixels: NDArray[Any], most: int) -> int:
    """Rows of the info bar at the bottom of gray pixels; 0 where there is none.

    Args:
        pixels: (y, x), the bottom of a micrograph, with some rows of specimen if there are any.
        most: Rows that a bar takes at most.

    Example:
        >>> bar_rows(np.zeros((40, 100), np.uint8), most=20)
        0
    """
    background = _background(pixels[-_ABOVE:])
    if background is None:
        return 0
    share = np.mean(pixels == background, axis=1)
    line = _thin(_owned(pixels, _LINE) & (share < _LINE))
    panel = (share >= _PANEL) | line
    run = len(panel) if panel.all() else int(np.argmin(panel[::-1]))
    top = len(pixels) - run
    # Where the specimen is as flat as the panel, the line that is drawn between them is the boundary.
    lines = [int(row) for row in np.flatnonzero(line) if _SMALLEST <= len(pixels) - row <= most]
    for row in dict.fromkeys([top, *lines]):
        if not _SMALLEST <= len(pixels) - row <= most:
            continue
        above = share[max(0, row - _ABOVE) : row]
        # A drawn strip begins with an empty margin; JPEG blurs a few rows of it.
        sharp = len(above) > 0 and above.max() <= _SPECIMEN and share[row : row + _ABOVE].max() >= _LINE
        if (sharp or line[row]) and _has_text(pixels[row:][~line[row:]], background):
            return len(pixels) - row
    return 0


def _owned(pixels: NDArray[Any], share: float) -> NDArray[np.bool_]:
    """Which rows have one value that owns at least this share of them."""
    ordered = np.sort(pixels, axis=1)
    count = max(1, int(np.ceil(share * ordered.shape[1])))
    # In a sorted row equal values are neighbours.
    owned: NDArray[np.bool_] = (ordered[:, count - 1 :] == ordered[:, : ordered.shape[1] - count + 1]).any(axis=1)
    return owned


def _thin(rows: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without what is too thick to be a line: a flat phase."""
    from scipy import ndimage

    thin: NDArray[np.bool_] = rows & ~ndimage.binary_opening(rows, np.ones(_THICK + 1))
    return thin


def _is_panel(pixels: NDArray[Any]) -> NDArray[np.bool_]:
    return _owned(pixels, _PANEL)


def _background(pixels: NDArray[Any]) -> Any:
    """The value that fills the lowest rows, lines that are drawn there not counting; None where none does."""
    rows = pixels[_owned(pixels, _PANEL)]
    if len(rows) * 2 < len(pixels):
        return None
    values, counts = np.unique(rows, return_counts=True)
    return values[counts.argmax()]


def _has_text(panel: NDArray[Any], background: Any) -> bool:
    """Whether a flat panel holds text: few pixels, of a distinct intensity, with gaps between them."""
    if len(panel) < _SMALLEST // 2:
        return False
    other = panel != background
    if np.median(np.mean(~other, axis=1)) < _USUAL or not _TEXT[0] <= other.mean() <= _TEXT[1]:
        return False
    far = np.abs(panel[other].astype(np.float64) - float(background))
    empty = float(np.mean(~other.any(axis=0)))
    strokes = int((other[:, 1:] & ~other[:, :-1]).sum(axis=1).max())
    return bool(np.mean(far >= far.max() / 2) >= _DISTINCT and empty >= _EMPTY and strokes >= _STROKES)
