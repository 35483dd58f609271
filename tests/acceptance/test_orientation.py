"""A micrograph with an orientation tag and its mask or annotation belong together as they are seen, in every job.

A mask is drawn on what a viewer shows. It is stored as displayed, without a tag, or as the camera stored the micrograph, with
the same tag; either way each job must pair the pixels that a person sees at one place.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.sources import read_mask

SEEN = np.kron(np.random.default_rng(5).integers(0, 3, (6, 8)), np.ones((8, 8))).astype(np.uint8)
"""The true mask as a viewer shows it; the micrograph is brighter where it is higher."""

STORED = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.T,
    6: np.rot90,
    7: lambda seen: seen[::-1, ::-1].T,
    8: lambda seen: np.rot90(seen, -1),
}
"""How a file of each orientation stores what is seen."""

IMAGE = (SEEN * 100 + np.random.default_rng(6).integers(0, 20, SEEN.shape)).astype(np.uint8)
CLASSES = '["low", "middle", "high"]'


def write(path, seen, orientation):
    """A file that a viewer shows as `seen`, stored as the orientation says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stored = np.ascontiguousarray(STORED[orientation](seen))
    if path.suffix == ".tif":
        tifffile.imwrite(path, stored, extratags=[(274, "H", 1, orientation, True)], metadata=None)
    else:
        tags = Image.Exif()
        tags[274] = orientation
        Image.fromarray(stored).save(path, exif=tags)
    return path


@pytest.fixture(params=[*STORED])
def orientation(request):
    return request.param


@pytest.mark.parametrize("tagged", [True, False], ids=["mask with the tag", "mask as displayed"])
def test_tile_and_evaluate_pair_what_is_seen(tmp_path, microseg, orientation, tagged):
    suffix = ".tif" if (orientation % 2 == 0) == tagged else ".png"
    write(tmp_path / f"images/a{suffix}", IMAGE, orientation)
    mask = write(tmp_path / f"masks/a{suffix}", SEEN, orientation if tagged else 1)
    np.testing.assert_array_equal(read_mask(mask), SEEN)
    where = ("--images", tmp_path / "images", "--masks", tmp_path / "masks", "--classes", CLASSES)
    ran = microseg(
        "tile", *where, "--output", tmp_path / "tiles", "--tile", 32, "--overlap", 0, "--workers", 0,
        "--source.info_bar", "none",
    )  # fmt: skip
    assert ran.code == 0, ran.err + ran.out
    group = zarr.open_group(tmp_path / "tiles/tiles.zarr", mode="r")
    np.testing.assert_array_equal(np.asarray(group["images"])[:, 0] // 100, np.asarray(group["masks"]))
    ran = microseg(
        "evaluate", "--predictions", write(tmp_path / "predicted/a.tif", SEEN, 1), "--masks", mask, "--classes", CLASSES,
        "--output", tmp_path / "evaluation", "--figures", "false",
    )  # fmt: skip
    assert ran.code == 0, ran.err + ran.out
    pooled = json.loads((tmp_path / "evaluation/metrics.json").read_text(encoding="utf-8"))["pooled"]
    assert pooled["pixel_accuracy"] == 1


def test_annotations_and_runs_lie_on_what_is_seen(tmp_path, microseg, orientation, checkpoint):
    write(tmp_path / "images/a.tif", IMAGE, orientation)
    write(tmp_path / "index/a.tif", SEEN, orientation)
    write(tmp_path / "plain/images/a.tif", IMAGE, 1)
    y, x = np.argwhere(SEEN == 2)[0]
    shapes = [{"label": "high", "shape_type": "rectangle", "points": [[int(x), int(y)], [int(x) + 8, int(y) + 8]]}]
    document = {"imagePath": "a.tif", "imageHeight": 48, "imageWidth": 64, "shapes": shapes, "version": "5"}
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn/a.json").write_text(json.dumps(document), encoding="utf-8")
    for name, own in (
        ("drawn", ("--annotations", tmp_path / "drawn/a.json")),
        ("index", ("--annotations", tmp_path / "index", "--format", "index")),
    ):
        ran = microseg(
            "annotate",
            "--images",
            tmp_path / "images",
            *own,
            "--classes",
            CLASSES,
            "--output",
            tmp_path / f"masks_{name}",
        )
        assert ran.code == 0, ran.err + ran.out
    np.testing.assert_array_equal(read_mask(tmp_path / "masks_index/a.png"), SEEN)
    drawn = read_mask(tmp_path / "masks_drawn/a.png")
    assert (SEEN[drawn == 2] == 2).all()
    assert (drawn == 2).sum() >= 64
    masks = []
    for home in (tmp_path, tmp_path / "plain"):
        ran = microseg(
            "segment", "--archive", home / "images", "--checkpoint", checkpoint, "--output", home / "run", "--workers", 0,
            "--precision", "fp32", "--source.info_bar", "none",
        )  # fmt: skip
        assert ran.code == 0, ran.err + ran.out
        masks.append(np.asarray(MaskStore.open(Run.open(home / "run").store_path("a.tif")).mask[:]))
    np.testing.assert_array_equal(masks[0], masks[1])
    assert microseg("measure", "--run", tmp_path / "run", "--overlays", 1, "--exports.write", "false").code == 0
    with Image.open(tmp_path / "run/overlays/a.tif.png") as drawing:
        assert drawing.size == (64, 48)


def test_a_mask_of_the_stored_shape_without_a_tag_is_refused(tmp_path, microseg):
    """A quarter turn changes the shape, so that the mistake can be seen; a half turn cannot."""
    write(tmp_path / "images/a.tif", IMAGE, 6)
    write(tmp_path / "masks/a.tif", STORED[6](SEEN), 1)
    ran = microseg(
        "tile", "--images", tmp_path / "images", "--masks", tmp_path / "masks", "--classes", CLASSES,
        "--output", tmp_path / "tiles", "--tile", 32, "--overlap", 0, "--workers", 0,
    )  # fmt: skip
    assert ran.code != 0
    assert "the mask is 64 x 48 px, its micrograph 48 x 64" in ran.out + ran.err
