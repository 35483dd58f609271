"""Parts that touch become objects: their sums are added up."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.statistics.objects.hulls import hull_rows
from microseg_ray.statistics.objects.outlines import OUTLINE
from microseg_ray.statistics.objects.parts import Hulls

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Found", "Merged", "merge", "without_small"]

LARGEST_EXACT = 1 << 15
"""Side of an object in pixels up to which the sums of squares fit 64 bits: 2^15 squared, squared, is 2^60."""


@dataclass(frozen=True, eq=False)
class Found:
    """All parts of a mask.

    Attributes:
        parts: (part,) of dtype `PART` or `PART_FLOAT`.
        hulls: Of the parts.
        outlines: Of dtype `OUTLINE`; a part may have several.
        corners: (n, 4) as of `Outlines`.
        joins: (n, 2) int64 parts that touch.
        unmeasured: Numbers of the parts beside a pixel that is not measured, in any order.
    """

    parts: NDArray[np.void]
    hulls: Hulls
    outlines: NDArray[np.void]
    corners: NDArray[np.int64]
    joins: NDArray[np.int64]
    unmeasured: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Merged:
    """Sums of objects, sorted by class and then by the first pixel in row-major order.

    Attributes:
        object_of: (part,) int64, the object of each part; -1 if it was left out.
        class_index: (object,) uint8.
        box: (object, 4) int64: y0, x0, y1, x1, half-open.
        pixels: (object,) int64.
        centroid: (object, 2) float64 (y, x).
        moments: (object, 3) float64: variances along y and along x, and the covariance, in pixels squared.
        entries: (object, 4) int64: how often lines along rows, columns, the falling and the rising diagonal enter.
        euler: (object,) int64 Euler number.
        intensity: (object, 2) int64 or float64: sums of intensities and of their squares.
        unmeasured: (object,) whether it touches a pixel that is not measured.
        hulls: Hulls of the pixel centres.
    """

    object_of: NDArray[np.int64]
    class_index: NDArray[np.uint8]
    box: NDArray[np.int64]
    pixels: NDArray[np.int64]
    centroid: NDArray[np.float64]
    moments: NDArray[np.float64]
    entries: NDArray[np.int64]
    euler: NDArray[np.int64]
    intensity: NDArray[np.int64] | NDArray[np.float64]
    unmeasured: NDArray[np.bool_]
    hulls: Hulls


def merge(found: Found) -> Merged:
    """Join parts to objects and add up their sums.

    Args:
        found: All parts of a mask.
    """
    parts = found.parts
    object_of = _objects(found)
    order = np.argsort(object_of, kind="stable")
    ordered = object_of[order]
    groups = np.flatnonzero(np.diff(ordered, prepend=-1))
    count = len(groups)

    def total(values: NDArray[Any]) -> NDArray[Any]:
        return np.add.reduceat(values[order], groups) if count else values[:0]

    def extreme(name: str, pick: np.ufunc) -> NDArray[np.int64]:
        found_: NDArray[np.int64] = (pick.reduceat(parts[name][order], groups) if count else parts[name]).astype(
            np.int64
        )
        return found_

    box = np.stack([extreme(name, pick) for name, pick in zip(("y0", "x0", "y1", "x1"), _PICKS, strict=True)], axis=1)
    entries = np.zeros((count, 4), np.int64)
    quads = np.zeros(count, np.int64)
    owner = object_of[found.outlines["part"]]
    for column, name in enumerate(_LINES):
        np.add.at(entries[:, column], owner, found.outlines[name])
    np.add.at(quads, owner, found.outlines["quads"])
    # Two parts that touched at a corner were taken for different objects.
    first, second = object_of[found.corners[:, 0]], object_of[found.corners[:, 1]]
    for column in (2, 3):
        np.subtract.at(entries[:, column], first[first == second], found.corners[first == second, column])
    unmeasured = np.zeros(count, bool)
    unmeasured[object_of[found.unmeasured]] = True
    pixels = total(parts["pixels"])
    centroid, moments = _moments(parts, order, groups, box[object_of, :2])
    return Merged(
        object_of,
        parts["class_index"][order[groups]],
        box,
        pixels,
        centroid + box[:, :2],
        moments,
        entries,
        quads // 4,
        np.stack([total(parts["intensity"]), total(parts["intensity_squares"])], axis=1),
        unmeasured,
        _hulls(found.hulls, object_of, count),
    )


def without_small(merged: Merged, least: int) -> Merged:
    """The objects with at least so many pixels.

    Args:
        merged: All objects.
        least: In pixels.
    """
    kept = merged.pixels >= least
    if kept.all():
        return merged
    number = np.where(kept, np.cumsum(kept) - 1, -1)
    points = np.repeat(kept, merged.hulls.counts)
    rows = {each.name: getattr(merged, each.name)[kept] for each in fields(Merged)[1:-1]}
    hulls = Hulls(merged.hulls.counts[kept], merged.hulls.points[points])
    return Merged(object_of=number[merged.object_of], hulls=hulls, **rows)


_PICKS = (np.minimum, np.minimum, np.maximum, np.maximum)
_LINES = (OUTLINE.names or ())[1:5]


def _objects(found: Found) -> NDArray[np.int64]:
    """(part,) the object of each part: sorted by class and first pixel."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    parts = found.parts
    if not len(parts):
        return np.zeros(0, np.int64)
    links = coo_array(
        (np.ones(len(found.joins), np.uint8), (found.joins[:, 0], found.joins[:, 1])), shape=(len(parts),) * 2
    )
    _, component = connected_components(links, directed=False)
    # The first pixel of an object is that of its first part in this order.
    order = np.lexsort((parts["first_x"], parts["y0"], parts["class_index"]))
    _, at = np.unique(component[order], return_index=True)
    number = np.empty(len(at), np.int64)
    number[np.argsort(at)] = np.arange(len(at))
    found_objects: NDArray[np.int64] = number[component]
    return found_objects


def _moments(
    parts: NDArray[np.void], order: NDArray[np.intp], groups: NDArray[np.intp], corner: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centroids from the corner of each object's box, and central second moments; from exact sums, so that blocks do not show.

    Args:
        parts: Of dtype `PART`.
        order: The parts, object by object.
        groups: Where each object begins in that order.
        corner: (part, 2) the corner of the box of each part's object.
    """
    if not len(groups):
        return np.zeros((0, 2)), np.zeros((0, 3))
    down, right = parts["origin_y"] - corner[:, 0], parts["origin_x"] - corner[:, 1]
    reach = max(int((parts["y1"] - corner[:, 0]).max(initial=0)), int((parts["x1"] - corner[:, 1]).max(initial=0)))
    kind = np.dtype(np.int64 if reach <= LARGEST_EXACT else object)
    names = ("pixels", "sum_y", "sum_x", "sum_yy", "sum_xx", "sum_xy")
    n, y, x, yy, xx, xy = (parts[name].astype(kind) for name in names)
    down, right = down.astype(kind), right.astype(kind)
    shifted = (
        n,
        y + n * down,
        x + n * right,
        yy + 2 * down * y + n * down**2,
        xx + 2 * right * x + n * right**2,
        xy + down * x + right * y + n * down * right,
    )
    n, y, x, yy, xx, xy = (np.add.reduceat(each[order], groups).astype(np.float64) for each in shifted)
    mean_y, mean_x = y / n, x / n
    second = np.stack([yy / n - mean_y**2, xx / n - mean_x**2, xy / n - mean_y * mean_x], axis=1)
    return np.stack([mean_y, mean_x], axis=1), second


def _hulls(hulls: Hulls, object_of: NDArray[np.int64], count: int) -> Hulls:
    """The hulls of objects from the hulls of their parts: those of one part are ready."""
    several = np.bincount(object_of, minlength=count) > 1
    # Points are most of what is held, so numbers of 32 bits, and no copy that is not needed.
    owner, points = np.repeat(object_of.astype(np.int32), hulls.counts), hulls.points
    again = several[owner]
    if again.any():
        group, (y, x) = owner[again].astype(np.int64), points[again].T.astype(np.int64)
        sort = np.lexsort((x, y, group))
        group, y, x = group[sort], y[sort], x[sort]
        begins = np.ones(len(group), bool)
        begins[1:] = (group[1:] != group[:-1]) | (y[1:] != y[:-1])
        rows = np.flatnonzero(begins)
        _, joined, groups = hull_rows(group[rows], y[rows], x[rows], x[np.append(rows[1:], len(group)) - 1])
        owner = np.concatenate([owner[~again], groups.astype(np.int32)])
        points = np.concatenate([points[~again], joined.astype(np.int32)])
    del again
    order = np.argsort(owner, kind="stable")
    return Hulls(np.bincount(owner, minlength=count), points[order])
