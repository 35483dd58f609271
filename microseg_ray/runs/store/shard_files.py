"""The files, or objects, in which zarr keeps the shards of a mask store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microseg_ray.files import ObjectPath, place, sync
from microseg_ray.statistics.counts import SPREADS

if TYPE_CHECKING:
    from collections.abc import Callable

    import zarr

    from microseg_ray.files import Place

__all__ = ["flush", "held", "shard_file"]

_INDEX_BYTES = 16 + 4
"""Of a shard of one chunk: place and length of the chunk, and the checksum of both."""


def shard_file(path: str, array: zarr.Array[Any], shard: tuple[int, int]) -> Place:
    """Where zarr keeps the mask's, a level's, an extra output's or the ledger's part of one shard.

    Args:
        path: Of the store.
        array: One of its arrays.
        shard: (y, x) index.
    """
    ledger = array.basename in {"counts", *SPREADS}
    key = (*shard, *(0 for _ in array.shape[2:])) if ledger else (*(0 for _ in array.shape[:-2]), *shard)
    return place(path) / array.basename / array.metadata.encode_chunk_key(key)


def held(path: str, array: zarr.Array[Any]) -> Callable[[tuple[int, int]], bool]:
    """Tells of a shard whether its file can hold one, at least its index: zarr reads an empty file as one never written.

    Args:
        path: Of the store.
        array: One of its arrays of pixels.
    """
    folder = place(path) / array.basename
    if not isinstance(folder, ObjectPath):
        return lambda shard: _holds_a_shard(shard_file(path, array, shard))
    # One listing in place of a request for each shard.
    sizes: dict[Place, int] = {ObjectPath(folder.bucket, each["path"]): each["size"] for each in folder.below()}
    return lambda shard: sizes.get(shard_file(path, array, shard), 0) >= _INDEX_BYTES


def flush(path: str, file: Place) -> None:
    """Push a shard to the disk itself, so that a power cut cannot leave a record of it without its pixels.

    Args:
        path: Of the store.
        file: Of the shard.
    """
    if isinstance(file, ObjectPath):
        return
    folders = [folder for folder in file.parents if folder.is_relative_to(path)]
    for target in (file, *folders):
        sync(target)


def _holds_a_shard(file: Place) -> bool:
    try:
        return file.stat().st_size >= _INDEX_BYTES
    except OSError:
        return False
