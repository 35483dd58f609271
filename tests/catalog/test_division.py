"""divide: regions that partition a micrograph, their symmetries, and the table that the other jobs read."""

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.catalog import divide, read_table, region_box, symmetry_of
from microseg_ray.errors import SettingsError
from microseg_ray.fitting.augmentation import apply_symmetry
from microseg_ray.geometry import Box
from microseg_ray.settings import DivideSettings, settings_from
from microseg_ray.settings.divide import DEFECTSEGNET
from microseg_ray.sources import open_micrograph, read_mask


@given(st.integers(4, 3000), st.integers(4, 3000))
def test_the_five_regions_are_disjoint_and_cover_every_micrograph(height, width):
    boxes = [region_box(region, Box(0, 0, height, width)) for region in DEFECTSEGNET]
    assert sum(box.area for box in boxes) == height * width
    for index, one in enumerate(boxes):
        assert not any(one.intersection(other).area for other in boxes[index + 1 :])


def test_the_division_is_the_published_one():
    boxes = {region.name: region_box(region, Box(0, 0, 2048, 2048)) for region in DEFECTSEGNET}
    assert [region.split for region in DEFECTSEGNET] == ["train", "train", "train", "val", "test"]
    assert boxes["bottom_right_upper"] == Box(1024, 1024, 1536, 2048)
    assert boxes["bottom_right_lower"] == Box(1536, 1024, 2048, 2048)
    assert {(boxes[name].y1 - boxes[name].y0) for name in ("top_left", "top_right", "bottom_left")} == {1024}


@pytest.mark.parametrize("symmetry", range(8))
def test_symmetries_are_those_of_the_augmentation(symmetry):
    import torch

    pixels = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    expected = apply_symmetry(torch.from_numpy(pixels), symmetry).numpy()
    np.testing.assert_array_equal(symmetry_of(pixels, symmetry), expected)


@pytest.fixture
def archive(tmp_path):
    """Two micrographs of 64 x 48 px with unequal sides of a pixel; image and mask hold the place of each pixel."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for name in ("a", "b.png"):  # a dot in a name stays
        place = np.arange(64 * 48, dtype=np.uint16).reshape(64, 48) + (3072 if name == "a" else 0)
        resolution = (1e4 / 0.25, 1e4 / 0.5)
        tifffile.imwrite(tmp_path / f"images/{name}.tif", place, resolution=resolution, resolutionunit="CENTIMETER")
        Image.fromarray((place % 251).astype(np.uint8)).save(tmp_path / f"masks/{name}.png")
    return tmp_path


def settings(archive, **changes):
    chosen = {"images": str(archive / "images"), "masks": str(archive / "masks"), "output": str(archive / "out")}
    return settings_from(DivideSettings, chosen | changes)


def test_two_micrographs_make_48_pairs_with_their_labels(archive):
    done = divide(settings(archive, symmetries=True))
    rows = read_table(archive / "out/catalog.csv")
    assert not done.failures
    assert [sum(row.split == split for row in rows) for split in ("train", "val", "test")] == [48, 2, 2]
    seen = set()
    for row in rows:
        with open_micrograph(row.image) as micrograph:
            pixels = micrograph.read(Box(0, 0, *micrograph.info.shape))[0]
            size = micrograph.info.pixel_size_um
        # The value of a pixel is its place, so a label on another place would differ.
        np.testing.assert_array_equal(read_mask(row.mask), pixels % 251)
        seen.add((pixels.shape, pixels.tobytes()))
        assert size == pytest.approx(row.pixel_size_um)
        # A column step is 1 in the untouched image: where the sides are swapped, so is the pixel size.
        turned = abs(int(pixels[0, 1]) - int(pixels[0, 0])) != 1
        assert row.pixel_size_um == ((0.25, 0.5) if turned else (0.5, 0.25))
    assert len(seen) == 52
    # All symmetries of a region are one group, which no split tears apart.
    assert len({row.group for row in rows}) == 10


def test_the_table_makes_a_tile_store(archive, microseg):
    divide(settings(archive))
    ran = microseg(
        *("tile", "--table", archive / "out/catalog.csv", "--output", archive / "tiles", "--tile", 16, "--overlap", 0),
        *("--workers", 0, "--classes", json.dumps([f"c{index}" for index in range(251)]), "--audit", "off"),
    )
    assert ran.code == 0, ran.err


def test_own_regions_and_what_is_refused(archive, microseg):
    halves = [
        {"name": "upper", "split": "train", "box": [0, 0, 0.5, 1]},
        {"name": "lower", "split": "test", "box": [0.5, 0, 1, 1]},
    ]
    done = divide(settings(archive, regions=halves, masks=None))
    assert [(row.name, row.split, row.mask) for row in done.rows[:2]] == [
        ("images/a_upper.tif", "train", None),
        ("images/a_lower.tif", "test", None),
    ]
    with pytest.raises(SettingsError, match="exists"):
        divide(settings(archive))
    for box, message in (
        ([0.4, 0, 1, 1], "overlap"),
        ([0.5, 0, 1.5, 1], "must be y0"),
        ([0.5, 0, 0.5, 1], "must be y0"),
    ):
        regions = json.dumps([halves[0], {**halves[1], "box": box}])
        ran = microseg("divide", "--images", archive / "images", "--output", archive / "other", "--regions", regions)
        assert ran.code == 2
        assert message in ran.err


def test_bad_micrographs_are_set_aside(archive, microseg):
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(archive / "masks/a.png")
    tifffile.imwrite(archive / "images/tiny.tif", np.zeros((1, 1), np.uint8))
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(archive / "masks/tiny.png")
    ran = microseg(
        *("divide", "--images", archive / "images", "--masks", archive / "masks", "--output", archive / "out")
    )
    assert ran.code == 3
    reasons = (archive / "out/failures.csv").read_text(encoding="utf-8")
    assert "the mask is 3 x 3 px, the micrograph 64 x 48" in reasons
    assert "too small" in reasons
    assert len(read_table(archive / "out/catalog.csv")) == 5
