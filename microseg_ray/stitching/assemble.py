"""`stitch`: tiles from anywhere, in any order, to one array in memory or on disk."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import CoverageError
from microseg_ray.files import delete_file
from microseg_ray.geometry import Box, Tile
from microseg_ray.stitching.joining import Job, Piece, check_cores

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

__all__ = ["stitch"]

Where = Tile | tuple[int, int]
HELD_BYTES = 512 * 1024**2


@dataclass
class _Shard:
    """The pieces of one shard that have arrived, in memory or spilled."""

    box: Box
    expected: int | None
    pieces: list[Piece] = field(default_factory=list)
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
            `into.chunks`), of a type that holds every value; None makes a numpy array.
        origins: The `where` of every tile to come, all of one shape. With it a shard is written as soon as its last tile
            is in; without it, shards with overlapping tiles wait for the end, and beyond `held_bytes` wait on disk.
        held_bytes: Bytes of tiles that are kept in memory.

    Returns:
        `into`, or a new array: (y, x) of the masks' dtype, uint8 for argmaxed scores, (class, y, x) float32 for scores.

    Raises:
        CoverageError: A pixel is covered by no tile; the message says where.
        ValueError: A tile does not fit the others, `shape`, `blend`, `into` or `origins`; scores hold NaN.

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
    job = Job(shape, np.asarray(first[1]), blend, argmax, into)
    with tempfile.TemporaryDirectory(prefix="microseg_stitch_") as folder:
        table = _Shards(job, Path(folder), held_bytes, origins)
        table.add(*first)
        for where, array in stream:
            table.add(where, array)
        table.finish()
    return job.result


class _Shards:
    """Collects pieces by shard, writes a shard when it is complete, spills when too much is held."""

    def __init__(self, job: Job, folder: Path, limit: int, origins: Sequence[Where] | None) -> None:
        self._job = job
        self._folder = folder
        self._limit = max(0, limit)
        self._origins = None if origins is None else list(origins)
        self._awaited = Counter(_origin(where) for where in self._origins or ())
        self._open: dict[tuple[int, int], _Shard] = {}
        self._written: set[tuple[int, int]] = set()
        self._expected: Counter[tuple[int, int]] | None = None
        self._first: tuple[tuple[int, ...], bool] | None = None
        self._held = 0
        self._cores: list[tuple[int, int, int, int]] = []
        self._core_area = 0

    def add(self, where: Where, array: NDArray[Any]) -> None:
        """Take one tile apart into the shards that it touches."""
        array = np.asarray(array)
        box, owned = self._place(where, array)
        if self._origins is not None:
            self._await(self._origins, where, box)
        if self._job.in_memory and isinstance(where, Tile) and self._job.blend == "crop":
            self._add_core(owned, array[(..., *owned.relative_to(box).slices)])
            return
        for key in self._keys(owned):
            if key in self._written:
                raise ValueError(
                    f"a tile at {box.y0, box.x0} arrived after its shard {key} was complete: was it given twice, or do cores "
                    "overlap?"
                )
            shard = self._open.get(key) or self._open.setdefault(
                key, _Shard(self._box(key), None if self._expected is None else self._expected[key])
            )
            part = owned.intersection(shard.box)
            # A copy, so that the caller may reuse its buffer and the rest of the tile can be freed.
            piece = Piece(box, part, array[(..., *part.relative_to(box).slices)].copy())
            shard.pieces.append(piece)
            shard.arrived += 1
            shard.owned += part.area
            self._held += piece.array.nbytes
            exact = isinstance(where, Tile) and self._job.blend == "crop" and shard.owned >= shard.box.area
            if exact and shard.owned > shard.box.area:
                raise ValueError(
                    f"the core {part} overlaps another tile's, or the tile was given twice; cores share no pixel"
                )
            if exact or shard.arrived == shard.expected:
                self._write(key)
        if self._held > self._limit:
            self._spill()

    def _add_core(self, core: Box, pixels: NDArray[Any]) -> None:
        """Write a core straight into an array in memory: cores share no pixel, so that nothing has to wait for the others."""
        self._core_area += core.area
        if self._core_area > self._job.frame.area:
            raise ValueError(
                f"the core {core} overlaps another tile's, or the tile was given twice; cores share no pixel"
            )
        self._cores.append(_corners(core))
        self._job.store(core, self._job.judged(core, pixels))

    def _place(self, where: Where, array: NDArray[Any]) -> tuple[Box, Box]:
        """The tile's box, and the part of it that may end up in the result."""
        job = self._job
        core = where.core if isinstance(where, Tile) and job.blend == "crop" else None
        side = array.shape[-2:]
        self._first = self._first or (side, core is not None)
        if array.ndim != job.ndim or (job.classes and array.shape[0] != job.classes):
            raise ValueError(
                f"tile at {where}: shape {array.shape} does not fit the first tile's kind: all masks, or all scores"
            )
        if not job.classes and array.dtype != job.dtype:
            raise ValueError(f"tile at {where}: type {array.dtype} is not the first tile's {job.dtype}")
        if (core is not None) != self._first[1]:
            raise ValueError(f"tile at {where}: give every tile by its Tile (it owns its core), or none")
        if job.weights is not None and job.weights.shape != side:
            raise ValueError(f"blend: weights of shape {job.weights.shape} do not fit a tile of shape {side}")
        if self._origins is not None and side != self._first[0]:
            raise ValueError(f"tile at {where}: with origins all tiles have one shape, {self._first[0]}, not {side}")
        y0, x0 = _origin(where)
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
        if core is None:
            return box, inside
        if not inside.contains(core):
            raise ValueError(f"the core {core} leaves the {job.frame.shape} result: is the grid another micrograph's?")
        return box, core

    def _await(self, origins: list[Where], where: Where, box: Box) -> None:
        """Tick a tile off; at the first, find out how many each shard waits for."""
        if self._expected is None:
            self._expected = Counter()
            for coming in origins:
                y0, x0 = _origin(coming)
                owned = Box(y0, x0, y0 + box.height, x0 + box.width)
                if isinstance(coming, Tile) and isinstance(where, Tile) and self._job.blend == "crop":
                    owned = coming.core
                self._expected.update(self._keys(owned.intersection(self._job.frame)))
        if not self._awaited[box.y0, box.x0]:
            raise ValueError(f"a tile at {box.y0, box.x0} is not in origins, or was given twice")
        self._awaited[box.y0, box.x0] -= 1

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
        """Write what is left; refuse if a shard got no tile at all, or a tile did not come."""
        late = sorted(origin for origin, count in self._awaited.items() if count)
        if late:
            raise CoverageError(
                f"{len(late)} tiles named in origins did not come, the first at y0={late[0][0]}, x0={late[0][1]}"
            )
        if self._cores:
            check_cores(np.array(self._cores), self._job.frame)
            return
        for key in self._keys(self._job.frame):
            if key not in self._written:
                self._open.setdefault(key, _Shard(self._box(key), None))
                self._write(key)

    def _write(self, key: tuple[int, int]) -> None:
        shard = self._open.pop(key)
        self._held -= shard.held
        pixels = self._job.join(shard.box, [*shard.pieces, *_unspilled(shard)])
        self._job.store(shard.box, pixels)
        self._written.add(key)


def _origin(where: Where) -> tuple[int, int]:
    return where.origin if isinstance(where, Tile) else (int(where[0]), int(where[1]))


def _corners(box: Box) -> tuple[int, int, int, int]:
    return box.y0, box.x0, box.y1, box.x1


def _unspilled(shard: _Shard) -> list[Piece]:
    pieces: list[Piece] = []
    for path in shard.spilled:
        boxes = np.load(path.with_suffix(".npy"))
        with np.load(path) as arrays:
            pieces += [
                Piece(Box(*map(int, row[:4])), Box(*map(int, row[4:])), arrays[f"arr_{index}"])
                for index, row in enumerate(boxes)
            ]
        delete_file(path)
    return pieces
