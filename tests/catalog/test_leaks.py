"""The leak audit: what is in two splits at once is found and named, and nothing else is."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from microseg_ray.catalog import CatalogRow, Reducer, find_leaks, reduce_micrograph
from microseg_ray.geometry import Box
from microseg_ray.settings import SourceSettings
from microseg_ray.symmetry import SYMMETRIES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SHAPE = (150, 210)


def picture(seed: int, shape: tuple[int, int] = SHAPE) -> np.ndarray:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 200, (shape[0] // 6 + 1, shape[1] // 6 + 1)).astype(np.uint8)
    return (
        np.kron(coarse, np.ones((6, 6), np.uint8))[: shape[0], : shape[1]] + generator.integers(0, 50, shape)
    ).astype(np.uint8)


def audited(folder: Path, pictures: dict[str, np.ndarray], **options: bool):
    """Names are SPLIT_WHATEVER."""
    rows = []
    for name, pixels in pictures.items():
        tifffile.imwrite(folder / f"{name}.tif", pixels)
        rows.append(CatalogRow(name, folder / f"{name}.tif", None, name, name.split("_")[0]))
    return find_leaks(rows, [reduce_micrograph(row.image) for row in rows], **options)


NAIVE: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...] = (
    ("equal", lambda pixels: pixels),
    ("mirrored", np.fliplr),
    ("mirrored", np.flipud),
    ("rotated", lambda pixels: np.rot90(pixels, 2)),
    ("mirrored", lambda pixels: pixels.T),
    ("rotated", lambda pixels: np.rot90(pixels, 1)),
    ("rotated", lambda pixels: np.rot90(pixels, -1)),
    ("mirrored", lambda pixels: np.rot90(pixels.T, 2)),
)


@pytest.mark.parametrize("number", range(8))
def test_every_symmetry_is_found_and_named(tmp_path, number):
    kind, turn = NAIVE[number]
    leaks = audited(tmp_path, {"train_a": picture(1), "test_b": turn(picture(1)), "test_c": picture(2)})
    assert [(leak.first, leak.second, leak.kind) for leak in leaks] == [("test_b", "train_a", kind)]


def test_quarter_turns_are_named_by_their_direction():
    pixels = picture(0)
    names = {symmetry.name: symmetry.apply(pixels) for symmetry in SYMMETRIES}
    assert np.array_equal(names["rotated by 90 degrees clockwise"], np.rot90(pixels, -1))
    assert np.array_equal(names["rotated by 90 degrees counter-clockwise"], np.rot90(pixels, 1))


@settings(max_examples=60)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    symmetry=st.sampled_from(SYMMETRIES),
    cut=st.tuples(*[st.floats(0, 1)] * 4),
)
def test_a_box_comes_from_where_its_pixels_were(height, width, symmetry, cut):
    pixels = np.arange(height * width).reshape(height, width)
    turned = symmetry.apply(pixels)
    (y0, y1), (x0, x1) = (
        sorted((int(cut[k] * length), int(cut[k + 1] * length)))
        for k, length in ((0, turned.shape[0]), (2, turned.shape[1]))
    )
    box = Box(y0, x0, min(y1 + 1, turned.shape[0]), min(x1 + 1, turned.shape[1]))
    origin = symmetry.origin(box, pixels.shape)
    assert np.array_equal(symmetry.apply(pixels[origin.slices]), turned[box.slices])


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    return np.asarray(Image.open(file))


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: jpeg(pixels, 50),
        lambda pixels: (pixels * 0.6 + 30).astype(np.uint8),
        lambda pixels: np.clip(pixels + np.random.default_rng(9).normal(0, 12, pixels.shape), 0, 255).astype(np.uint8),
        lambda pixels: pixels.astype(np.uint16) * 200 + 7,
        lambda pixels: np.asarray(Image.fromarray(pixels).resize((420, 300))),
        lambda pixels: jpeg(np.ascontiguousarray(np.rot90(pixels)), 50),
    ],
    ids=["recompressed", "contrast", "noise", "depth", "resized", "rotated and recompressed"],
)
def test_nearly_equal_is_near(tmp_path, change):
    leaks = audited(tmp_path, {"train_a": picture(1), "test_b": change(picture(1)), "test_c": picture(2)})
    assert [(leak.first, leak.second, leak.kind) for leak in leaks] == [("test_b", "train_a", "near")]
    assert 0.75 <= leaks[0].correlation <= 1


def turned(pixels: np.ndarray, degrees: float) -> np.ndarray:
    return ndimage.rotate(pixels, degrees, reshape=False, order=1, mode="reflect")


@pytest.mark.parametrize(
    ("change", "detail"),
    [
        (lambda pixels: turned(pixels, 1), "rotated by 1 degrees"),
        (lambda pixels: turned(pixels, 45), "rotated by 45 degrees"),
        (lambda pixels: 255 - pixels, "inverted"),
        (lambda pixels: pixels[3:, :-4], "cropped or shifted"),
        (lambda pixels: 255 - turned(np.fliplr(pixels), 7), "mirrored, rotated by 7 degrees, inverted"),
    ],
    ids=["1 degree", "45 degrees", "inverted", "crop of 2 %", "all at once"],
)
def test_copies_at_any_angle_cropped_or_inverted_are_near(tmp_path, change, detail):
    leaks = audited(tmp_path, {"train_a": picture(1), "test_b": change(picture(1)), "test_c": picture(2)})
    assert [(leak.first, leak.second, leak.kind) for leak in leaks] == [("test_b", "train_a", "near")]
    assert leaks[0].detail in {detail, "nearly the same pixels"}


def test_an_info_bar_hides_no_copy_from_any_path(tmp_path):
    """The bar is no specimen: the reduction of an append and of the audit is that of the survey."""
    bar = np.zeros((24, SHAPE[1]), np.uint8)
    for name, number in (("a", 0), ("b", 200)):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.vstack([picture(1), bar + np.uint8(number)]))
    source = SourceSettings(info_bar=24)
    first, second = (reduce_micrograph(tmp_path / f"{name}.tif", source) for name in "ab")
    assert first.shape == SHAPE
    assert np.array_equal(first.means, second.means)


def test_pictures_of_one_size_and_grain_are_no_leak(tmp_path):
    assert audited(tmp_path, {f"{'train' if n % 2 else 'test'}_{n}": picture(n) for n in range(24)}) == []


def test_pairs_in_one_split_are_asked_for_and_groups_belong_together(tmp_path):
    pictures = {"train_a": picture(1), "train_b": picture(1)}
    assert audited(tmp_path, pictures) == []
    assert len(audited(tmp_path, pictures, within=True)) == 1
    rows = [CatalogRow(n, tmp_path / f"{n}.tif", None, "one group", n) for n in pictures]
    assert find_leaks(rows, [reduce_micrograph(row.image) for row in rows], within=True) == []


def test_empty_pictures_are_equal_only_where_their_pixels_are(tmp_path):
    flat = np.full(SHAPE, 7, np.uint8)
    leaks = audited(tmp_path, {"train_a": flat, "test_b": flat, "test_c": flat + 1, "train_d": flat[:-1]})
    assert [(leak.first, leak.second, leak.kind) for leak in leaks] == [("test_b", "train_a", "equal")]


@settings(max_examples=40)
@given(
    height=st.integers(1, 300),
    width=st.integers(1, 300),
    cut=st.floats(0, 1),
    depth=st.sampled_from([np.uint8, np.float32]),
)
def test_reducing_by_regions_is_reducing_at_once(height, width, cut, depth):
    pixels = np.random.default_rng(0).integers(0, 255, (1, height, width)).astype(depth)
    whole, parts = Reducer((height, width)), Reducer((height, width))
    whole.add(Box(0, 0, height, width), pixels)
    at = min(height, max(0, int(cut * height)))
    for box in (Box(0, 0, at, width), Box(at, 0, height, width)):
        if box.height:
            parts.add(box, pixels[(slice(None), *box.slices)])
    assert np.allclose(whole.reduced().means, parts.reduced().means, atol=1e-6)
    # The naive sum: each pixel into the cell of its centre.
    sums = np.zeros((2, min(128, height), min(128, width)))
    for y in range(height):
        for_y = int((y + 0.5) * sums.shape[1] / height)
        np.add.at(sums[0, for_y], ((np.arange(width) + 0.5) * sums.shape[2] / width).astype(int), pixels[0, y])
        np.add.at(sums[1, for_y], ((np.arange(width) + 0.5) * sums.shape[2] / width).astype(int), 1)
    means = sums[0] / sums[1]
    if height >= 128 and width >= 128:
        spread = np.ptp(means)
        assert np.allclose(whole.reduced().means, (means - means.min()) / spread, atol=1e-5)


def test_the_job_names_the_leaks_of_sub_folders(tmp_path, microseg):
    for split, seed in (("train", 1), ("test", 1), ("val", 3)):
        (tmp_path / split / "fine").mkdir(parents=True)
        tifffile.imwrite(tmp_path / split / "fine" / "a #1.tif", picture(seed))
    (tmp_path / "other").mkdir()
    tifffile.imwrite(tmp_path / "other" / "x.tif", picture(3))
    ran = microseg("audit", "--images", tmp_path, "--output", tmp_path / "pairs.csv")
    assert ran.code == 1
    assert "test/fine/a #1.tif (test) and train/fine/a #1.tif (train): equal (the same bytes)" in ran.out
    assert "1 outside train, val, test, such as other/x.tif" in ran.out
    with (tmp_path / "pairs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["first"], row["kind"]) for row in rows] == [("test/fine/a #1.tif", "equal")]
    (tmp_path / "test/fine/a #1.tif").write_bytes(b"II*\0 cut")
    ran = microseg("audit", "--images", tmp_path)
    assert ran.code == 3
    assert "not compared" in ran.out


# --- real micrographs -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("pattern", ["fine/[67]*.png", pytest.param("*/*.png", marks=pytest.mark.slow)])
def test_real_grains_leak_7_and_its_mirrors(real_data, microseg, tmp_path, pattern):
    images = [path for split in ("train", "test") for path in sorted((real_data / "grains" / split).glob(pattern))]
    for path in images:
        copy = tmp_path / "grains" / path.relative_to(real_data / "grains")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    ran = microseg("audit", "--images", tmp_path / "grains", "--output", tmp_path / "pairs.csv")
    assert ran.code == 1
    with (tmp_path / "pairs.csv").open(newline="") as file:
        pairs = {(row["first"], row["second"]): row["kind"] for row in csv.DictReader(file)}
    names = ("7.png", "7m.png", "7mm.png")
    assert set(pairs) == {(f"test/fine/{one}", f"train/fine/{two}") for one in names for two in names}
    assert pairs["test/fine/7.png", "train/fine/7.png"] == "equal"
    assert pairs["test/fine/7m.png", "train/fine/7mm.png"] == "equal"
    assert pairs["test/fine/7m.png", "train/fine/7m.png"] == "mirrored"
    assert pairs["test/fine/7mm.png", "train/fine/7m.png"] == "rotated"


@pytest.mark.parametrize("name", ["coating", "superalloy"])
def test_real_splits_of_others_do_not_leak(real_data, microseg, name):
    assert microseg("audit", "--images", real_data / name, "--mask_suffix", "_mask").code == 0


@pytest.mark.slow
def test_real_flips_are_all_found_and_only_they(real_data, microseg, tmp_path):
    images = real_data / "mudrock/images"
    ran = microseg("audit", "--images", images, "--within", "--output", tmp_path / "pairs.csv")
    assert ran.code == 0
    with (tmp_path / "pairs.csv").open(newline="") as file:
        found = {(row["first"], row["second"]) for row in csv.DictReader(file)}
    names = sorted(path.name for path in images.glob("*.png"))
    flips = {(a, b) for a in names for b in names if a < b and a.rsplit("_", 1)[0] == b.rsplit("_", 1)[0]}
    assert found == flips
    assert len(flips) == 238
    assert (
        microseg("audit", "--images", images, "--group", r"^(\d+)_", "--splits", '{"val": 0.2, "test": ["15"]}').code
        == 0
    )
