"""The rows of the table, and the writing of one shard."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import FencedError, InputError, MicrosegError, StoreError
from microseg_ray.geometry import Box
from microseg_ray.quarantine import is_full
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.sources import open_prepared
from microseg_ray.sources.unchanged import Unchanged
from microseg_ray.tiles.store import TileStore
from microseg_ray.tiles.survey import mask_of
from microseg_ray.tiles.tasks import Member, ShardResult, ShardTask, TileRow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.fence import Fence
    from microseg_ray.files import Where
    from microseg_ray.settings import TileSettings
    from microseg_ray.tiles.spec import TileSpec
    from microseg_ray.tiles.tasks import Pair, Surveyed

__all__ = ["LeftOut", "changed_pair", "shard_task", "stop_if_over", "tile_rows", "write_shard"]

TRAINED_ON = "train"


@dataclass(frozen=True)
class LeftOut:
    """Numbers of tiles that were left out by rule.

    Attributes:
        unlabelled: Too small a share of them is labelled (`min_labelled`).
        empty: They hold the first class only (`keep_empty`).
    """

    unlabelled: int = 0
    empty: int = 0


def tile_rows(good: Sequence[Surveyed], settings: TileSettings, first: int = 0) -> tuple[list[TileRow], LeftOut]:
    """The rows of tiles.parquet, in order of micrograph, then row-major; and how many tiles were left out.

    Args:
        good: The usable pairs.
        settings: `tile`, `min_labelled`, `keep_empty` and `seed` are used.
        first: Index of the first tile.
    """
    rows: list[TileRow] = []
    unlabelled = 0
    for found in sorted(good, key=lambda item: item.pair.name):
        pair = found.pair
        area = min(found.shape[0], settings.tile) * min(found.shape[1], settings.tile)
        for tile in found.tiles:
            labelled = sum(tile.counts)
            if labelled == 0 or labelled / area < settings.min_labelled:
                unlabelled += 1
                continue
            place = tile.y0, tile.x0, found.low, found.high
            rows.append(TileRow(0, pair.name, pair.group, pair.split, *place, tile.counts, area - labelled))
    dropped = _empty_to_drop(rows, settings)
    kept = [row for place, row in enumerate(rows) if place not in dropped]
    return [replace(row, index=index) for index, row in enumerate(kept, first)], LeftOut(unlabelled, len(dropped))


def _empty_to_drop(rows: Sequence[TileRow], settings: TileSettings) -> set[int]:
    """Places of the training tiles of the first class alone that are not kept; the choice depends on names and seed.

    Only training tiles are thinned out: the other splits measure, and must keep the natural share of each class.
    """
    if settings.keep_empty == 1 or len(settings.classes) < 2:
        return set()

    def draw(row: TileRow) -> bytes:
        key = f"{settings.seed}\0{row.micrograph}\0{row.y0}\0{row.x0}"
        return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

    empty = [place for place, row in enumerate(rows) if row.split == TRAINED_ON and not any(row.counts[1:])]
    empty.sort(key=lambda place: draw(rows[place]))
    return set(empty[round(len(empty) * settings.keep_empty) :])


def shard_task(
    store: TileStore,
    shard: int,
    tiles: Sequence[TileRow],
    sources: Mapping[str, tuple[Pair, tuple[str, str]]],
    fence: Fence | None = None,
) -> ShardTask:
    """The task that writes one shard.

    Args:
        store: The unfinished store.
        shard: Index of the shard.
        tiles: Rows of the tiles that are being written, in tile order.
        sources: Of each micrograph, its pair and the fingerprints of image and mask.
        fence: The epoch of the job.
    """
    members = [tiles[index - tiles[0].index] for index in store.spec.shard_range(shard)]
    names = sorted({row.micrograph for row in members})
    places = {name: place for place, name in enumerate(names)}
    return ShardTask(
        str(store.folder),
        store.spec.parts,
        shard,
        tuple(sources[name][0] for name in names),
        tuple(sources[name][1] for name in names),
        tuple(Member(places[row.micrograph], row.y0, row.x0) for row in members),
        fence,
    )


def write_shard(task: ShardTask) -> ShardResult:
    """Write one shard; an error is returned as the reason."""
    try:
        return _write_shard(task)
    except (MicrosegError, OSError) as error:
        return ShardResult(str(error), full=is_full(error), fenced=isinstance(error, FencedError))


def stop_if_over(results: Iterable[ShardResult], output: Where) -> None:
    """Stop the job where no result of another micrograph could be kept.

    Args:
        results: Of `write_shard`.
        output: The job's output.

    Raises:
        FencedError: Another job has begun to write here.
        StoreError: The disk is full.

    Example:
        >>> stop_if_over([ShardResult(), ShardResult("no space is left", full=True)], "/tiles")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.StoreError: /tiles: no space is left; free some space and run the same command again
    """
    for found in results:
        if found.fenced:
            raise FencedError(found.reason)
        if found.full:
            raise StoreError(f"{output}: {found.reason}; free some space and run the same command again")


def _write_shard(task: ShardTask) -> ShardResult:
    """Read the tiles of one shard, micrograph by micrograph, and write them at once."""
    store = TileStore.open(task.store, unfinished=True, parts=task.parts)
    spec, count = store.spec, len(task.tiles)
    images = np.zeros((count, spec.channels, spec.side, spec.side), spec.dtype)
    masks = np.full((count, spec.side, spec.side), IGNORE_INDEX, np.uint8)
    for place, pair in enumerate(task.pairs):
        own = [(slot, tile) for slot, tile in enumerate(task.tiles) if tile.pair == place]
        try:
            _read_pair(pair, own, spec, images, masks)
        except ValueError as error:
            # An InputError, or numpy's on a file that has shrunk.
            reason = changed_pair(pair, task.marks[place], _inputs.require)
            return ShardResult(reason or str(error).removeprefix(f"{pair.image}: "), pair=pair.name)
        if reason := changed_pair(pair, task.marks[place], _inputs.require):
            return ShardResult(reason, pair=pair.name)
    with task.writing():
        store.write_shard(task.shard, images, masks)
    return ShardResult()


def _read_pair(
    pair: Pair, tiles: list[tuple[int, Member]], spec: TileSpec, images: NDArray[Any], masks: NDArray[np.uint8]
) -> None:
    """The pixels of one pair's tiles into their slots."""
    with open_prepared(pair.image, spec.scaling, pair.source) as micrograph:
        mask = mask_of(pair.mask, micrograph.info.parts) if pair.mask else None
        frame = micrograph.info.specimen
        for slot, tile in tiles:
            visible = Box(tile.y0, tile.x0, tile.y0 + spec.side, tile.x0 + spec.side).intersection(frame)
            below, right = spec.side - visible.height, spec.side - visible.width
            # A micrograph smaller than a tile is mirrored; the mirrored pixels stay without a class.
            images[slot] = np.pad(micrograph.read(visible), ((0, 0), (0, below), (0, right)), mode="reflect")
            if mask is not None:
                masks[slot, : visible.height, : visible.width] = mask[visible.slices]


def changed_pair(pair: Pair, marks: tuple[str, str], require: Callable[[str, str], None]) -> str:
    """Why a pair is not the one any more that was surveyed; empty where it is.

    Args:
        pair: The micrograph and its mask.
        marks: Their fingerprints in the survey.
        require: Raises an InputError for a path whose fingerprint is another one now.
    """
    for path, mark in zip((pair.image, pair.mask), marks, strict=True):
        if not path:
            continue
        try:
            require(path, mark)
        except InputError as error:
            return str(error).removeprefix(f"{pair.image}: ")
    return ""


_inputs = Unchanged()
"""The files that this process has read tiles of."""
