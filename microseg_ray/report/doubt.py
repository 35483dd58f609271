"""Doubt of pixels as runs keep it, and sums over windows of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["UNKNOWN", "doubt_of", "stored_doubt", "window_sums"]

UNKNOWN = 255
"""Stored where nothing was measured."""


def doubt_of(values: NDArray[np.uint8], kind: str) -> NDArray[np.float64]:
    """Doubt of each pixel, 0 to 1: one minus the margin of the two likeliest classes, or the entropy; NaN where not measured.

    Args:
        values: (y, x), 0 to 254, 255 where nothing was measured.
        kind: `margin` or `entropy`.

    Example:
        >>> doubt_of(np.array([[0, 254, 255]], np.uint8), "margin").tolist()
        [[1.0, 0.0, nan]]
    """
    return np.where(values == UNKNOWN, np.nan, stored_doubt(values, kind))


def stored_doubt(values: NDArray[np.uint8], kind: str) -> NDArray[np.float64]:
    """The same of values that were all measured.

    Args:
        values: (y, x), 0 to 254.
        kind: `margin` or `entropy`.
    """
    share = values / 254.0
    return 1 - share if kind == "margin" else share


def window_sums(values: NDArray[np.float64] | NDArray[np.uint8] | NDArray[np.bool_], side: int) -> NDArray[np.float64]:
    """Sums over squares of a grid; the last row and column of squares may be cut off.

    Args:
        values: (y, x).
        side: Of a square, in pixels.

    Returns:
        (ceil(y / side), ceil(x / side)).

    Example:
        >>> window_sums(np.ones((3, 5)), 2).tolist()
        [[4.0, 4.0, 2.0], [2.0, 2.0, 1.0]]
    """
    rows = np.add.reduceat(values, np.arange(0, values.shape[0], side), axis=0, dtype=np.float64)
    found: NDArray[np.float64] = np.add.reduceat(rows, np.arange(0, values.shape[1], side), axis=1)
    return found
