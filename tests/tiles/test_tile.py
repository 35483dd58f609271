"""The tile job: the same store with and without Ray, whole groups in splits, honest sums, nothing lost silently."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.geometry import Box
from microseg_ray.on_ray.rows import tile
from microseg_ray.settings import TileSettings
from microseg_ray.sources import open_micrograph, read_mask
from microseg_ray.tiles.store import TileStore

CLASSES = ["matrix", "grain", "pore"]


def settings(pairs, output, **options) -> TileSettings:
    chosen = {
        "images": f"{pairs}/images",
        "masks": f"{pairs}/masks",
        "output": str(output),
        "classes": CLASSES,
        "tile": 32,
        "overlap": 8,
        "workers": 0,
        "group": r"^(\d+)_",
        "splits": {"val": ["1"], "test": 0.3},
    }
    return TileSettings(**{**chosen, **options})


@pytest.fixture(scope="module")
def tiled(pairs, tmp_path_factory):
    return tile(settings(pairs, tmp_path_factory.mktemp("tiled") / "store"))


def test_tiles_are_the_pixels_of_their_place(pairs, tiled):
    store = TileStore.open(tiled.store.folder)
    rows = store.table.to_pylist()
    images, masks, limits = store.read(range(len(rows)))
    assert [row["index"] for row in rows] == list(range(len(rows)))
    for row, image, mask, limit in zip(rows, images, masks, limits, strict=True):
        box = Box(row["y0"], row["x0"], row["y0"] + 32, row["x0"] + 32)
        with open_micrograph(pairs / "images" / row["micrograph"]) as micrograph:
            assert np.array_equal(image, micrograph.read(box))
        truth = read_mask(pairs / "masks" / row["micrograph"])[box.slices]
        assert np.array_equal(mask, truth)
        assert [row[f"count_{index}"] for index in range(3)] == [int((truth == index).sum()) for index in range(3)]
        assert row["count_ignored"] == int((truth == 255).sum())
        assert limit.tolist() == [0, 255]


def test_tiles_cover_every_micrograph(tiled):
    rows = tiled.store.table.to_pylist()
    for name in {row["micrograph"] for row in rows}:
        seen = np.zeros((96, 80), int)
        for row in rows:
            if row["micrograph"] == name:
                seen[row["y0"] : row["y0"] + 32, row["x0"] : row["x0"] + 32] += 1
        assert seen.min() >= 1


def test_groups_are_never_split(tiled):
    splits: dict[str, set[str]] = {}
    for row in tiled.store.table.to_pylist():
        assert row["micrograph"].startswith(f"{row['group']}_")
        splits.setdefault(row["group"], set()).add(row["split"])
    assert all(len(found) == 1 for found in splits.values())
    assert splits["1"] == {"val"}
    assert {next(iter(found)) for found in splits.values()} == {"train", "val", "test"}


def test_the_summary_is_a_plain_count(tiled):
    _, masks, _ = tiled.store.read(range(tiled.store.spec.tiles))
    rows = tiled.store.table.to_pylist()
    assert [line.split for line in tiled.summary] == ["test", "train", "val"]
    for line in tiled.summary:
        members = [row for row in rows if row["split"] == line.split]
        assert line.tiles == len(members)
        assert line.micrographs == len({row["micrograph"] for row in members})
        pixels = np.concatenate([masks[row["index"]].ravel() for row in members])
        labelled = pixels[pixels != 255]
        assert line.fractions == tuple(np.count_nonzero(labelled == index) / labelled.size for index in range(3))


@pytest.mark.ray
def test_ray_data_makes_the_same_store(pairs, tiled, tree_of, tmp_path, ray_session):
    reports = []
    other = tile(settings(pairs, tmp_path / "store", workers=2), lambda *what: reports.append(what))
    assert tree_of(other.store.folder) == tree_of(tiled.store.folder)
    assert other.summary == tiled.summary
    assert ("survey", 12, 12) in reports


def test_the_same_settings_make_the_same_store(pairs, tiled, tree_of, tmp_path):
    again = tile(settings(pairs, tmp_path / "store"))
    assert tree_of(again.store.folder) == tree_of(tiled.store.folder)
    assert again.store.digest == tiled.store.digest


def test_suffixes_pair(pairs, tmp_path):
    (tmp_path / "all").mkdir()
    for path in sorted((pairs / "images").iterdir())[:3]:
        (tmp_path / "all" / f"{path.stem}_raw.png").write_bytes(path.read_bytes())
        (tmp_path / "all" / f"{path.stem}_mask.png").write_bytes((pairs / "masks" / path.name).read_bytes())
    chosen = settings(
        pairs,
        tmp_path / "s",
        images=str(tmp_path / "all"),
        masks=str(tmp_path / "all"),
        image_suffix="_raw",
        mask_suffix="_mask",
        splits={},
    )
    result = tile(chosen)
    assert {row["micrograph"] for row in result.store.table.to_pylist()} == {f"0_{view}_raw.png" for view in "abc"}
    assert not result.failures


def test_tiles_without_enough_labels_are_left_out(new_pairs, tmp_path):
    new_pairs(tmp_path)
    blank = np.full((96, 80), 255, np.uint8)
    half = read_mask(tmp_path / "masks/0_b.png").copy()
    half[:48] = 255
    Image.fromarray(blank).save(tmp_path / "masks/0_a.png")
    Image.fromarray(half).save(tmp_path / "masks/0_b.png")
    options = {"overlap": 0, "splits": {}}
    whole = tile(settings(tmp_path, tmp_path / "whole", **options))
    strict = tile(settings(tmp_path, tmp_path / "strict", min_labelled=0.6, **options))
    # Tiles of 32 px on 96 x 80: 3 x 3; the last column starts at 48.
    assert whole.left_out == 9 + 3
    assert strict.left_out == 9 + 6
    assert whole.store.spec.tiles == 12 * 9 - whole.left_out
    assert all(row["count_ignored"] <= 0.4 * 32 * 32 for row in strict.store.table.to_pylist())
    with pytest.raises(InputError, match="min_labelled"):
        tile(settings(tmp_path, tmp_path / "none", min_labelled=1.0, tile=96, **options))


def test_micrographs_of_all_sizes_and_depths(tmp_path):
    """Smaller than a tile in one or both directions: mirrored, and what is mirrored is not learnt from."""
    shapes = {"point": (1, 1), "line": (1, 90), "low": (20, 64), "tile": (32, 32), "odd": (45, 71)}
    generator = np.random.default_rng(0)
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    truth = {}
    for number, (name, shape) in enumerate(shapes.items()):
        dtype = np.uint16 if number % 2 else np.uint8
        image = generator.integers(0, np.iinfo(dtype).max, shape, endpoint=True).astype(dtype)
        truth[f"{name}.tif"] = (image, generator.integers(0, 3, shape).astype(np.uint8))
        tifffile.imwrite(tmp_path / "images" / f"{name}.tif", image)
        tifffile.imwrite(tmp_path / "masks" / f"{name}.tif", truth[f"{name}.tif"][1])
    result = tile(settings(tmp_path, tmp_path / "s", group=None, splits={}))
    assert result.store.spec.dtype == "uint16"
    images, masks, limits = result.store.read(range(result.store.spec.tiles))
    covered = {name: np.zeros(mask.shape, int) for name, (_, mask) in truth.items()}
    for row, image, mask, limit in zip(result.store.table.to_pylist(), images, masks, limits, strict=True):
        pixels, labels = truth[row["micrograph"]]
        here = np.s_[row["y0"] : row["y0"] + 32, row["x0"] : row["x0"] + 32]
        height, width = labels[here].shape
        assert np.array_equal(image[0, :height, :width], pixels[here])
        assert np.array_equal(mask[:height, :width], labels[here])
        assert (mask[height:] == 255).all()
        assert (mask[:, width:] == 255).all()
        assert np.isin(image, pixels[here]).all()
        assert limit.tolist() == [0, np.iinfo(pixels.dtype).max]
        assert row["count_ignored"] == 0
        covered[row["micrograph"]][here] += 1
    assert all(count.min() >= 1 for count in covered.values())


def test_what_it_was_made_from_is_kept(tiled):
    made = tiled.store.made_from
    assert made["settings"]["tile"] == 32
    assert len(made["inputs"]) == 12
    assert tiled.store.spec.overlap == 8


def test_a_finished_store_is_not_overwritten_unasked(pairs, tiled, tmp_path, tree_of):
    before = tree_of(tiled.store.folder)
    with pytest.raises(SettingsError, match=r"tile.output.*--overwrite"):
        tile(settings(pairs, tiled.store.folder, overlap=0))
    assert tree_of(tiled.store.folder) == before
    tile(settings(pairs, tmp_path / "s"))
    assert tile(settings(pairs, tmp_path / "s", overlap=0, overwrite=True)).store.spec.overlap == 0


@pytest.mark.parametrize("missing", ["classes", "images", "masks"])
def test_what_is_missing_is_named(pairs, tmp_path, missing):
    with pytest.raises(SettingsError, match=f"tile.{missing}"):
        tile(settings(pairs, tmp_path / "s", **{missing: () if missing == "classes" else None}))


def test_the_command_line_prints_the_summary(pairs, tiled, microseg, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text(
        f"classes: [matrix, grain, pore]\ndata:\n  images: {pairs}/images\n  masks: {pairs}/masks\n  group: '^(\\d+)_'\n"
        f"  splits: {{val: ['1'], test: 0.3}}\ntile:\n  output: {tmp_path}/store\n  tile: 32\n  overlap: 8\n  workers: 0\n"
    )
    ran = microseg("tile", config)
    assert ran.code == 0, ran.err
    for line in tiled.summary:
        assert f"{line.split} │ {line.micrographs} │ {line.tiles} │ {line.fractions[0]:.4f}" in ran.out.replace(
            "  ", " "
        )
    assert TileStore.open(tmp_path / "store").digest == tiled.store.digest


def test_failures_are_listed_and_the_exit_code_says_so(new_pairs, microseg, tmp_path):
    new_pairs(tmp_path)
    (tmp_path / "masks/0_a.png").unlink()
    (tmp_path / "images/2_b.png").write_bytes(b"")
    ran = microseg(
        "tile",
        "--images",
        tmp_path / "images",
        "--masks",
        tmp_path / "masks",
        "--output",
        tmp_path / "s",
        "--classes",
        json.dumps(CLASSES),
        "--tile",
        "32",
        "--overlap",
        "8",
        "--workers",
        "0",
    )
    assert ran.code == 3
    assert "2 quarantined" in ran.out
    with (tmp_path / "s/failures.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["path"].rsplit("/", 1)[-1] for row in rows] == ["0_a.png", "2_b.png"]
    assert "no mask" in rows[0]["reason"]
    assert "0 bytes" in rows[1]["reason"]
    assert len({row["micrograph"] for row in TileStore.open(tmp_path / "s").table.to_pylist()}) == 10


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


# --- leaks, rules, tables, bars -------------------------------------------------------------------------------------
def test_a_leak_stops_the_job_unless_told_otherwise(new_pairs, tmp_path, microseg):
    new_pairs(tmp_path)
    mirrored = np.fliplr(np.asarray(Image.open(tmp_path / "images/1_a.png")))
    Image.fromarray(mirrored).save(tmp_path / "images/0_a.png")
    with pytest.raises(InputError, match=r"0_a.png .* and 1_a.png \(val\): mirrored \(mirrored left-right\)"):
        tile(settings(tmp_path, tmp_path / "s"))
    assert not (tmp_path / "s/tiles.parquet").exists()
    with (tmp_path / "s/leaks.csv").open(newline="") as file:
        assert [(row["first"], row["second"]) for row in csv.DictReader(file)] == [("0_a.png", "1_a.png")]
    assert len(tile(settings(tmp_path, tmp_path / "s", audit="report")).leaks) == 1
    assert not tile(settings(tmp_path, tmp_path / "off", audit="off")).leaks
    assert not tile(settings(tmp_path, tmp_path / "one", splits={})).leaks
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data: {{images: {tmp_path}/images, masks: {tmp_path}/masks, splits: {{val: 0.5}}, audit: off}}\n"
    )
    ran = microseg("tile", config, "--output", tmp_path / "y", "--classes", json.dumps(CLASSES), "--workers", "0")
    assert ran.code == 0, ran.err


def test_empty_training_tiles_are_thinned_out(new_pairs, tmp_path):
    new_pairs(tmp_path)
    for name in ("0_a", "0_b", "1_a"):
        Image.fromarray(np.zeros((96, 80), np.uint8)).save(tmp_path / f"masks/{name}.png")
    chosen = {"overlap": 0, "splits": {"val": ["1"]}}
    whole = tile(settings(tmp_path, tmp_path / "whole", **chosen)).store.table.to_pylist()

    def empty(rows):
        return [
            (row["micrograph"], row["y0"], row["x0"]) for row in rows if row["count_1"] == 0 and row["count_2"] == 0
        ]

    train = empty(row for row in whole if row["split"] == "train")
    third = tile(settings(tmp_path, tmp_path / "third", keep_empty=1 / 3, **chosen))
    rows = third.store.table.to_pylist()
    kept = empty(row for row in rows if row["split"] == "train")
    assert len(kept) == round(len(train) / 3)
    assert set(kept) <= set(train)
    assert third.empty == len(train) - len(kept)
    assert len(rows) == len(whole) - third.empty
    assert empty(row for row in rows if row["split"] == "val") == empty(row for row in whole if row["split"] == "val")
    again = tile(settings(tmp_path, tmp_path / "again", keep_empty=1 / 3, **chosen)).store.table.to_pylist()
    assert again == rows


def test_a_table_stands_in_for_patterns_and_gives_pixel_sizes(pairs, tiled, tmp_path, microseg):
    table = tmp_path / "c.csv"
    options = ["--images", pairs / "images", "--masks", pairs / "masks", "--group", r"^(\d+)_"]
    assert microseg("catalog", *options, "--splits", '{"val": ["1"], "test": 0.3}', "--output", table).code == 0
    text = table.read_text()
    table.write_text(text.replace(",,\n", ",0.5 0.25,\n"))
    chosen = settings(pairs, tmp_path / "s", images=None, masks=None, table=str(table), group=None, splits={})
    result = tile(chosen)
    assert result.store.spec.pixel_size_um == (0.5, 0.25)
    assert result.summary == tiled.summary
    assert np.array_equal(result.store.read([0, 5])[0], tiled.store.read([0, 5])[0])


def test_rows_of_an_info_bar_are_no_tiles(pairs, tmp_path):
    result = tile(settings(pairs, tmp_path / "s", source={"info_bar": 16}))
    rows = result.store.table.to_pylist()
    assert max(row["y0"] + 32 for row in rows) == 80
    assert "info bar" in result.notes[0]
