"""Tiles by index straight from the shards of a tile store.

zarr-python 3.1 turns a list of tiles into coordinates of single pixels: 14 ms of CPU time for each tile of 512 px, and more
for longer lists (docs/results/training_throughput.md). A shard of the zarr format is its chunks one after the other with
a table of offset and length behind them, so each shard is opened once, and each of its tiles that are wanted is read and decoded
into its place. Checksums are verified as zarr does. Arrays that are laid out otherwise are left to zarr.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, ZstdCodec

from microseg_ray.errors import UNREADABLE, ObjectStoreError, StoreError
from microseg_ray.files import ObjectPath

if TYPE_CHECKING:
    from collections.abc import Iterable

    import zarr
    from numpy.typing import NDArray

    from microseg_ray.files import Place

__all__ = ["TileReader"]

_ENTRY_BYTES = 16
_CHECKSUM_BYTES = 4
_ABSENT = np.uint64(2**64 - 1)


class TileReader:
    """Reads tiles of one array by their slots.

    Args:
        folder: The group that holds the array.
        array: (slot, ...), one chunk a slot.
    """

    def __init__(self, folder: Place, array: zarr.Array[Any]) -> None:
        self._folder = folder
        self._array = array
        self._plain = _plainly_sharded(array)

    def read(self, slots: NDArray[np.int64]) -> NDArray[Any]:
        """Read some tiles.

        Args:
            slots: Any order, repeats allowed.

        Returns:
            (n, ...), in the order of `slots`.

        Raises:
            StoreError: A tile, or its shard, is missing or damaged.
        """
        array = self._array
        try:
            if self._plain:
                return _from_shards(self._folder / array.basename, array, slots)
            distinct, place = np.unique(slots, return_inverse=True)
            return np.asarray(array.oindex[distinct])[place]
        except ObjectStoreError:
            raise
        except (OSError, *UNREADABLE) as error:
            reason = f"{array.basename} cannot be read ({error}); make the store again with `microseg tile`"
            raise StoreError(f"{self._folder}: {reason}") from error


def _plainly_sharded(array: zarr.Array[Any]) -> bool:
    """Whether the array is laid out as `TileStore.create` does it."""
    codecs: tuple[Any, ...] = getattr(array.metadata, "codecs", ())
    if len(codecs) != 1 or not isinstance(codecs[0], ShardingCodec) or array.shards is None:
        return False
    sharding = codecs[0]
    return (
        _are(sharding.codecs, (BytesCodec, ZstdCodec))
        and _are(sharding.index_codecs, (BytesCodec, Crc32cCodec))
        and str(getattr(sharding.index_location, "value", sharding.index_location)) == "end"
        and array.dtype.newbyteorder("<") == array.dtype
        and list(array.chunks) == [1, *list(array.shape)[1:]]
        and list(array.shards)[1:] == list(array.shape)[1:]
    )


def _are(codecs: Iterable[Any], kinds: tuple[type, ...]) -> bool:
    """Whether the codecs are of these kinds, or of kinds derived from them, which store the same bytes."""
    found = tuple(codecs)
    return len(found) == len(kinds) and all(isinstance(codec, kind) for codec, kind in zip(found, kinds, strict=True))


def _from_shards(folder: Place, array: zarr.Array[Any], slots: NDArray[np.int64]) -> NDArray[Any]:
    tiles = np.empty((len(slots), *array.shape[1:]), array.dtype)
    per_shard = (array.shards or (1,))[0]
    decoder = Zstd()
    shards = slots // per_shard
    for shard in np.unique(shards).tolist():
        path = folder / array.metadata.encode_chunk_key((shard, *(0 for _ in array.shape[1:])))
        places = np.flatnonzero(shards == shard)
        if isinstance(path, ObjectPath):
            # A request for the table and one or a few for the tiles: neighbours are fetched together.
            entries = _entries(path.read_end(_table_bytes(per_shard)), per_shard)
            wanted = _present(entries[slots[places] % per_shard], slots[places], path.name)
            contents = path.read_ranges(wanted[:, 0].tolist(), wanted[:, 1].tolist())
            for place, content in zip(places.tolist(), contents, strict=True):
                decoder.decode(content, tiles[place])
            continue
        with path.open("rb") as file:
            file.seek(-_table_bytes(per_shard), 2)
            entries = _entries(file.read(), per_shard)
            wanted = _present(entries[slots[places] % per_shard], slots[places], path.name)
            for place, (offset, length) in zip(places.tolist(), wanted.tolist(), strict=True):
                file.seek(offset)
                decoder.decode(file.read(length), tiles[place])
    return tiles


def _table_bytes(count: int) -> int:
    return count * _ENTRY_BYTES + _CHECKSUM_BYTES


def _present(entries: NDArray[np.uint64], slots: NDArray[np.int64], name: str) -> NDArray[np.uint64]:
    """The entries of tiles, none of which is missing."""
    absent = np.flatnonzero(entries[:, 0] == _ABSENT)
    if absent.size:
        raise ValueError(f"tile {slots[absent[0]]} is missing in {name}")
    return entries


def _entries(end: bytes, count: int) -> NDArray[np.uint64]:
    """Offset and length of each chunk of a shard, from its last bytes: uint64 (count, 2)."""
    table = end[: count * _ENTRY_BYTES]
    if int(google_crc32c.value(table)) != int.from_bytes(end[len(table) :], "little"):
        raise ValueError("the checksum of a shard's table is wrong")
    return np.frombuffer(table, "<u8").reshape(count, 2)
