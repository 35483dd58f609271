"""A tile store that grows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microseg_ray.errors import StoreError
from microseg_ray.sources import fingerprint
from microseg_ray.tiles import spec as tile_spec
from microseg_ray.tiles.store import TileStore
from tests.tiles.stored import contents, rows, spec, write

if TYPE_CHECKING:
    from pathlib import Path

    from microseg_ray.tiles.spec import TileSpec


@pytest.fixture(autouse=True)
def small_shards(monkeypatch) -> None:
    monkeypatch.setattr(tile_spec, "MAX_TILES_PER_SHARD", 3)


# --- growing --------------------------------------------------------------------------------------------------------
def append(store: TileStore, made: TileSpec, seed: int, *, finish: bool = True) -> None:
    images, masks = contents(made, seed)
    room = store.grow(made.tiles)
    for shard in range(store.spec.shards, room.spec.shards):
        tiles = room.spec.shard_range(shard)
        cut = slice(tiles.start - store.spec.tiles, tiles.stop - store.spec.tiles)
        TileStore.open(store.folder, unfinished=True, parts=room.spec.parts).write_shard(shard, images[cut], masks[cut])
    if finish:
        store.finish_append(rows(made, masks), {"archive": "b"}, room.spec)


@settings(max_examples=12)
@given(st.lists(st.integers(1, 8), min_size=1, max_size=3), st.integers(1, 4))
def test_a_store_grows_behind_what_is_there(tmp_path_factory, added: list[int], per_shard: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tile_spec, "MAX_TILES_PER_SHARD", per_shard)
        folder = tmp_path_factory.mktemp("grown")
        store = write(folder)
        expected = [contents(spec())]
        digests = {store.digest}
        for seed, tiles in enumerate(added, 1):
            append(store, spec(tiles=tiles), seed)
            expected.append(contents(spec(tiles=tiles), seed))
            store = TileStore.open(folder)
            digests.add(store.digest)
        assert len(digests) == len(added) + 1
        count = 7 + sum(added)
        assert store.spec.tiles == count
        assert store.made_from == {"archive": "b"}
        images, masks, limits = store.read(range(count))
        assert np.array_equal(images, np.concatenate([part for part, _ in expected]))
        assert np.array_equal(masks, np.concatenate([part for _, part in expected]))
        assert len(limits) == count
        assert np.array_equal(store.read([count - 1, 0])[0], images[[count - 1, 0]])
        together = sum(len(store.rows(split)) for split in store.splits)
        assert together == count
        with pytest.raises(IndexError):
            store.read([count])


def test_an_interrupted_append_leaves_the_store_as_it_was(tmp_path: Path, tree_of) -> None:
    store = write(tmp_path)
    before, digest = tree_of(tmp_path), store.digest
    append(store, spec(tiles=5), 1, finish=False)
    half = TileStore.open(tmp_path)
    assert half.digest == digest
    assert half.spec == spec()
    assert np.array_equal(half.read(range(7))[0], contents(spec())[0])
    with pytest.raises(IndexError):
        half.read([7])
    # The next append starts anew over what was left.
    append(half, spec(tiles=2), 2)
    after = tree_of(tmp_path)
    chunks = [name for name in before if "/c/" in name]
    assert chunks
    assert all(after[name] == before[name] for name in chunks)
    assert np.array_equal(TileStore.open(tmp_path).read([7, 8])[0], contents(spec(tiles=2), 2)[0])


def test_shards_of_another_size_are_not_appended(tmp_path: Path, monkeypatch) -> None:
    store = write(tmp_path)
    monkeypatch.setattr(tile_spec, "MAX_TILES_PER_SHARD", 2)
    with pytest.raises(StoreError, match="another number of tiles"):
        store.grow(1)


def test_changed_inputs_are_named(tmp_path: Path) -> None:
    names = ("a.tif", "b.tif", "c.tif")
    for name in names:
        (tmp_path / name).write_bytes(b"1")
    marks = {name: fingerprint(tmp_path / name, "stat") for name in names}
    inputs = {
        name: {
            "image": str(tmp_path / name),
            "mask": str(tmp_path / "a.tif"),
            "fingerprints": [marks[name], marks["a.tif"]],
        }
        for name in names
    }
    store = write(tmp_path / "store", inputs=inputs)
    assert store.stale() == {}
    (tmp_path / "b.tif").write_bytes(b"22")
    (tmp_path / "c.tif").unlink()
    assert store.stale() == {"b.tif": "the image changed", "c.tif": "the image is gone"}
