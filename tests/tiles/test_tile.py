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
from microseg_ray.sources import open_micrograph, read_mask
from microseg_ray.tiles.store import TileStore
from tests.tiles.jobs import CLASSES, settings


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
