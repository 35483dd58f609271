"""What users really have: each bad file is named with its reason and what to do, and the rest is finished."""

from __future__ import annotations

import csv
import json
import re
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.tiles.store import TileStore


def truncated(path):
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (96, 80), np.uint8))
    path.write_bytes(path.read_bytes()[:4000])


def cut_deflate(path):
    tifffile.imwrite(
        path, np.random.default_rng(0).integers(0, 255, (96, 80), np.uint8), compression="deflate", tile=(32, 32)
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def flipped_deflate(path):
    tifffile.imwrite(
        path, np.random.default_rng(0).integers(0, 255, (96, 80), np.uint8), compression="deflate", tile=(32, 32)
    )
    with tifffile.TiffFile(path) as handle:
        place = handle.pages[0].dataoffsets[2]
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)


def with_nan(path):
    image = np.random.default_rng(0).random((96, 80)).astype(np.float32)
    image[70, 9] = np.nan
    tifffile.imwrite(path, image)


def cut_png(path):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 80), np.uint8)).save(path, format="PNG")
    path.write_bytes(path.read_bytes()[:3000])


def colour(path):
    tifffile.imwrite(path, np.random.default_rng(0).integers(0, 255, (96, 80, 3), np.uint8), photometric="rgb")


TILED = ("--classes", '["a", "b", "c"]', "--tile", "32", "--overlap", "0", "--workers", "0")
BAD_IMAGES = {
    "truncated": (truncated, "truncated|cut|missing|outside|end of the file|incomplete|damaged"),
    "cut_deflate": (cut_deflate, "truncated|cut|missing|outside|end of the file|incomplete|damaged"),
    "flipped_deflate": (flipped_deflate, "damaged|decode|corrupt"),
    "text": (lambda path: path.write_text("these are notes, not an image\n" * 40), "not a|no image|format"),
    "empty": (lambda path: path.write_bytes(b""), "0 bytes"),
    "nan": (with_nan, "NaN|nan|not a number|finite"),
    "cut_png": (cut_png, "truncated|cut|missing|damaged|incomplete"),
}


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def assert_named(rows, bad, folder):
    """One row for each bad file, with a reason that a person understands and nothing of our own inside."""
    found = {row["path"].rsplit("/", 1)[-1].removesuffix(".tif"): row for row in rows}
    assert set(found) == set(bad)
    for name, row in found.items():
        assert re.search(bad[name], row["reason"], re.IGNORECASE), (name, row["reason"])
        assert "Traceback" not in row["reason"]
        assert ";" in row["reason"], f"{name}: says nothing to do: {row['reason']}"


@pytest.fixture
def spoilt(new_pairs, tmp_path):
    """Good pairs, and beside them one bad image of each kind with a good mask."""
    new_pairs(tmp_path)
    for name, (spoil, _) in BAD_IMAGES.items():
        spoil(tmp_path / "images" / f"{name}.tif")
        shutil.copy(tmp_path / "masks/0_a.png", tmp_path / "masks" / f"{name}.png")
    return tmp_path


def test_tile_sets_bad_images_aside(spoilt, microseg):
    ran = microseg("tile", *TILED, "--images", spoilt / "images", "--masks", spoilt / "masks", "--output", spoilt / "s")
    assert ran.code == 3, ran.err
    assert_named(rows_of(spoilt / "s/failures.csv"), {name: words for name, (_, words) in BAD_IMAGES.items()}, spoilt)
    assert len({row["micrograph"] for row in TileStore.open(spoilt / "s").table.to_pylist()}) == 12
    assert f"{len(BAD_IMAGES)} quarantined" in ran.out


def test_segment_sets_bad_images_aside(spoilt, microseg, checkpoint, tree_of):
    colour(spoilt / "images/colour.tif")
    bad = {name: words for name, (_, words) in BAD_IMAGES.items()} | {"colour": "3 different colour channels"}
    arguments = [
        "segment",
        "--archive",
        spoilt / "images",
        "--checkpoint",
        checkpoint,
        "--output",
        spoilt / "run",
        "--workers",
        "0",
    ]
    ran = microseg(*arguments)
    assert ran.code == 3, ran.err
    assert_named(rows_of(spoilt / "run/failures.csv"), bad, spoilt)
    areas = rows_of(spoilt / "run/areas.csv")
    assert len({row["micrograph"] for row in areas}) == 12
    before = tree_of(spoilt / "run/masks")
    again = microseg(*arguments)
    assert again.code == 3
    assert "0 shards computed, 12 micrographs were complete already" in again.out
    assert rows_of(spoilt / "run/areas.csv") == areas
    assert {name: digest for name, digest in tree_of(spoilt / "run/masks").items() if ".png.zarr" in name} == {
        name: digest for name, digest in before.items() if ".png.zarr" in name
    }


def test_a_mended_file_is_done_by_the_next_run(spoilt, microseg, checkpoint):
    arguments = [
        "segment",
        "--archive",
        spoilt / "images/nan.tif",
        "--checkpoint",
        checkpoint,
        "--output",
        spoilt / "run",
        "--workers",
        "0",
    ]
    ran = microseg(*arguments)
    assert ran.code == 3
    assert rows_of(spoilt / "run/areas.csv") == []
    tifffile.imwrite(spoilt / "images/nan.tif", np.random.default_rng(0).random((96, 80)).astype(np.float32))
    mended = microseg(*arguments)
    assert mended.code == 0, mended.err
    assert rows_of(spoilt / "run/failures.csv") == []
    assert not MaskStore.open(spoilt / "run/masks/nan.tif.zarr").missing()


def other_size(path):
    Image.fromarray(np.zeros((96, 81), np.uint8)).save(path)


def other_value(path):
    mask = np.zeros((96, 80), np.uint8)
    mask[3, 4] = 9
    Image.fromarray(mask).save(path)


BAD_MASKS = {
    "0_a": (lambda path: path.unlink(), "no mask named 0_a"),
    "0_b": (other_size, "96 x 81 px, its micrograph 96 x 80"),
    "0_c": (other_value, "value 9, but only classes 0 to 2 are named"),
    "1_a": (lambda path: path.write_bytes(b""), "0 bytes"),
    "1_b": (lambda path: path.write_bytes(path.read_bytes()[:60]), "damaged|truncated|cut|incomplete"),
    "1_c": (lambda path: Image.new("RGB", (80, 96), (255, 0, 3)).save(path), "colour|channels"),
}


def test_tile_sets_bad_masks_aside(new_pairs, microseg, tmp_path):
    new_pairs(tmp_path)
    for name, (spoil, _) in BAD_MASKS.items():
        spoil(tmp_path / "masks" / f"{name}.png")
    ran = microseg(
        "tile", *TILED, "--images", tmp_path / "images", "--masks", tmp_path / "masks", "--output", tmp_path / "s"
    )
    assert ran.code == 3, ran.err
    rows = {row["path"].rsplit("/", 1)[-1].removesuffix(".png"): row for row in rows_of(tmp_path / "s/failures.csv")}
    assert set(rows) == set(BAD_MASKS)
    for name, (_, words) in BAD_MASKS.items():
        assert re.search(words, rows[name]["reason"]), (name, rows[name])
        # A mask that is there is named with its path.
        assert (f"masks/{name}" in rows[name]["reason"]) == (name != "0_a")
    assert len({row["micrograph"] for row in TileStore.open(tmp_path / "s").table.to_pylist()}) == 6


@pytest.mark.parametrize("job", ["tile", "segment", "evaluate"])
@pytest.mark.parametrize("kind", ["missing", "empty", "nothing of use"])
def test_an_archive_that_is_not_there(microseg, checkpoint, tmp_path, job, kind):
    where = tmp_path / "archive"
    if kind != "missing":
        where.mkdir()
    if kind == "nothing of use":
        (where / "notes.txt").write_text("x")
    named = {"missing": "no such file or folder; check the path"}.get(kind, "no images found; supported are .tif")
    options = {
        "tile": ["--images", where, "--masks", where, "--classes", '["a", "b"]', "--workers", "0"],
        "segment": ["--archive", where, "--checkpoint", checkpoint, "--workers", "0"],
        "evaluate": ["--images", where, "--masks", where, "--checkpoint", checkpoint],
    }[job]
    ran = microseg(job, "--output", tmp_path / "o", *options)
    assert ran.code == 1
    assert f"{where}: {named}" in ran.err


def test_an_archive_of_nothing_but_bad_files(microseg, checkpoint, tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    for part in ("images", "masks"):
        (tmp_path / part / "a.png").write_bytes(b"")
    tiled = microseg(
        "tile",
        "--images",
        tmp_path / "images",
        "--masks",
        tmp_path / "masks",
        "--output",
        tmp_path / "s",
        "--classes",
        '["a", "b"]',
        "--workers",
        "0",
    )
    assert tiled.code == 1
    assert "no usable pair" in tiled.err
    assert "0 bytes" in tiled.err
    assert not (tmp_path / "s/tiles.parquet").exists()
    segmented = microseg(
        "segment",
        "--archive",
        tmp_path / "images",
        "--checkpoint",
        checkpoint,
        "--output",
        tmp_path / "r",
        "--workers",
        "0",
    )
    assert segmented.code == 3
    assert "0 bytes" in segmented.out
    assert rows_of(tmp_path / "r/areas.csv") == []


def another_architecture(folder):
    """The card says width 8, the weights are of width 4."""
    document = json.loads((folder / "model.json").read_text())
    document["options"]["width"] = 8
    (folder / "model.json").write_text(json.dumps(document))


def unknown_architecture(folder):
    document = json.loads((folder / "model.json").read_text())
    document["architecture"] = "segformer"
    (folder / "model.json").write_text(json.dumps(document))


def flipped_weights(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-9] ^= 1
    (folder / "model.safetensors").write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (another_architecture, "model.json|width|shape"),
        (unknown_architecture, "segformer"),
        (flipped_weights, "model.safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "model.json").unlink(), "model.json is missing"),
        (lambda folder: (folder / "model.json").write_text("{"), "model.json is not valid JSON"),
        (shutil.rmtree, "no such checkpoint folder"),
    ],
)
@pytest.mark.parametrize("job", ["segment", "evaluate"])
def test_a_checkpoint_that_does_not_fit(microseg, checkpoint, pairs, tmp_path, job, spoil, message):
    shutil.copytree(checkpoint, tmp_path / "model")
    spoil(tmp_path / "model")
    options = (
        ["--archive", pairs / "images", "--workers", "0"]
        if job == "segment"
        else ["--images", pairs / "images", "--masks", pairs / "masks"]
    )
    ran = microseg(job, "--checkpoint", tmp_path / "model", "--output", tmp_path / "o", *options)
    assert ran.code == 1, ran.out
    assert re.search(message, ran.err), ran.err
    assert f"{tmp_path}/model" in ran.err
    assert not list(tmp_path.glob("o/masks/**/c")), "pixels were written"
    assert "Traceback" not in ran.err
