"""Outlines of labelled pixels as polygons that hold exactly those pixels, holes included.

A polygon runs along the edges of pixels, so that (0, 0) is the outer corner of the first pixel, as in GeoJSON of QuPath, and
filling it by pixel centres gives the pixels back. Each ring is simple: rings touch at points only, as the OGC's Simple
Features (ISO 19125-1) and shapely want it of a valid polygon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["Rings", "trace"]

Rings = list["NDArray[np.int64]"]
"""The rings of one polygon, each (point, 2) int64 (x, y) without its first point again: the outer one, then the holes."""


def trace(labels: NDArray[np.integer[Any]]) -> Iterator[tuple[int, list[Rings]]]:
    """The polygons of each label.

    Pixels of one label that touch at corners only are polygons of their own.

    Args:
        labels: (y, x), any integers; 0 is no label.

    Yields:
        The label, and its polygons in the order of their first pixels. Labels come in ascending order.

    Example:
        >>> [(label, [[ring.tolist() for ring in rings] for rings in polygons])
        ...  for label, polygons in trace(np.array([[7, 0], [7, 7]]))]
        [(7, [[[[0, 0], [1, 0], [1, 1], [2, 1], [2, 2], [0, 2]]]])]
    """
    import cc3d

    parts = np.asarray(cc3d.connected_components(labels, connectivity=4, out_dtype=np.uint32))
    count = int(parts.max(initial=0))
    label_of = np.zeros(count + 1, np.int64)
    label_of[parts.ravel()] = labels.ravel()
    polygons: list[Rings] = [[] for _ in range(count + 1)]
    for part, ring, outer in _rings(parts):
        polygons[part].insert(0, ring) if outer else polygons[part].append(ring)
    order = np.argsort(label_of[1:], kind="stable") + 1
    grouped: list[Rings] = []
    for place, part in enumerate(order):
        grouped.append(polygons[part])
        if place + 1 == count or label_of[order[place + 1]] != label_of[part]:
            yield int(label_of[part]), grouped
            grouped = []


@dataclass(frozen=True, eq=False)
class _Runs:
    """Straight edges along the lines of the grid of pixel corners, longest ones.

    Attributes:
        owner: The part whose edge it is.
        line: On which line of the grid it lies.
        first: Where it begins, the lower end.
        last: Where it ends.
    """

    owner: NDArray[np.int64]
    line: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]


def _runs(owner: NDArray[Any]) -> _Runs:
    """Runs of one owner along axis 1; 0 owns nothing."""
    framed = np.pad(owner, ((0, 0), (1, 1)))
    change = framed[:, 1:] != framed[:, :-1]
    line, first = np.nonzero(change & (framed[:, 1:] > 0))
    _, last = np.nonzero(change & (framed[:, :-1] > 0))
    return _Runs(framed[:, 1:][line, first].astype(np.int64), line, first, last)


def _joined(one: _Runs, other: _Runs) -> _Runs:
    names = ("owner", "line", "first", "last")
    return _Runs(*(np.concatenate([getattr(one, name), getattr(other, name)]) for name in names))


def _rings(parts: NDArray[Any]) -> Iterator[tuple[int, NDArray[np.int64], bool]]:
    """(part, points, whether it is the outer ring) of each ring of each 4-connected part."""
    y, start, end, owner, following = _edges(parts)
    ring, order = _walk(following)
    if not len(order):
        return
    # A ring is its horizontal edges, one after the other: both ends of each are its corners.
    points = np.stack([np.stack([start, y], 1), np.stack([end, y], 1)], 1)[order].reshape(-1, 2)
    begins = np.flatnonzero(np.diff(ring[order], prepend=-1))
    area = np.add.reduceat((y * (start - end))[order], begins)
    touching = _self_touching(points, np.repeat(np.cumsum(np.diff(ring[order], prepend=-1) != 0) - 1, 2), len(begins))
    owners = owner[order[begins]]
    for number, own in enumerate(np.split(points, 2 * begins[1:])):
        part = int(owners[number])
        if touching[number]:
            yield from ((part, each, _area(each) > 0) for each in _simple(own))
        else:
            yield part, own, bool(area[number] > 0)


def _edges(parts: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
    """Horizontal edges, with the part on the right hand: y, x of the start, x of the end, owner, the edge that follows."""
    framed = np.pad(parts, 1)
    upper, lower = framed[:-1, 1:-1], framed[1:, 1:-1]
    top, bottom = _runs(np.where(upper != lower, lower, 0)), _runs(np.where(upper != lower, upper, 0))
    left, right = framed[1:-1, :-1], framed[1:-1, 1:]
    down, up = _runs(np.where(left != right, left, 0).T), _runs(np.where(left != right, right, 0).T)
    across, along = _joined(top, bottom), _joined(down, up)
    from_left = np.arange(len(across.owner)) < len(top.owner)
    downward = np.arange(len(along.owner)) < len(down.owner)
    start, end = np.where(from_left, across.first, across.last), np.where(from_left, across.last, across.first)
    tail, head = np.where(downward, along.first, along.last), np.where(downward, along.last, along.first)
    rows, columns = parts.shape[0] + 1, parts.shape[1] + 1

    def key(runs: _Runs, y: NDArray[np.int64], x: NDArray[np.int64], turn: NDArray[np.bool_]) -> NDArray[np.intp]:
        # Where a part touches itself at a corner two edges meet two others there; turning right keeps to the same pixel.
        return np.argsort(((runs.owner * rows + y) * columns + x) * 2 + turn)

    to_along, to_across = np.empty(len(across.owner), np.intp), np.empty(len(across.owner), np.intp)
    to_along[key(across, across.line, end, ~from_left)] = key(along, tail, along.line, ~downward)
    to_across[key(along, head, along.line, downward)] = key(across, across.line, start, ~from_left)
    return across.line, start, end, across.owner, to_across[to_along]


def _walk(following: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.intp]]:
    """The ring of each edge, and all edges ring by ring in the order of the walk; by pointer jumping, for all rings at once."""
    edges = np.arange(len(following))
    ring, jump = edges.copy(), following
    while True:
        least = np.minimum(ring, ring[jump])
        if np.array_equal(least, ring):
            break
        ring, jump = least, jump[jump]
    # Steps to the first edge of the ring, which is 0 steps from itself.
    jump = np.where(ring == edges, edges, following)
    steps = (ring != edges).astype(np.int64)
    while not np.array_equal(jump, ring):
        steps += steps[jump]
        jump = jump[jump]
    place = np.where(steps == 0, len(edges) + 1, steps)
    return ring, np.lexsort((-place, ring))


def _self_touching(points: NDArray[np.int64], ring: NDArray[np.int64], rings: int) -> NDArray[np.bool_]:
    """(ring,) whether a point is there twice."""
    order = np.lexsort((points[:, 0], points[:, 1], ring))
    again = (np.diff(points[order], axis=0) == 0).all(axis=1) & (np.diff(ring[order]) == 0)
    found = np.zeros(rings, bool)
    found[ring[order][1:][again]] = True
    return found


def _simple(points: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Cut a walk that meets itself into rings that do not."""
    walk: list[tuple[int, int]] = []
    place: dict[tuple[int, int], int] = {}
    for x, y in points.tolist():
        if (x, y) in place:
            first = place[x, y]
            yield np.array(walk[first:], np.int64)
            for each in walk[first:]:
                del place[each]
            del walk[first:]
        place[x, y] = len(walk)
        walk.append((x, y))
    yield np.array(walk, np.int64)


def _area(ring: NDArray[np.int64]) -> int:
    """Signed: positive around pixels of the part, negative around a hole."""
    following = np.roll(ring, -1, axis=0)
    return int((ring[:, 1] * (ring[:, 0] - following[:, 0])).sum())
