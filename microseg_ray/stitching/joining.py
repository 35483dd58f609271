"""What `stitch` makes: its kind and output, and how the pieces of one shard become pixels."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import CoverageError
from microseg_ray.geometry import Box
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.stitching.windows import Blend, argmax_first, window

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Job", "Piece", "check_cores"]

_COMPARED = 1 << 22
"""Pairs of cores that are compared at a time."""


@dataclass(frozen=True)
class Piece:
    """One tile's part of one shard, in the micrograph's coordinates."""

    tile: Box
    owned: Box
    array: NDArray[Any]

    @property
    def order(self) -> tuple[int, ...]:
        """Row-major by the position of the tile: the only order in which pieces are joined."""
        return self.tile.y0, self.tile.x0, self.tile.y1, self.tile.x1


class Job:
    """What is made of the tiles: kind, blend, output."""

    def __init__(self, shape: tuple[int, int], example: NDArray[Any], blend: Any, argmax: bool, into: Any) -> None:
        self.frame = Box.of_shape(shape)
        self.ndim = example.ndim
        self.dtype = example.dtype
        if example.ndim not in {2, 3} or example.size == 0:
            raise ValueError(f"a tile is a mask (y, x) or scores (class, y, x), not an array of shape {example.shape}")
        if example.dtype.kind not in "buif":
            raise ValueError(f"a tile holds numbers, not {example.dtype}")
        scores = example.ndim == 3
        self.classes = example.shape[0] if scores else 0
        if scores and argmax and self.classes > IGNORE_INDEX:
            raise ValueError(f"{self.classes} classes do not fit a uint8 mask; pass argmax=False")
        self.weights: NDArray[np.floating] | None = None
        if isinstance(blend, np.ndarray):
            self.blend: Blend = "mean"
            self.weights = blend.astype(np.float32)
            if blend.ndim != 2 or not (np.isfinite(self.weights) & (self.weights > 0)).all():
                raise ValueError("blend: weights are a (y, x) array of positive, finite numbers")
        else:
            self.blend = ("hann" if scores else "crop") if blend == "auto" else blend
        if self.blend != "crop":
            window(self.blend, (1, 1))  # raises here, not after the last tile, for a name that is none
            if not scores:
                raise ValueError(
                    f"blend {self.blend!r} averages scores (class, y, x); class indices cannot be averaged: use 'crop'"
                )
        self.argmax = argmax and scores
        dtype = np.dtype(np.uint8) if self.argmax else np.dtype(np.float32) if scores else example.dtype
        full = (self.classes, *shape) if scores and not argmax else shape
        self.result: Any = np.empty(full, dtype) if into is None else into
        if tuple(self.result.shape) != full:
            raise ValueError(f"into: has shape {tuple(self.result.shape)}, the result has {full}")
        if dtype.kind == "f" and self.result.dtype.kind != "f":
            raise ValueError(f"into: has type {self.result.dtype}, which does not hold the result's {dtype}")
        grid = getattr(self.result, "shards", None) or getattr(self.result, "chunks", None) or full
        self.shard = (int(grid[-2]), int(grid[-1]))
        # Only an array on disk has shards that are better written whole.
        self.in_memory = isinstance(self.result, np.ndarray)

    def weigh(self, piece: Piece) -> NDArray[np.floating]:
        """The weights of a whole tile."""
        return window(self.blend, piece.tile.shape) if self.weights is None else self.weights

    def join(self, box: Box, pieces: list[Piece]) -> NDArray[Any]:
        """The pixels of a shard from all of its pieces, the same in whatever order they are given."""
        pieces = _in_order(pieces)
        return self.judged(box, _own(self, box, pieces) if self.blend == "crop" else _average(self, box, pieces))

    def judged(self, box: Box, joined: NDArray[Any]) -> NDArray[Any]:
        """Joined pixels as they are stored: scores are checked and, where asked for, become class indices."""
        if self.classes and np.isnan(joined.max()):
            y, x = np.argwhere(np.isnan(joined).any(axis=0))[0]
            raise ValueError(f"the scores at y={box.y0 + int(y)}, x={box.x0 + int(x)} are NaN; NaN belongs to no class")
        if self.argmax and not np.isfinite(joined.max(axis=0).sum(dtype=np.float64)):
            y, x = np.argwhere(~np.isfinite(joined.max(axis=0)))[0]
            raise ValueError(
                f"the scores at y={box.y0 + int(y)}, x={box.x0 + int(x)} have no finite maximum; they belong to no class"
            )
        return argmax_first(joined) if self.argmax else joined

    def store(self, box: Box, pixels: NDArray[Any]) -> None:
        """Write one shard; a value that the output cannot hold is an error, not another value."""
        stored = pixels.astype(self.result.dtype, copy=False)
        classes = self.argmax or not self.classes
        if classes and stored is not pixels and not np.array_equal(stored, pixels, equal_nan=pixels.dtype.kind == "f"):
            raise ValueError(
                f"into: type {self.result.dtype} cannot hold the values {pixels.min()} to {pixels.max()} near "
                f"y={box.y0}, x={box.x0}; give an array of type {pixels.dtype}"
            )
        self.result[(..., *box.slices)] = stored


def check_cores(cores: NDArray[np.int64], frame: Box) -> None:
    """Check that cores partition the result.

    Args:
        cores: (n, 4) corners y0, x0, y1, x1 of boxes inside `frame`.
        frame: The result.

    Raises:
        CoverageError: A pixel lies in no core.
        ValueError: Two cores share a pixel.

    Example:
        >>> check_cores(np.array([[0, 0, 2, 3], [0, 3, 2, 5]]), Box(0, 0, 2, 5))
        >>> check_cores(np.array([[0, 0, 2, 3], [0, 2, 2, 4]]), Box(0, 0, 2, 5))
        Traceback (most recent call last):
            ...
        ValueError: the core Box(y0=0, x0=2, y1=2, x1=4) overlaps another tile's, or the tile was given twice; ...
    """
    ordered = cores[np.lexsort((cores[:, 1], cores[:, 0]))]
    y0, x0, y1, x1 = ordered.T
    rows = max(1, _COMPARED // len(ordered))
    for start in range(0, len(ordered), rows):
        part = slice(start, start + rows)
        shared = (np.minimum(y1[part, None], y1) > np.maximum(y0[part, None], y0)) & (
            np.minimum(x1[part, None], x1) > np.maximum(x0[part, None], x0)
        )
        # Each core shares its pixels with itself.
        shared[np.arange(shared.shape[0]), np.arange(start, start + shared.shape[0])] = False
        if shared.any():
            other = Box(*map(int, ordered[int(np.argwhere(shared)[0, 1])]))
            raise ValueError(
                f"the core {other} overlaps another tile's, or the tile was given twice; cores share no pixel"
            )
    area = int(((y1 - y0) * (x1 - x0)).sum())
    if area != frame.area:
        # An error is at hand, so that a plane of flags may be spent on naming the first hole.
        holes = np.ones(frame.shape, np.bool_)
        for core in ordered:
            holes[Box(*map(int, core)).slices] = False
        _refuse_holes(holes, frame)


def _in_order(pieces: list[Piece]) -> list[Piece]:
    """Row-major; pieces of one place, should there be several, by their bytes: never by when they came."""
    ordered: list[Piece] = []
    for _, same in groupby(sorted(pieces, key=lambda piece: piece.order), key=lambda piece: piece.order):
        group = list(same)
        ordered += group if len(group) == 1 else sorted(group, key=lambda piece: piece.array.tobytes())
    return ordered


def _own(job: Job, box: Box, pieces: list[Piece]) -> NDArray[Any]:
    """Each pixel from the one tile that owns it."""
    lead = (job.classes,) if job.classes else ()
    joined = np.zeros((*lead, *box.shape), np.float32 if job.classes else job.dtype)
    deepest = np.zeros(box.shape, np.int32)
    for piece in pieces:
        here = piece.owned.relative_to(box).slices
        depth = _depth(piece, job.frame)
        deeper = depth > deepest[here]
        np.copyto(joined[(..., *here)], piece.array, where=deeper, casting="same_kind")
        np.copyto(deepest[here], depth, where=deeper)
    _refuse_holes(deepest == 0, box)
    return joined


def _depth(piece: Piece, frame: Box) -> NDArray[np.int32]:
    """How far each owned pixel lies from the tile's border; the micrograph's own border is no border."""
    far = frame.height + frame.width
    profiles = []
    for start, stop, begin, end, last in (
        (piece.tile.y0, piece.tile.y1, piece.owned.y0, piece.owned.y1, frame.y1),
        (piece.tile.x0, piece.tile.x1, piece.owned.x0, piece.owned.x1, frame.x1),
    ):
        at = np.arange(begin, end)
        before = np.full(at.shape, far) if start <= 0 else at - start + 1
        after = np.full(at.shape, far) if stop >= last else stop - at
        profiles.append(np.minimum(before, after).astype(np.int32))
    return np.minimum(profiles[0][:, None], profiles[1][None, :])


def _average(job: Job, box: Box, pieces: list[Piece]) -> NDArray[Any]:
    """The weighted mean of all tiles over each pixel, added in row-major order of the tiles."""
    total = np.zeros((job.classes, *box.shape), np.float32)
    weight = np.zeros(box.shape, np.float32)
    for piece in pieces:
        here, there = piece.owned.relative_to(box).slices, piece.owned.relative_to(piece.tile).slices
        weights = job.weigh(piece)[there]
        total[(..., *here)] += piece.array * weights
        weight[here] += weights
    _refuse_holes(weight == 0, box)
    total /= weight
    return total


def _refuse_holes(holes: NDArray[np.bool_], box: Box) -> None:
    count = int(np.count_nonzero(holes))
    if count:
        y, x = (int(value) for value in np.unravel_index(int(np.argmax(holes)), holes.shape))
        raise CoverageError(
            f"no tile covers {count} of {holes.size} pixels, the first at y={box.y0 + y}, x={box.x0 + x}; "
            "give the tiles that are missing, or a smaller shape"
        )
