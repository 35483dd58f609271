"""`microseg tile` into a store that is there."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.errors import SettingsError
from microseg_ray.geometry import Box
from microseg_ray.on_ray.rows import tile
from microseg_ray.sources import open_micrograph
from microseg_ray.tiles.store import TileStore
from tests.tiles.jobs import settings


def test_a_finished_store_is_not_overwritten_unasked(pairs, tiled, tmp_path, tree_of):
    before = tree_of(tiled.store.folder)
    with pytest.raises(SettingsError, match=r"tile.output.*--overwrite"):
        tile(settings(pairs, tiled.store.folder, overlap=0))
    assert tree_of(tiled.store.folder) == before
    tile(settings(pairs, tmp_path / "s"))
    assert tile(settings(pairs, tmp_path / "s", overlap=0, overwrite=True)).store.spec.overlap == 0


# --- again, and more ------------------------------------------------------------------------------------------------
def test_the_same_again_has_nothing_to_do(new_pairs, tmp_path, tree_of):
    new_pairs(tmp_path)
    (tmp_path / "images/2_b.png").write_bytes(b"")
    first = tile(settings(tmp_path, tmp_path / "s"))
    before = tree_of(tmp_path / "s")
    again = tile(settings(tmp_path, tmp_path / "s", workers=0, audit="report"))
    assert (first.written, again.written) == (first.store.spec.tiles, 0)
    assert again.summary == first.summary
    assert [failure.stage for failure in again.failures] == ["image"]
    assert tree_of(tmp_path / "s") == before


def test_what_changed_is_named(new_pairs, tmp_path):
    new_pairs(tmp_path)
    store = tile(settings(tmp_path, tmp_path / "s")).store
    Image.fromarray(np.zeros((96, 80), np.uint8)).save(tmp_path / "masks/0_a.png")
    assert store.stale() == {"0_a.png": "the mask changed"}
    with pytest.raises(SettingsError, match=r"0_a.png: the mask changed.*--overwrite"):
        tile(settings(tmp_path, tmp_path / "s"))
    with pytest.raises(SettingsError, match=r"0_a.png: the mask changed"):
        tile(settings(tmp_path, tmp_path / "s", append=True))
    with pytest.raises(SettingsError, match=r"tile.min_labelled is another"):
        tile(settings(tmp_path, tmp_path / "s", min_labelled=0.5))


def add_pairs(new_pairs, folder, names) -> None:
    """Pictures of groups 4 and 5 under the names given."""
    new_pairs(folder / "more", 6)
    for source, name in zip(("4_a.png", "4_b.png", "5_a.png"), names, strict=True):
        for part in ("images", "masks"):
            (folder / part / name).write_bytes((folder / "more" / part / source).read_bytes())


def test_new_micrographs_are_appended_and_groups_stay(new_pairs, tmp_path, tree_of):
    new_pairs(tmp_path)
    first = tile(settings(tmp_path, tmp_path / "s")).store
    before = tree_of(tmp_path / "s")
    old_rows, old_tiles = first.table.to_pylist(), first.read(range(first.spec.tiles))
    splits = {row["group"]: row["split"] for row in old_rows}
    add_pairs(new_pairs, tmp_path, ("0_d.png", "8_a.png", "9_a.png"))
    with pytest.raises(SettingsError, match=r"0_d.png is new.*--append"):
        tile(settings(tmp_path, tmp_path / "s"))
    grown = tile(settings(tmp_path, tmp_path / "s", append=True))
    after = tree_of(tmp_path / "s")
    assert all(after[name] == before[name] for name in before if "/c/" in name)
    rows = grown.store.table.to_pylist()
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert rows[: len(old_rows)] == old_rows
    assert {row["micrograph"] for row in rows[len(old_rows) :]} == {"0_d.png", "8_a.png", "9_a.png"}
    assert {row["split"] for row in rows if row["group"] == "0"} == {splits["0"]}
    for new, old in zip(grown.store.read(range(len(old_rows))), old_tiles, strict=True):
        assert np.array_equal(new, old)
    last = rows[-1]
    box = Box(last["y0"], last["x0"], last["y0"] + 32, last["x0"] + 32)
    with open_micrograph(tmp_path / "images" / last["micrograph"]) as micrograph:
        assert np.array_equal(grown.store.read([len(rows) - 1])[0][0], micrograph.read(box))
    for append in (True, False):
        assert tile(settings(tmp_path, tmp_path / "s", append=append)).written == 0


def test_only_tiles_of_the_same_kind_are_appended(new_pairs, tmp_path):
    new_pairs(tmp_path)
    with pytest.raises(SettingsError, match="holds no finished tile store"):
        tile(settings(tmp_path, tmp_path / "s", append=True))
    tile(settings(tmp_path, tmp_path / "s"))
    for key, value in {
        "overlap": 4,
        "classes": ["a", "b", "c"],
        "scaling": {"kind": "fixed", "low": 0, "high": 9},
    }.items():
        with pytest.raises(SettingsError, match=f"tile.{key}: the store was made with"):
            tile(settings(tmp_path, tmp_path / "s", append=True, **{key: value}))
    tifffile.imwrite(tmp_path / "images/9_a.tif", np.arange(96 * 80, dtype=np.uint16).reshape(96, 80))
    Image.fromarray(np.zeros((96, 80), np.uint8)).save(tmp_path / "masks/9_a.png")
    with pytest.raises(SettingsError, match="holds 1 channel uint8, the new micrographs need 1 channel uint16"):
        tile(settings(tmp_path, tmp_path / "s", append=True))


def test_an_append_that_is_stopped_leaves_the_store_whole(new_pairs, tmp_path, monkeypatch):
    new_pairs(tmp_path)
    digest = tile(settings(tmp_path, tmp_path / "s")).store.digest
    add_pairs(new_pairs, tmp_path, ("0_d.png", "8_a.png", "9_a.png"))

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TileStore, "finish_append", stopped)
        with pytest.raises(KeyboardInterrupt):
            tile(settings(tmp_path, tmp_path / "s", append=True))
    assert TileStore.open(tmp_path / "s").digest == digest
    assert tile(settings(tmp_path, tmp_path / "s", append=True)).written > 0
