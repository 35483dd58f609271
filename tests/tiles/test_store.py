"""The tile store: what goes in comes out, and nothing half-written is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from microseg_ray.errors import StoreError
from microseg_ray.settings import ClassSpec, Scaling
from microseg_ray.tiles import spec as tile_spec
from microseg_ray.tiles.store import TileStore, write_table
from tests.tiles.stored import CLASSES, SPLITS, contents, rows, spec, write


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(tile_spec, "MAX_TILES_PER_SHARD", 3)


# --- round trip -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dtype": "uint8", "channels": 1},
        {"dtype": "float32", "channels": 3, "pixel_size_um": None},
        {"tiles": 1},
        {"tiles": 6},
        {"side": 1, "overlap": 0},
    ],
)
def test_what_is_written_is_read(options: dict[str, Any], tmp_path: Path) -> None:
    made = spec(**options)
    images, masks = contents(made)
    store = write(tmp_path, made)
    assert store.spec == made
    read_images, read_masks, limits = store.read(range(made.tiles))
    assert read_images.dtype == np.dtype(made.dtype)
    assert np.array_equal(read_images, images)
    assert np.array_equal(read_masks, masks)
    assert limits.dtype == np.float64
    assert limits.tolist() == [[index, 100 + index] for index in range(made.tiles)]
    assert TileStore.open(tmp_path / "tiles.zarr").digest == store.digest
    assert store.made_from == {"archive": "a"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> TileStore:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_spec, "MAX_TILES_PER_SHARD", 3)
        return write(tmp_path_factory.mktemp("tiles"))


@settings(max_examples=40)
@given(st.lists(st.integers(0, 6), max_size=12))
def test_tiles_are_read_in_any_order_and_more_than_once(finished: TileStore, indices: list[int]) -> None:
    images, masks = contents(spec())
    read_images, read_masks, limits = finished.read(indices)
    chosen = np.array(indices, np.int64)
    assert np.array_equal(read_images, images[chosen])
    assert np.array_equal(read_masks, masks[chosen])
    assert limits[:, 0].tolist() == indices
    assert finished.read(chosen)[1].tobytes() == read_masks.tobytes()


def test_a_tile_that_does_not_exist_is_an_error(finished: TileStore) -> None:
    with pytest.raises(IndexError):
        finished.read([7])


def test_splits_and_counts(finished: TileStore) -> None:
    _, masks = contents(spec())
    assert finished.splits == ["test", "train", "val"]
    assert finished.rows("train").tolist() == [0, 2, 4, 6]
    assert finished.rows("nothing").tolist() == []
    for split in ("train", "val", "test", "nothing"):
        expected = [
            [int((mask == index).sum()) for index in (0, 1)]
            for mask, name in zip(masks, SPLITS, strict=True)
            if name == split
        ]
        assert finished.tile_counts(split).tolist() == expected


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 4), st.sampled_from(["uint8", "uint16", "float32"]))
def test_shards_partition_the_tiles(tiles: int, steps: int, channels: int, dtype: str) -> None:
    made = spec(tiles=tiles, side=64 * steps, channels=channels, dtype=dtype)
    indices = [index for shard in range(made.shards) for index in made.shard_range(shard)]
    assert indices == list(range(tiles))
    tile_bytes = channels * made.side**2 * np.dtype(dtype).itemsize
    assert made.tiles_per_shard == 1 or made.tiles_per_shard * tile_bytes <= tile_spec.TARGET_SHARD_BYTES


def test_a_shard_of_zeros_is_still_stored(tmp_path: Path) -> None:
    store = TileStore.create(tmp_path, spec(), {})
    store.write_shard(0, np.zeros((3, 2, 8, 8), np.uint16), np.zeros((3, 8, 8), np.uint8))
    for name in ("images", "masks"):
        assert [path for path in (tmp_path / "tiles.zarr" / name / "c").rglob("*") if path.is_file()]


# --- refusals -------------------------------------------------------------------------------------------------------
IMAGES, MASKS = np.zeros((3, 2, 8, 8), np.uint16), np.zeros((3, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("shard", "images", "masks", "message"),
    [
        (0, IMAGES[:2], MASKS[:2], r"shard 0 holds tiles 0 to 2; give images uint16 \(3, 2, 8, 8\).*part of a shard"),
        (0, IMAGES, MASKS[:2], r"give masks uint8 \(3, 8, 8\), not uint8 \(2, 8, 8\)"),
        (2, IMAGES, MASKS, "shard 2 holds tiles 6 to 6"),
        (0, IMAGES[:, :1], MASKS, "give images"),
        (0, IMAGES.astype(np.float32), MASKS, "not float32"),
        (0, IMAGES, MASKS.astype(np.int64), "not int64"),
        (3, IMAGES[:0], MASKS[:0], "there are 3 shards, counted from 0"),
        (-1, IMAGES, MASKS, "there are 3 shards"),
    ],
)
def test_a_part_of_a_shard_is_never_written(shard: int, images: Any, masks: Any, message: str, tmp_path: Path) -> None:
    store = TileStore.create(tmp_path, spec(), {})
    with pytest.raises(StoreError, match=message):
        store.write_shard(shard, images, masks)
    assert not [path for path in (tmp_path / "tiles.zarr").rglob("*") if path.is_file() and path.name != "zarr.json"]


def test_an_unfinished_store_is_not_read(tmp_path: Path) -> None:
    store = write(tmp_path, table=False)
    with pytest.raises(StoreError, match="the tile job did not finish; run it again"):
        TileStore.open(tmp_path)
    for read in (lambda: store.digest, lambda: store.splits, lambda: store.rows("train"), lambda: store.read([0])):
        with pytest.raises(StoreError, match="still being written"):
            read()


def test_making_a_store_anew_unfinishes_the_older_one(tmp_path: Path) -> None:
    write(tmp_path)
    TileStore.create(tmp_path, spec(tiles=2), {})
    with pytest.raises(StoreError, match="did not finish"):
        TileStore.open(tmp_path)


def test_opening_what_is_no_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no tile store is here; make one with `microseg tile --output"):
        TileStore.open(tmp_path / "nothing")
    zarr.create_group(tmp_path / "other" / "tiles.zarr")
    with pytest.raises(StoreError, match="not a tile store"):
        TileStore.open(tmp_path / "other")
    write(tmp_path / "broken")
    (tmp_path / "broken" / "tiles.zarr" / "zarr.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="damaged"):
        TileStore.open(tmp_path / "broken")


def test_a_table_that_does_not_belong_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path)
    table = pq.read_table(tmp_path / "tiles.parquet")
    pq.write_table(table.slice(0, 5), tmp_path / "tiles.parquet")
    with pytest.raises(StoreError, match="5 rows for 7 tiles"):
        TileStore.open(tmp_path)
    pq.write_table(table.drop_columns(["count_1"]), tmp_path / "tiles.parquet")
    with pytest.raises(StoreError, match="no column 'count_1'"):
        TileStore.open(tmp_path)
    (tmp_path / "tiles.parquet").write_bytes(b"PAR1 half")
    with pytest.raises(StoreError, match=r"tiles\.parquet cannot be read"):
        TileStore.open(tmp_path)
    write_table(tmp_path, table.to_pylist())
    assert TileStore.open(tmp_path).digest == store.digest


def test_a_damaged_tile_is_an_error_not_other_pixels(tmp_path: Path) -> None:
    write(tmp_path)
    file = next(path for path in (tmp_path / "tiles.zarr" / "images" / "c").rglob("*") if path.is_file())
    whole = file.read_bytes()
    # The first chunk, the table behind the chunks, and its checksum.
    for place in (20, -40, -1):
        raw = bytearray(whole)
        raw[place] ^= 0xFF
        file.write_bytes(bytes(raw))
        with pytest.raises(StoreError, match="images cannot be read"):
            TileStore.open(tmp_path).read(range(7))
    file.unlink()
    with pytest.raises(StoreError, match=r"images cannot be read .*make the store again with `microseg tile`"):
        TileStore.open(tmp_path).read(range(7))


def test_each_shard_is_opened_once_for_all_its_tiles(tmp_path: Path, monkeypatch) -> None:
    store = write(tmp_path)
    opened: list[str] = []
    plain = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *given, **named: (opened.append(path.as_posix()), plain(path, *given, **named))[1]
    )
    read = store.read([6, 0, 2, 5, 1, 0])
    monkeypatch.undo()
    shards = [Path(path).relative_to(tmp_path / "tiles.zarr").as_posix() for path in opened]
    shards = [name for name in shards if not name.endswith(".json")]
    assert sorted(shards) == [
        *(f"images/c/{shard}/0/0/0" for shard in range(3)),
        *(f"masks/c/{shard}/0/0" for shard in range(3)),
    ]
    assert np.array_equal(read[0], contents(spec())[0][[6, 0, 2, 5, 1, 0]])


def test_a_tile_that_was_never_written_is_an_error_not_zeros(tmp_path: Path) -> None:
    made = spec()
    images, masks = contents(made)
    store = TileStore.create(tmp_path, made, {})
    for shard in (0, 2):
        cut = slice(made.shard_range(shard).start, made.shard_range(shard).stop)
        store.write_shard(shard, images[cut], masks[cut])
    write_table(tmp_path, rows(made, masks))
    assert np.array_equal(TileStore.open(tmp_path).read([0, 6])[1], masks[[0, 6]])
    with pytest.raises(StoreError, match="cannot be read"):
        TileStore.open(tmp_path).read([3])


def test_a_store_of_another_layout_is_read_by_zarr(tmp_path: Path) -> None:
    store = write(tmp_path)
    images = store.read(range(7))[0]
    # The same pixels without shards and with another codec, as another writer of zarr might lay them out.
    zarr.open_group(tmp_path / "tiles.zarr", mode="r+").create_array(
        "images", data=images, chunks=(2, 2, 8, 8), compressors=None, overwrite=True
    )
    assert np.array_equal(TileStore.open(tmp_path).read([5, 1])[0], images[[5, 1]])


def test_the_table_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path)
    before = (tmp_path / "tiles.parquet").read_bytes()

    def killed(_table: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pq, "write_table", killed)
    with pytest.raises(KeyboardInterrupt):
        write_table(tmp_path, rows(spec(), contents(spec())[1]))
    assert (tmp_path / "tiles.parquet").read_bytes() == before


# --- digest ---------------------------------------------------------------------------------------------------------
def test_the_digest_names_the_content(tmp_path: Path) -> None:
    digests = {
        "same": write(tmp_path / "a").digest,
        "again": write(tmp_path / "b").digest,
        "source": write(tmp_path / "c", archive="other").digest,
        "class": write(tmp_path / "d", spec(classes=(CLASSES[0], ClassSpec(name="void")))).digest,
        "scaling": write(tmp_path / "e", spec(scaling=Scaling())).digest,
        "pixel size": write(tmp_path / "f", spec(pixel_size_um=None)).digest,
    }
    store = write(tmp_path / "g")
    changed = [{**row, "split": "train"} for row in store.table.to_pylist()]
    write_table(store.folder, changed)
    digests["table"] = TileStore.open(store.folder).digest
    assert digests["same"] == digests["again"]
    assert len(set(digests.values())) == len(digests) - 1
    assert all(len(digest) == 64 and int(digest, 16) >= 0 for digest in digests.values())


def test_metadata_is_plain_json(tmp_path: Path) -> None:
    write(tmp_path)
    record = json.loads((tmp_path / "tiles.zarr" / "zarr.json").read_text())["attributes"]["microseg"]
    assert record["classes"] == [{"name": "matrix", "color": "#000000"}, {"name": "pore", "color": "#ff0000"}]
    assert record["pixel_size_um"] == [0.5, 0.25]
