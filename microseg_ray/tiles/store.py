"""The tile store: overlapping training tiles of many micrographs in one zarr group, with a table beside it.

```
OUTPUT/
  tiles.zarr/          zarr v3; attributes `microseg`: classes, scaling, grid, what it was made from
    images/            (tile, channel, y, x), the sources' dtype; one chunk a tile, shards of many tiles
    masks/             (tile, y, x) uint8, 255 where ignored
  tiles.parquet        a row per tile: micrograph, group, split, y0, x0, low, high, pixel count per class
  failures.csv         what was left out and why
```

The table is written last: a store without it is not finished, and `TileStore.open` says so. A store grows by whole
shards behind those that are there, which are not touched; the table, which also says how many tiles each writing brought,
is replaced at the very end, so that an append that was interrupted leaves the store as it was.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import zarr
from zarr.codecs import ZstdCodec

from microseg_ray.errors import UNREADABLE, ObjectStoreError, StoreError
from microseg_ray.files import delete_file, delete_folder, place
from microseg_ray.files.arrays import zarr_place
from microseg_ray.names import in_table
from microseg_ray.outputs import require_store
from microseg_ray.settings import IGNORE_INDEX, ClassSpec, Scaling
from microseg_ray.sources import IntensityProfile, fingerprint
from microseg_ray.tables import numbers, read_parquet, write_parquet
from microseg_ray.tiles.reading import TileReader
from microseg_ray.tiles.spec import TileSpec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.files import Place, Where

__all__ = ["TileStore", "write_table"]

_GROWN = b"microseg"
COLUMNS = ("micrograph", "group", "split", "y0", "x0", "low", "high")


class TileStore:
    """A finished tile store, read by training; see the module for what lies where."""

    def __init__(self, folder: Place, group: zarr.Group, spec: TileSpec, table: pa.Table | None) -> None:
        self.folder = folder
        self.spec = spec
        self.table = table
        self._group = group
        self._slots = spec.slots

    @classmethod
    def create(cls, folder: Where, spec: TileSpec, made_from: Mapping[str, Any]) -> TileStore:
        """Make an empty store in place of an older one; `write_table` finishes it.

        Args:
            folder: Where tiles.zarr and tiles.parquet go.
            spec: Grid, dtype and classes.
            made_from: The settings and inputs, kept for whoever asks where the tiles came from.
        """
        folder = place(folder)
        folder.mkdir(parents=True, exist_ok=True)
        delete_file(folder / "tiles.parquet")
        require_store(folder / "tiles.zarr")
        delete_folder(folder / "tiles.zarr")
        record = {
            "tiles": spec.tiles,
            "side": spec.side,
            "overlap": spec.overlap,
            "channels": spec.channels,
            "dtype": spec.dtype,
            "classes": [item.model_dump() for item in spec.classes],
            "scaling": spec.scaling.model_dump(),
            "pixel_size_um": spec.pixel_size_um,
            **_profile_record(spec),
            "made_from": dict(made_from),
        }
        group = zarr.create_group(zarr_place(folder / "tiles.zarr"), attributes={"microseg": record})
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
    def open(cls, folder: Where, *, unfinished: bool = False, parts: Sequence[int] = ()) -> TileStore:
        """Open a store.

        Args:
            folder: The tile job's output folder, or the `tiles.zarr` in it.
            unfinished: Allow a store that is still being written (for its writers).
            parts: Tiles of each writing, of an unfinished store that grows.

        Raises:
            StoreError: Nothing is there, or it is damaged or not finished.
        """
        folder = place(folder)
        # The output itself may be called tiles.zarr.
        if folder.name == "tiles.zarr" and not (folder / "tiles.zarr").exists():
            folder = folder.parent
        try:
            group = zarr.open_group(zarr_place(folder / "tiles.zarr"), mode="r+" if unfinished else "r", zarr_format=3)
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
                _profile_of(record),
            )
        except FileNotFoundError as error:
            raise StoreError(
                f"{folder}: no tile store is here; make one with `microseg tile --output {folder}`"
            ) from error
        except UNREADABLE as error:
            raise StoreError(
                f"{folder}: not a tile store, or damaged ({error}); make it again with `microseg tile`"
            ) from error
        if unfinished:
            spec = replace(spec, tiles=sum(parts), parts=tuple(parts)) if parts else spec
            return cls(folder, group, spec, None)
        table = cls._read_table(folder)
        grown = _grown(table)
        if grown:
            try:
                size = grown["pixel_size_um"]
                parts = tuple(int(part) for part in grown["parts"])
                size = tuple(size) if size else None
                spec = replace(spec, tiles=sum(parts), parts=parts, pixel_size_um=size, intensities=_profile_of(grown))
            except UNREADABLE as error:
                raise StoreError(f"{folder}: tiles.parquet is damaged ({error}); make the store again") from error
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

    @staticmethod
    def _read_table(folder: Place) -> pa.Table:
        try:
            return read_parquet(folder / "tiles.parquet")
        except ObjectStoreError:
            raise
        except (OSError, *UNREADABLE) as error:
            raise StoreError(
                f"{folder}: tiles.parquet cannot be read ({error}): the tile job did not finish; run it again"
            ) from error

    @property
    def made_from(self) -> dict[str, Any]:
        """The settings and inputs that the store was made from; of a store that grew, those of all writings together."""
        grown = {} if self.table is None else _grown(self.table)
        record = grown or cast("dict[str, Any]", self._group.attrs["microseg"])
        try:
            return dict(record["made_from"])
        except UNREADABLE as error:
            reason = f"what it was made from is damaged ({type(error).__name__}: {error})"
            raise StoreError(f"{self.folder}: {reason}; make the store again with `microseg tile`") from error

    def stale(self) -> dict[str, str]:
        """Which inputs are not what the store was made from any more.

        Sizes and modification times are compared, or every byte where the tile job ran with `fingerprint: content`.

        Returns:
            What is wrong ("the image changed", "the mask is gone" ...) by micrograph; empty where nothing is.
        """
        found: dict[str, str] = {}
        for name, entry in self.made_from.get("inputs", {}).items():
            if not isinstance(entry, dict):  # a store of the first format, which did not keep paths
                continue
            for what, before in zip(("image", "mask"), entry["fingerprints"], strict=True):
                if not place(entry[what]).exists():
                    found[name] = f"the {what} is gone"
                elif fingerprint(entry[what], "content" if before.startswith("sha256:") else "stat") != before:
                    found.setdefault(name, f"the {what} changed")
        return found

    def grow(self, tiles: int) -> TileStore:
        """Make room for more tiles behind those that are there; `finish_append` makes them part of the store.

        Args:
            tiles: How many.

        Returns:
            The store as it will be, for its writers: `write_shard` takes the shards from `self.spec.shards` on.

        Raises:
            StoreError: The store was made with shards of another size.
        """
        spec = self.spec.grown(tiles)
        writable = TileStore(
            self.folder, zarr.open_group(zarr_place(self.folder / "tiles.zarr"), mode="r+", zarr_format=3), spec, None
        )
        for name in ("images", "masks"):
            array = writable._array(name)
            if (array.shards or (0,))[0] != spec.tiles_per_shard:
                raise StoreError(f"{self.folder}: its shards hold another number of tiles; make the store again")
            # Readers go by the table, so longer arrays change nothing for them. What an interrupted append left is overwritten.
            array.resize((spec.length, *array.shape[1:]))
        return writable

    def described(self, pixel_size_um: tuple[float, float] | None, intensities: IntensityProfile | None) -> TileStore:
        """The same store with the pixel size and the intensities of all its micrographs, the appended ones included."""
        spec = replace(self.spec, pixel_size_um=pixel_size_um, intensities=intensities)
        return TileStore(self.folder, self._group, spec, self.table)

    def finish_append(self, rows: list[dict[str, Any]], made_from: Mapping[str, Any], spec: TileSpec) -> None:
        """Make appended tiles part of the store, in one step: the table is replaced.

        Args:
            rows: One mapping per new tile, in tile order.
            made_from: What all tiles together were made from.
            spec: The spec of the store that `grow` gave, with the pixel size that all micrographs have.

        Raises:
            StoreError: Not as many rows as there is room for.
        """
        old = self._rows()
        if old.num_rows + len(rows) != spec.tiles:
            raise StoreError(f"{self.folder}: {len(rows)} rows for {spec.tiles - old.num_rows} appended tiles")
        record = {
            "parts": spec.parts,
            "pixel_size_um": spec.pixel_size_um,
            **_profile_record(spec),
            "made_from": dict(made_from),
        }
        write_table(self.folder, [*old.to_pylist(), *rows], record)

    @property
    def digest(self) -> str:
        """sha256 of the store's metadata and table: equal stores hold equal tiles of equal sources."""
        record = json.dumps(self._group.attrs["microseg"], sort_keys=True).encode()
        rows = json.dumps(self._rows().to_pylist(), sort_keys=True).encode()
        grown = _grown(self._rows())
        rows += json.dumps(grown, sort_keys=True).encode() if grown else b""
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
        # Each is opened once: in an object store that is a request.
        targets = {name: self._array(name) for name in ("images", "masks")}
        for name, array in (("images", images), ("masks", masks)):
            target = targets[name]
            expected = (len(tiles), *target.shape[1:])
            if array.shape != expected or array.dtype != target.dtype:
                raise StoreError(
                    f"{self.folder}: shard {shard} holds tiles {tiles.start} to {tiles.stop - 1}; give {name} "
                    f"{target.dtype} {expected}, not {array.dtype} {array.shape}: a part of a shard is never written"
                )
        for name, array in (("images", images), ("masks", masks)):
            # Not stored in the metadata, so it must be asked for at each opening: a tile of one value is still written.
            first = shard * self.spec.tiles_per_shard
            targets[name].with_config({"write_empty_chunks": True})[first : first + len(tiles)] = array

    def rows(self, split: str) -> NDArray[np.int64]:
        """Indices of the tiles of a split, in order; empty where the store has none."""
        chosen = [each == split for each in self._rows()["split"].to_pylist()]
        return np.flatnonzero(np.array(chosen, bool)).astype(np.int64)

    @property
    def splits(self) -> list[str]:
        """Names of the splits that have tiles."""
        return sorted(pc.unique(self._rows()["split"]).to_pylist())

    def tile_counts(self, split: str) -> NDArray[np.int64]:
        """(tile, class) int64 pixels of each class in each tile of a split, in the order of `rows`.

        They are columns of the table, so no tile is read. Sampling and class weights use them.
        """
        rows = self.rows(split)
        table = self._rows()
        columns = [numbers(table, f"count_{index}", np.int64)[rows] for index in range(len(self.spec.classes))]
        return np.stack(columns, axis=1)

    def read(
        self, indices: Sequence[int] | NDArray[np.int64]
    ) -> tuple[NDArray[Any], NDArray[np.uint8], NDArray[np.float64]]:
        """Tiles by index.

        Args:
            indices: Tile indices, any order, repeats allowed.

        Returns:
            Images (n, channel, y, x) in the source's dtype, masks (n, y, x) uint8, and (n, 2) float64 intensity limits
            (low, high) of each tile's micrograph.

        Raises:
            IndexError: There is no such tile.
            StoreError: A tile is missing or damaged.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        strange = chosen[(chosen < 0) | (chosen >= self.spec.tiles)]
        if strange.size:
            raise IndexError(f"{self.folder}: tile {strange[0]}: there are {self.spec.tiles}, counted from 0")
        images, masks = (reader.read(self._slots[chosen]) for reader in self._readers)
        return images, masks, self._limits[chosen]

    @cached_property
    def _limits(self) -> NDArray[np.float64]:
        """(tile, 2) low and high of the intensities of each tile's micrograph."""
        return np.stack([numbers(self._rows(), name, np.float64) for name in ("low", "high")], axis=1)

    @cached_property
    def _readers(self) -> tuple[TileReader, TileReader]:
        """Of images and masks."""
        group = self.folder / "tiles.zarr"
        return TileReader(group, self._array("images")), TileReader(group, self._array("masks"))

    def _array(self, name: str) -> zarr.Array[Any]:
        try:
            return cast("zarr.Array[Any]", self._group[name])
        except UNREADABLE as error:
            reason = f"its array {name} is damaged ({type(error).__name__}: {error})"
            raise StoreError(f"{self.folder}: {reason}; make the store again with `microseg tile`") from error


def write_table(folder: Where, rows: list[dict[str, Any]], grown: Mapping[str, Any] | None = None) -> None:
    """Write tiles.parquet, whole or not at all: this finishes a store.

    Args:
        folder: The store's folder.
        rows: One mapping per tile, in tile order.
        grown: What an append changes beside the rows; kept in the table, so that one file decides.
    """
    table = pa.Table.from_pylist([in_table(row) for row in rows])
    if grown:
        table = table.replace_schema_metadata({_GROWN: json.dumps(grown)})
    write_parquet(place(folder) / "tiles.parquet", table)


def _profile_record(spec: TileSpec) -> dict[str, Any]:
    """The intensities as JSON types, under their key; nothing where they were not measured."""
    return {} if spec.intensities is None else {"intensities": spec.intensities.model_dump(mode="json")}


def _profile_of(record: Mapping[str, Any]) -> IntensityProfile | None:
    found = record.get("intensities")
    return None if found is None else IntensityProfile(**found)


def _grown(table: pa.Table) -> dict[str, Any]:
    """What appends changed: parts, pixel size, what it was made from; empty where there was none."""
    stored = (table.schema.metadata or {}).get(_GROWN)
    try:
        return cast("dict[str, Any]", json.loads(stored)) if stored else {}
    except UNREADABLE as error:
        raise StoreError(f"tiles.parquet is damaged ({error}); make the store again with `microseg tile`") from error
