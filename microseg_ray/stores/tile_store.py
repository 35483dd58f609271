"""The tile store: overlapping training tiles of many micrographs in one zarr group, with a table beside it.

```
OUTPUT/
  tiles.zarr/          zarr v3; attributes `microseg`: classes, scaling, grid, what it was made from
    images/            (tile, channel, y, x), the sources' dtype; one chunk a tile, shards of many tiles
    masks/             (tile, y, x) uint8, 255 where ignored
  tiles.parquet        a row per tile: micrograph, group, split, y0, x0, low, high, pixel count per class
  failures.csv         what was left out and why
```

The table is written last: a store without it is not finished, and `TileStore.open` says so.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.codecs import ZstdCodec

from microseg_ray.errors import StoreError
from microseg_ray.settings import IGNORE_INDEX, ClassSpec, Scaling

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["TileSpec", "TileStore", "write_table"]

TARGET_SHARD_BYTES = 32 * 1024**2
MAX_TILES_PER_SHARD = 256
COLUMNS = ("micrograph", "group", "split", "y0", "x0", "low", "high")


@dataclass(frozen=True)
class TileSpec:
    """What a tile store is made for.

    Attributes:
        tiles: Number of tiles.
        side: Height and width of a tile in pixels.
        overlap: Pixels that neighbouring tiles share, at least.
        channels: Channels of the images.
        dtype: numpy name of the images' type.
        classes: Names and colours, in the order of the class index.
        scaling: How intensities become what a model sees.
        pixel_size_um: (y, x) of all micrographs, None where unknown or not the same.
    """

    tiles: int
    side: int
    overlap: int
    channels: int
    dtype: str
    classes: tuple[ClassSpec, ...]
    scaling: Scaling
    pixel_size_um: tuple[float, float] | None = None

    @property
    def tiles_per_shard(self) -> int:
        """Tiles that one task writes in one go.

        Example:
            >>> TileSpec(10, 256, 32, 1, "uint8", (), Scaling()).tiles_per_shard
            256
        """
        tile_bytes = self.channels * self.side**2 * np.dtype(self.dtype).itemsize
        return max(1, min(MAX_TILES_PER_SHARD, TARGET_SHARD_BYTES // tile_bytes))

    def shard_range(self, shard: int) -> range:
        """The tile indices of one shard."""
        start = shard * self.tiles_per_shard
        return range(start, min(start + self.tiles_per_shard, self.tiles))

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.tiles // self.tiles_per_shard)


class TileStore:
    """A finished tile store, read by training; see the module for what lies where."""

    def __init__(self, folder: Path, group: zarr.Group, spec: TileSpec, table: pa.Table | None) -> None:
        self.folder = folder
        self.spec = spec
        self.table = table
        self._group = group

    @classmethod
    def create(cls, folder: str | os.PathLike[str], spec: TileSpec, made_from: Mapping[str, Any]) -> TileStore:
        """Make an empty store in place of an older one; `write_table` finishes it.

        Args:
            folder: Where tiles.zarr and tiles.parquet go.
            spec: Grid, dtype and classes.
            made_from: The settings and inputs, kept for whoever asks where the tiles came from.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tiles.parquet").unlink(missing_ok=True)
        if (folder / "tiles.zarr").exists():
            shutil.rmtree(folder / "tiles.zarr")
        record = {
            "tiles": spec.tiles,
            "side": spec.side,
            "overlap": spec.overlap,
            "channels": spec.channels,
            "dtype": spec.dtype,
            "classes": [item.model_dump() for item in spec.classes],
            "scaling": spec.scaling.model_dump(),
            "pixel_size_um": spec.pixel_size_um,
            "made_from": dict(made_from),
        }
        group = zarr.create_group(folder / "tiles.zarr", attributes={"microseg": record})
        count, side = spec.tiles_per_shard, spec.side
        for name, shape, dtype, fill in (
            ("images", (spec.channels, side, side), spec.dtype, 0),
            ("masks", (side, side), "uint8", IGNORE_INDEX),
        ):
            group.create_array(
                name,
                shape=(spec.tiles, *shape),
                chunks=(1, *shape),
                shards=(count, *shape),
                dtype=dtype,
                fill_value=fill,
                compressors=[ZstdCodec(level=1, checksum=True)],
                config={"write_empty_chunks": True},
            )
        return cls(folder, group, spec, None)

    @classmethod
    def open(cls, folder: str | os.PathLike[str], *, unfinished: bool = False) -> TileStore:
        """Open a store.

        Args:
            folder: The tile job's output folder, or the `tiles.zarr` in it.
            unfinished: Allow a store that is still being written (for its writers).

        Raises:
            StoreError: Nothing is there, or it is damaged or not finished.
        """
        folder = Path(folder)
        folder = folder.parent if folder.name == "tiles.zarr" else folder
        try:
            group = zarr.open_group(folder / "tiles.zarr", mode="r+" if unfinished else "r")
            record = cast("dict[str, Any]", group.attrs["microseg"])
            spec = TileSpec(
                record["tiles"],
                record["side"],
                record["overlap"],
                record["channels"],
                record["dtype"],
                tuple(ClassSpec(**item) for item in record["classes"]),
                Scaling(**record["scaling"]),
                cast("tuple[float, float] | None", record["pixel_size_um"] and tuple(record["pixel_size_um"])),
            )
        except FileNotFoundError as error:
            raise StoreError(
                f"{folder}: no tile store is here; make one with `microseg tile --output {folder}`"
            ) from error
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(
                f"{folder}: not a tile store, or damaged ({error}); make it again with `microseg tile`"
            ) from error
        if unfinished:
            return cls(folder, group, spec, None)
        try:
            table = pq.read_table(folder / "tiles.parquet")
        except (OSError, pa.ArrowInvalid) as error:
            raise StoreError(
                f"{folder}: tiles.parquet cannot be read ({error}): the tile job did not finish; run it again"
            ) from error
        if table.num_rows != spec.tiles:
            raise StoreError(
                f"{folder}: tiles.parquet has {table.num_rows} rows for {spec.tiles} tiles; run the tile job again"
            )
        lacking = sorted(
            {*COLUMNS, *(f"count_{index}" for index in range(len(spec.classes)))} - set(table.column_names)
        )
        if lacking:
            raise StoreError(f"{folder}: tiles.parquet has no column {lacking[0]!r}; run the tile job again")
        return cls(folder, group, spec, table)

    @property
    def made_from(self) -> dict[str, Any]:
        """The settings and inputs that the store was made from."""
        return dict(cast("dict[str, Any]", self._group.attrs["microseg"])["made_from"])

    @property
    def digest(self) -> str:
        """sha256 of the store's metadata and table: equal stores hold equal tiles of equal sources."""
        record = json.dumps(self._group.attrs["microseg"], sort_keys=True).encode()
        rows = json.dumps(self._rows().to_pylist(), sort_keys=True).encode()
        return hashlib.sha256(record + rows).hexdigest()

    def _rows(self) -> pa.Table:
        if self.table is None:
            raise StoreError(f"{self.folder}: the store is still being written")
        return self.table

    def write_shard(self, shard: int, images: NDArray[Any], masks: NDArray[np.uint8]) -> None:
        """Write all tiles of one shard; two writers of one shard would lose each other's tiles.

        Args:
            shard: Index of the shard.
            images: (tile, channel, y, x) in the store's dtype.
            masks: (tile, y, x) uint8.

        Raises:
            StoreError: There is no such shard, or the arrays are not the whole of it or of another type.
        """
        if not 0 <= shard < self.spec.shards:
            raise StoreError(f"{self.folder}: shard {shard}: there are {self.spec.shards} shards, counted from 0")
        tiles = self.spec.shard_range(shard)
        for name, array in (("images", images), ("masks", masks)):
            target = self._array(name)
            expected = (len(tiles), *target.shape[1:])
            if array.shape != expected or array.dtype != target.dtype:
                raise StoreError(
                    f"{self.folder}: shard {shard} holds tiles {tiles.start} to {tiles.stop - 1}; give {name} "
                    f"{target.dtype} {expected}, not {array.dtype} {array.shape}: a part of a shard is never written"
                )
        for name, array in (("images", images), ("masks", masks)):
            # Not stored in the metadata, so it must be asked for at each opening: a tile of one value is still written.
            self._array(name).with_config({"write_empty_chunks": True})[tiles.start : tiles.stop] = array

    def rows(self, split: str) -> NDArray[np.int64]:
        """Indices of the tiles of a split, in order; empty where the store has none."""
        names = np.asarray(self._rows()["split"].to_pylist(), dtype=object)
        return np.flatnonzero(names == split).astype(np.int64)

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have tiles."""
        return sorted(set(self._rows()["split"].to_pylist()))

    def tile_counts(self, split: str) -> NDArray[np.int64]:
        """(tile, class) int64 pixels of each class in each tile of a split."""
        rows = self.rows(split)
        table = self._rows()
        columns = [np.asarray(table[f"count_{index}"], dtype=np.int64)[rows] for index in range(len(self.spec.classes))]
        return np.stack(columns, axis=1)

    def read(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float32]]:
        """Tiles by index.

        Args:
            indices: Tile indices, any order, repeats allowed.

        Returns:
            Images (n, channel, y, x) in the source's dtype, masks (n, y, x) uint8, and (n, 2) float32 intensity limits
            (low, high) of each tile's micrograph.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        # One request for the distinct tiles in store order; repeats and order are restored afterwards.
        distinct, place = np.unique(chosen, return_inverse=True)
        images = np.asarray(self._array("images").oindex[distinct])[place]
        masks = np.asarray(self._array("masks").oindex[distinct])[place]
        table = self._rows()
        limits = np.stack([np.asarray(table[name], dtype=np.float32)[chosen] for name in ("low", "high")], axis=1)
        return images, masks, limits

    def _array(self, name: str) -> zarr.Array[Any]:
        return cast("zarr.Array[Any]", self._group[name])


def write_table(folder: str | os.PathLike[str], rows: list[dict[str, Any]]) -> None:
    """Write tiles.parquet, whole or not at all: this finishes a store.

    Args:
        folder: The store's folder.
        rows: One mapping per tile, in tile order.
    """
    target = Path(folder) / "tiles.parquet"
    partial = target.with_suffix(".partial")
    pq.write_table(pa.Table.from_pylist(rows), partial)
    partial.replace(target)
