"""Outlines of objects from 2 x 2 windows: intercepts along four directions, and the Euler number.

Both are sums over windows, so they add up over blocks. A window of one class adds nothing, so only windows on outlines are looked
at. The figures of a window are those of the object alone, as if all else were background.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.statistics.objects.labelling import Connectivity, LabelledBlock

__all__ = ["OUTLINE", "Outlines", "crofton_perimeter", "outline_sums"]

OUTLINE = np.dtype(
    [("part", "i8"), ("rows", "i4"), ("columns", "i4"), ("falling", "i4"), ("rising", "i4"), ("quads", "i4")]
)
"""Sums of one part: how often lines along rows, columns and the two diagonals enter it, and 4 times its Euler number."""

_SUMS = ("rows", "columns", "falling", "rising", "quads")


@dataclass(frozen=True, eq=False)
class Outlines:
    """What the windows of one block add to parts of this block and of those above and to the left.

    Attributes:
        sums: Of dtype `OUTLINE`, one for each part that a window adds to.
        corners: (n, 4) int64: two parts that touch at a corner only, and how often so along the falling and the rising diagonal.
            With connectivity 4 they may be one object by another way; a diagonal line does not enter it a second time then.
    """

    sums: NDArray[np.void]
    corners: NDArray[np.int64]


def outline_sums(block: LabelledBlock, connectivity: Connectivity) -> Outlines:
    """Add up the windows of a block.

    Args:
        block: The block.
        connectivity: That of the labels.
    """
    width = block.classes.shape[1] - 1
    at = _mixed(block.classes)
    at += at // width
    offsets = (0, 1, width + 1, width + 2)
    a, b, c, d = (block.classes.ravel()[at + offset] for offset in offsets)
    la, lb, lc, ld = (block.labels.ravel()[at + offset] for offset in offsets)
    total = np.zeros((len(_SUMS), len(block.ids)), np.int64)

    def add(name: str, labels: NDArray[np.uint32], amount: int = 1) -> None:
        total[_SUMS.index(name)] += amount * np.bincount(labels, minlength=len(block.ids))

    ab, ac, ad, bc, bd, cd = a == b, a == c, a == d, b == c, b == d, c == d
    add("rows", ld[~cd])
    add("columns", ld[~bd])
    add("falling", ld[~ad])
    add("rising", lc[~bc])
    # Pixels alone of their class in the window, and classes with three of the four.
    for alone, label in ((ab | ac | ad, la), (ab | bc | bd, lb), (ac | bc | cd, lc), (ad | bd | cd, ld)):
        add("quads", label[~alone])
    three_of_a, three_without_a = (ab & ac) | (ab & ad) | (ac & ad), bc & bd
    add("quads", la[three_of_a], -1)
    add("quads", ld[three_without_a], -1)
    falling, rising = ad & ~ab & ~ac, bc & ~ab & ~bd
    corners = np.zeros((0, 4), np.int64)
    if connectivity == 8:
        add("quads", la[falling], -2)
        add("quads", lb[rising], -2)
    else:
        # Each of the two counts as a pixel alone: as many quarters as a diagonal pair has (Gray 1971).
        for chosen, first, second, name in ((falling, la, ld, "falling"), (rising, lb, lc, "rising")):
            add("quads", first[chosen])
            add("quads", second[chosen])
            # A line does enter the second pixel, unless it is of the same object.
            add(name, second[chosen])
            one = chosen & (first == second)
            add(name, second[one], -1)
        corners = _corners(block, ((falling, la, ld), (rising, lb, lc)))
    return Outlines(_as_sums(total, block.ids), corners)


def _mixed(classes: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Flat indices of the windows that hold more than one class."""
    across = classes[:, 1:] != classes[:, :-1]
    down = classes[1:, :-1] != classes[:-1, :-1]
    down |= across[1:]
    down |= across[:-1]
    return np.flatnonzero(down)


def _corners(
    block: LabelledBlock, pairs: tuple[tuple[NDArray[np.bool_], NDArray[np.uint32], NDArray[np.uint32]], ...]
) -> NDArray[np.int64]:
    """Different labels that touch at a corner: their parts, and how often along each diagonal."""
    found = []
    for diagonal, (chosen, first, second) in enumerate(pairs):
        apart = chosen & (first != second) & (first > 0)
        both = np.sort(np.stack([block.ids[first[apart]], block.ids[second[apart]]], axis=1), axis=1)
        both, times = np.unique(both, axis=0, return_counts=True)
        rows = np.zeros((len(both), 4), np.int64)
        rows[:, :2], rows[:, 2 + diagonal] = both, times
        found.append(rows)
    return np.concatenate(found)


def _as_sums(total: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.void]:
    used = np.flatnonzero(total[:, 1:].any(axis=0)) + 1
    sums = np.zeros(len(used), OUTLINE)
    sums["part"] = ids[used]
    for row, name in zip(total, _SUMS, strict=True):
        sums[name] = row[used]
    return sums


def crofton_perimeter(
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    diagonals: NDArray[np.float64],
    spacing: tuple[float, float],
) -> NDArray[np.float64]:
    """Perimeters by the Crofton formula over four directions.

    The length of an outline is pi times the mean over all directions of the number of lines that enter it times their distance.
    The directions are those of rows, columns and both diagonals of the pixels; each stands for the angles that are nearest to
    it (Ohser and Muecklich 2000, Statistical Analysis of Microstructures; Legland, Kieu and Devaux 2007, Image Anal. Stereol.
    26:83). With square pixels it equals `skimage.measure.perimeter_crofton(..., directions=4)`.

    Args:
        rows: How often lines along rows enter.
        columns: How often lines along columns enter.
        diagonals: How often lines along both diagonals enter, together.
        spacing: (y, x) size of a pixel.

    Returns:
        In the unit of the spacing.

    Example:
        >>> one = np.ones(1)
        >>> crofton_perimeter(one, one, 2 * one, (1.0, 1.0)).round(4).tolist()
        [2.6815]
    """
    y, x = spacing
    slope = math.atan2(y, x)
    # A direction's share of the half circle, times pi, times the distance of its lines.
    return slope * y * rows + (math.pi / 2 - slope) * x * columns + math.pi / 4 * y * x / math.hypot(y, x) * diagonals
