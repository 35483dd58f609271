"""Convex hulls and Feret diameters of many objects at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["feret_diameters", "hull_rows"]

_CHUNK = 1 << 21
"""Pairs of points that are compared at once."""


def hull_rows(
    group: NDArray[np.int64], y: NDArray[np.int64], left: NDArray[np.int64], right: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The vertices of the convex hulls of groups of pixel centres.

    Args:
        group: (row,) number of the group from 0, rising; each group has a row at least.
        y: (row,) rising within a group.
        left: (row,) x of the first pixel of the group in the row.
        right: (row,) x of the last.

    Returns:
        (group,) how many points each group has, and (point, 2) their (y, x), group by group: first the left side from top to
        bottom, then the right side from top to bottom; and (point,) their groups. The ends of both sides may be the same point.

    Example:
        >>> zero = np.zeros(3, np.int64)
        >>> counts, points, _ = hull_rows(zero, np.arange(3), np.array([1, 1, 0]), np.array([2, 2, 2]))
        >>> points.tolist()
        [[0, 1], [2, 0], [0, 2], [2, 2]]
    """
    first, second = _chain(group, y, left), _chain(group, y, -right)
    groups = np.concatenate([group[first], group[second]])
    points = np.stack([np.concatenate([y[first], y[second]]), np.concatenate([left[first], right[second]])], axis=1)
    # Stable, so that a group's left side stays before its right one.
    order = np.argsort(groups, kind="stable")
    return np.bincount(groups), points[order], groups[order]


def _chain(group: NDArray[np.int64], y: NDArray[np.int64], x: NDArray[np.int64]) -> NDArray[np.intp]:
    """Which points are vertices of the left side of their group's hull.

    In each round all points go that do not lie to the left of the line between their neighbours. None of them is a vertex,
    because both neighbours are points of the group. Groups that lost none are ready.
    """
    kept = np.ones(len(group), bool)
    at = np.arange(len(group))
    while len(at) > 2:
        near, py, px = group[at], y[at], x[at]
        across = (px[1:-1] - px[:-2]) * (py[2:] - py[:-2]) - (px[2:] - px[:-2]) * (py[1:-1] - py[:-2])
        dropped = np.zeros(len(at), bool)
        dropped[1:-1] = (near[:-2] == near[2:]) & (across >= 0)
        if not dropped.any():
            break
        kept[at[dropped]] = False
        changed = np.zeros(int(near[-1]) + 1, bool)
        changed[near[dropped]] = True
        at = at[~dropped & changed[near]]
    return np.flatnonzero(kept)


def feret_diameters(
    counts: NDArray[np.int64], points: NDArray[np.integer], spacing: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest and the smallest distance of two parallel lines that enclose an object.

    An object reaches to the middle of the outer edges of its pixels, as in scikit-image (`feret_diameter_max`,
    `convex_hull_image`): its hull is that of the pixel centres, widened by half a pixel along y and x. A single pixel therefore
    measures 1 at most, and 1 / sqrt(2) at least.

    The largest is the distance of two vertices; the smallest lies across an edge of the hull (Shamos 1978, rotating calipers).
    All pairs are compared: a lattice polygon has few vertices.

    Args:
        counts: (object,) how many points each has; 1 at least.
        points: (point, 2) (y, x) in pixels, object by object, as of `hull_rows`.
        spacing: (y, x) size of a pixel.

    Returns:
        (object,) largest, (object,) smallest, in the unit of the spacing.

    Example:
        >>> square = np.array([[0, 0], [2, 0], [0, 2], [2, 2]])
        >>> [values.round(3).tolist() for values in feret_diameters(np.array([4]), square, (1.0, 1.0))]
        [[3.606], [3.0]]
    """
    largest, smallest = np.zeros(len(counts)), np.zeros(len(counts))
    firsts = np.cumsum(counts) - counts
    order = np.argsort(counts, kind="stable")
    sizes, at = np.unique(counts[order], return_index=True)
    ends = np.append(at[1:], len(order))[: len(at)]
    for size, begin, end in zip(sizes.tolist(), at.tolist(), ends.tolist(), strict=True):
        chosen = order[begin:end]
        step = max(1, _CHUNK // (size * (size + 4)))
        for start in range(0, len(chosen), step):
            some = chosen[start : start + step]
            polygons = points[firsts[some][:, None] + np.arange(size)].astype(np.float64)
            largest[some] = _largest(polygons, spacing)
            smallest[some] = _smallest(polygons * spacing, spacing)
    return largest, smallest


def _largest(polygons: NDArray[np.float64], spacing: tuple[float, float]) -> NDArray[np.float64]:
    # (object, point, point): what is between the centres.
    dy, dx = (np.abs(polygons[:, :, None, axis] - polygons[:, None, :, axis]) for axis in (0, 1))
    tall = ((dy + 1) * spacing[0]) ** 2 + (dx * spacing[1]) ** 2
    wide = (dy * spacing[0]) ** 2 + ((dx + 1) * spacing[1]) ** 2
    found: NDArray[np.float64] = np.sqrt(np.maximum(tall, wide).max(axis=(1, 2)))
    return found


def _smallest(polygons: NDArray[np.float64], spacing: tuple[float, float]) -> NDArray[np.float64]:
    """The width across every edge; a direction that is no edge's does no harm, because no width is below the smallest."""
    y, x = spacing
    fixed = np.array([(1.0, 0.0), (0.0, 1.0), (y, x), (y, -x)])
    edges = np.concatenate([np.diff(polygons, axis=1), np.broadcast_to(fixed, (len(polygons), *fixed.shape))], axis=1)
    length = np.hypot(edges[..., 0], edges[..., 1])
    with np.errstate(invalid="ignore"):
        across = np.stack([-edges[..., 1], edges[..., 0]], axis=-1) / length[..., None]
    reach = np.einsum("nek,npk->nep", across, polygons)
    width = np.ptp(reach, axis=2) + np.maximum(np.abs(across[..., 0]) * y, np.abs(across[..., 1]) * x)
    found: NDArray[np.float64] = np.nanmin(np.where(length > 0, width, np.nan), axis=1)
    return found
