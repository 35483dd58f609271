"""`stitch`: tiles from anywhere, in any order, to one array in memory or on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import CoverageError
from microseg_ray.geometry import Box, Tile
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.stitching.windows import Blend, argmax_first, window

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["stitch"]

Where = Tile | tuple[int, int]
HELD_BYTES = 512 * 1024**2


@dataclass(frozen=True)
class _Piece:
    """One tile's part of one shard, in the micrograph's coordinates."""

    tile: Box
    owned: Box
    array: NDArray[Any]

    @property
    def order(self) -> tuple[int, int, int, int]:
        """Row-major by where the tile stands: the one order in which pieces are joined."""
        return self.tile.y0, self.tile.x0, self.tile.y1, self.tile.x1


@dataclass
class _Shard:
    """The pieces of one shard that have arrived, in memory or spilled."""

    box: Box
    expected: int | None
    pieces: list[_Piece] = field(default_factory=list)
    spilled: list[Path] = field(default_factory=list)
    arrived: int = 0
    owned: int = 0

    @property
    def held(self) -> int:
        return sum(piece.array.nbytes for piece in self.pieces)


def stitch(
    tiles: Iterable[tuple[Where, NDArray[Any]]],
    shape: tuple[int, int],
    *,
    blend: Literal["auto", "crop", "hann", "gaussian", "mean"] | NDArray[np.floating] = "auto",
    argmax: bool = True,
    into: Any = None,
    origins: Sequence[Where] | None = None,
    held_bytes: int = HELD_BYTES,
) -> Any:
    """Join tiles into one mask or score map, the same bytes whatever order they come in.

    Masks are joined by ownership: a `Tile` owns its core; of tiles given by their origin, each pixel belongs to the tile
    in which it lies deepest (furthest from the tile's border, the border of the micrograph not counting), the first in
    row-major order on a tie. Scores are averaged with a window, in row-major order of the tiles, in float32.

    Args:
        tiles: Pairs (where, array) in any order; a generator is read once. `where` is a `Tile`, or the (y0, x0) of the
            array's top left pixel. `array` is a mask (y, x) of integers, or scores (class, y, x), logits or
            probabilities. What leaves the micrograph at its bottom or right is padding and is cropped away.
        shape: (height, width) of the result in pixels.
        blend: `auto` takes `crop` for masks and `hann` for scores. `crop` joins scores by ownership too. `hann`,
            `gaussian`, `mean`, or weights (y, x) of the tiles' shape, average.
        argmax: For scores: return class indices, uint8. False returns the scores, float32.
        into: A zarr (or numpy) array of the result's shape to write into, shard by shard (`into.shards`, else
            `into.chunks`); None makes a numpy array.
        origins: The `where` of every tile to come. With it a shard is written as soon as its last tile is in; without
            it, shards with overlapping tiles wait for the end, and beyond `held_bytes` wait on disk.
        held_bytes: Bytes of tiles that are kept in memory.

    Returns:
        `into`, or a new array: (y, x) of the masks' dtype, uint8 for argmaxed scores, (class, y, x) float32 for scores.

    Raises:
        CoverageError: A pixel is covered by no tile; the message says where.
        ValueError: A tile does not fit the others, `shape` or `blend`.

    Example:
        >>> left, right = np.zeros((2, 3), np.uint8), np.ones((2, 3), np.uint8)
        >>> stitch([((0, 2), right), ((0, 0), left)], shape=(2, 5))
        array([[0, 0, 0, 1, 1],
               [0, 0, 0, 1, 1]], dtype=uint8)
        >>> scores = np.stack([1.0 - left, left])
        >>> stitch([((0, 0), scores)], shape=(2, 3)).tolist()
        [[0, 0, 0], [0, 0, 0]]
        >>> stitch([((0, 0), left)], shape=(2, 5))
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CoverageError: no tile covers 4 of 10 pixels, the first at y=0, x=3; ...
    """
    if min(shape) < 1:
        raise ValueError(f"shape {shape}: must be at least 1 x 1")
    stream = iter(tiles)
    first = next(stream, None)
    if first is None:
        raise CoverageError(
            f"no tiles were given for the {shape[0]} x {shape[1]} result; the first pixel missing is y=0, x=0"
        )
    job = _Job(shape, np.asarray(first[1]), blend, argmax, into)
    with tempfile.TemporaryDirectory(prefix="microseg_stitch_") as folder:
        table = _Shards(job, Path(folder), held_bytes, origins)
        table.add(*first)
        for where, array in stream:
            table.add(where, array)
        table.finish()
    return job.result


class _Job:
    """What is made of the tiles: kind, blend, output."""

    def __init__(self, shape: tuple[int, int], example: NDArray[Any], blend: Any, argmax: bool, into: Any) -> None:
        self.frame = Box.of_shape(shape)
        self.ndim = example.ndim
        if example.ndim not in {2, 3}:
            raise ValueError(f"a tile is a mask (y, x) or scores (class, y, x), not an array of shape {example.shape}")
        scores = example.ndim == 3
        if not scores and example.dtype.kind not in "buif":
            raise ValueError(f"a mask holds numbers, not {example.dtype}")
        self.classes = example.shape[0] if scores else 0
        if scores and argmax and self.classes > IGNORE_INDEX:
            raise ValueError(f"{self.classes} classes do not fit a uint8 mask; pass argmax=False")
        self.weights: NDArray[np.floating] | None = None
        if isinstance(blend, np.ndarray):
            self.blend: Blend = "mean"
            self.weights = blend
            if blend.ndim != 2 or not (blend > 0).all():
                raise ValueError("blend: weights are a (y, x) array of positive numbers")
        else:
            self.blend = ("hann" if scores else "crop") if blend == "auto" else blend
        if self.blend != "crop" and not scores:
            raise ValueError(
                f"blend {self.blend!r} averages scores (class, y, x); class indices cannot be averaged: use 'crop'"
            )
        window(self.blend, (1, 1)) if self.blend != "crop" else None
        self.argmax = argmax and scores
        self.keeps_scores = scores and not argmax
        dtype = np.dtype(np.uint8) if self.argmax else np.dtype(np.float32) if scores else example.dtype
        full = (self.classes, *shape) if self.keeps_scores else shape
        self.result: Any = np.empty(full, dtype) if into is None else into
        if tuple(self.result.shape) != full:
            raise ValueError(f"into: has shape {tuple(self.result.shape)}, the result has {full}")
        grid = getattr(self.result, "shards", None) or getattr(self.result, "chunks", None) or full
        self.shard = (int(grid[-2]), int(grid[-1]))

    def weigh(self, piece: _Piece) -> NDArray[np.floating]:
        weights = window(self.blend, piece.tile.shape) if self.weights is None else self.weights
        if weights.shape != piece.tile.shape:
            raise ValueError(f"blend: weights of shape {weights.shape} do not fit a tile of shape {piece.tile.shape}")
        return weights


class _Shards:
    """Collects pieces by shard, writes a shard when it is complete, spills when too much is held."""

    def __init__(self, job: _Job, folder: Path, limit: int, origins: Sequence[Where] | None) -> None:
        self._job = job
        self._folder = folder
        self._limit = limit
        self._origins = origins
        self._open: dict[tuple[int, int], _Shard] = {}
        self._written: set[tuple[int, int]] = set()
        self._expected: dict[tuple[int, int], int] | None = None
        self._held = 0

    def add(self, where: Where, array: NDArray[Any]) -> None:
        """Take one tile apart into the shards that it touches."""
        array = np.asarray(array)
        box, owned = self._place(where, array)
        if self._origins is not None and self._expected is None:
            self._expect(self._origins, box.shape)
        for key in self._keys(owned):
            if key in self._written:
                raise ValueError(
                    f"a tile at {box.y0, box.x0} arrived after its shard {key} was complete; is it in `origins`?"
                )
            shard = self._open.get(key) or self._open.setdefault(
                key, _Shard(self._box(key), None if self._expected is None else self._expected.get(key, 0))
            )
            part = owned.intersection(shard.box)
            # A copy, so that the caller may reuse its buffer and the rest of the tile can be freed.
            piece = _Piece(box, part, array[(..., *part.relative_to(box).slices)].copy())
            shard.pieces.append(piece)
            shard.arrived += 1
            shard.owned += part.area
            self._held += piece.array.nbytes
            exact = isinstance(where, Tile) and self._job.blend == "crop" and shard.owned >= shard.box.area
            if exact or shard.arrived == shard.expected:
                self._write(key)
        if self._held > self._limit:
            self._spill()

    def _place(self, where: Where, array: NDArray[Any]) -> tuple[Box, Box]:
        """The tile's box, and the part of it that may end up in the result."""
        job = self._job
        if array.ndim != job.ndim or (job.classes and array.shape[0] != job.classes):
            raise ValueError(
                f"tile at {where}: shape {array.shape} does not fit the first tile's kind: all masks, or all scores"
            )
        side = array.shape[-2:]
        y0, x0 = where.origin if isinstance(where, Tile) else (int(where[0]), int(where[1]))
        box = Box(y0, x0, y0 + side[0], x0 + side[1])
        if isinstance(where, Tile) and where.box != box:
            raise ValueError(
                f"the tile {where.box} came with an array of shape {array.shape}; it must be {where.box.shape}"
            )
        inside = box.intersection(job.frame)
        if inside.area == 0 or y0 < 0 or x0 < 0:
            raise ValueError(
                f"a tile at y0={y0}, x0={x0} of {side[0]} x {side[1]} px lies outside the {job.frame.shape} result"
            )
        return box, where.core if isinstance(where, Tile) and job.blend == "crop" else inside

    def _expect(self, origins: Sequence[Where], side: tuple[int, int]) -> None:
        self._expected = {}
        for where in origins:
            if isinstance(where, Tile):
                owned = where.core if self._job.blend == "crop" else where.box
            else:
                owned = Box(where[0], where[1], where[0] + side[0], where[1] + side[1])
            for key in self._keys(owned.intersection(self._job.frame)):
                self._expected[key] = self._expected.get(key, 0) + 1

    def _keys(self, box: Box) -> list[tuple[int, int]]:
        height, width = self._job.shard
        rows = range(box.y0 // height, -(-box.y1 // height))
        columns = range(box.x0 // width, -(-box.x1 // width))
        return [(row, column) for row in rows for column in columns]

    def _box(self, key: tuple[int, int]) -> Box:
        height, width = self._job.shard
        frame = self._job.frame
        y0, x0 = key[0] * height, key[1] * width
        return Box(y0, x0, min(y0 + height, frame.y1), min(x0 + width, frame.x1))

    def _spill(self) -> None:
        """Move the fullest shards to disk until half of the limit is free."""
        for key, shard in sorted(self._open.items(), key=lambda item: -item[1].held):
            if self._held <= self._limit // 2:
                return
            path = self._folder / f"{key[0]}_{key[1]}_{len(shard.spilled)}.npz"
            np.savez(path, *[piece.array for piece in shard.pieces])
            boxes = np.array([[*piece.order, *_corners(piece.owned)] for piece in shard.pieces])
            np.save(path.with_suffix(".npy"), boxes)
            self._held -= shard.held
            shard.spilled.append(path)
            shard.pieces.clear()

    def finish(self) -> None:
        """Write what is left; refuse if a shard got no tile at all."""
        for key in self._keys(self._job.frame):
            if key not in self._written:
                self._open.setdefault(key, _Shard(self._box(key), None))
                self._write(key)

    def _write(self, key: tuple[int, int]) -> None:
        shard = self._open.pop(key)
        self._held -= shard.held
        pieces = sorted([*shard.pieces, *_unspilled(shard)], key=lambda piece: piece.order)
        join: Callable[[_Job, Box, list[_Piece]], NDArray[Any]] = _own if self._job.blend == "crop" else _average
        pixels = join(self._job, shard.box, pieces)
        self._job.result[(..., *shard.box.slices)] = pixels
        self._written.add(key)


def _corners(box: Box) -> tuple[int, int, int, int]:
    return box.y0, box.x0, box.y1, box.x1


def _unspilled(shard: _Shard) -> list[_Piece]:
    pieces: list[_Piece] = []
    for path in shard.spilled:
        boxes = np.load(path.with_suffix(".npy"))
        with np.load(path) as arrays:
            pieces += [
                _Piece(Box(*map(int, row[:4])), Box(*map(int, row[4:])), arrays[f"arr_{index}"])
                for index, row in enumerate(boxes)
            ]
    return pieces


def _own(job: _Job, box: Box, pieces: list[_Piece]) -> NDArray[Any]:
    """Each pixel from the one tile that owns it."""
    lead = (job.classes,) if job.classes else ()
    dtype = np.dtype(np.float32) if job.classes else job.result.dtype
    joined = np.zeros((*lead, *box.shape), dtype)
    depth = np.zeros(box.shape, np.int32)
    for piece in pieces:
        here = piece.owned.relative_to(box).slices
        deeper = _depth(piece, job.frame) > depth[here]
        np.copyto(joined[(..., *here)], piece.array, where=deeper, casting="same_kind")
        np.copyto(depth[here], _depth(piece, job.frame), where=deeper)
    _refuse_holes(depth == 0, box)
    return argmax_first(joined) if job.argmax else joined


def _depth(piece: _Piece, frame: Box) -> NDArray[np.int32]:
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


def _average(job: _Job, box: Box, pieces: list[_Piece]) -> NDArray[Any]:
    """The weighted mean of all tiles over each pixel, added in row-major order of the tiles."""
    total = np.zeros((job.classes, *box.shape), np.float32)
    weight = np.zeros(box.shape, np.float32)
    for piece in pieces:
        here, there = piece.owned.relative_to(box).slices, piece.owned.relative_to(piece.tile).slices
        weights = job.weigh(piece)[there].astype(np.float32)
        total[(..., *here)] += piece.array * weights
        weight[here] += weights
    _refuse_holes(weight == 0, box)
    total /= weight
    return argmax_first(total) if job.argmax else total


def _refuse_holes(holes: NDArray[np.bool_], box: Box) -> None:
    count = int(np.count_nonzero(holes))
    if count:
        y, x = (int(value) for value in np.unravel_index(int(np.argmax(holes)), holes.shape))
        raise CoverageError(
            f"no tile covers {count} of {holes.size} pixels, the first at y={box.y0 + y}, x={box.x0 + x}; "
            "give the tiles that are missing, or a smaller shape"
        )
