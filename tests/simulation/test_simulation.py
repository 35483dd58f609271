"""Laws of the simulated micrographs: exact masks, the same bytes again, hard for a threshold, easy for a network."""

import csv
import itertools
import math
import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.errors import SettingsError
from microseg_ray.simulation import PRESETS, simulate_archive, simulate_micrograph

sizes = st.tuples(st.integers(1, 150), st.integers(1, 150))
seeds = st.integers(0, 2**64 - 1)


def mean_iou(mask, prediction, classes=3):
    """The plain definition."""
    scores = []
    for index in range(classes):
        union = np.count_nonzero((mask == index) | (prediction == index))
        if union:
            scores.append(np.count_nonzero((mask == index) & (prediction == index)) / union)
    return float(np.mean(scores))


def best_by_thresholds(image, mask):
    """The best mean IoU of any two thresholds and any assignment of the classes to the three ranges."""
    histograms = np.stack([np.bincount(image[mask == index], minlength=256) for index in range(3)])
    below = np.concatenate([np.zeros((3, 1), np.int64), histograms.cumsum(axis=1)], axis=1)
    total = histograms.sum(axis=1)
    best = (0.0, None)
    for low, high in itertools.combinations_with_replacement(range(0, 257, 2), 2):
        ranges = np.stack([below[:, low], below[:, high] - below[:, low], total - below[:, high]])
        iou = ranges / (ranges.sum(axis=1, keepdims=True) + total[None, :] - ranges)  # range by class
        for order in itertools.permutations(range(3)):
            score = float(np.mean([iou[place, index] for place, index in enumerate(order)]))
            if score > best[0]:
                best = (score, (low, high, order))
    return best


@settings(max_examples=25, deadline=None)
@given(size=sizes, seed=seeds)
def test_any_size_gives_classes_only_and_the_same_bytes_again(size, seed):
    first, second = simulate_micrograph(size, seed), simulate_micrograph(size, seed)
    assert first.image.shape == first.mask.shape == size
    assert first.image.dtype == first.mask.dtype == np.uint8
    assert set(np.unique(first.mask)) <= set(range(len(first.classes)))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 2**63))
def test_another_seed_gives_another_micrograph(seed):
    first, second = simulate_micrograph((200, 200), seed), simulate_micrograph((200, 200), seed + 1)
    assert (first.image != second.image).mean() > 0.5
    assert (first.mask != second.mask).mean() > 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 700), (700, 1), (511, 9), (512, 9), (513, 9), (1025, 33)])
def test_sizes_around_the_bands(size):
    assert simulate_micrograph(size, 5).image.shape == size


def test_bands_do_not_show_in_the_mask():
    """A shape on two bands is the same shape: drawn with other bands, the mask is the same."""
    from microseg_ray.simulation import micrograph

    expected = simulate_micrograph((300, 200), 11).mask
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(micrograph, "_BAND_ROWS", 37)
        other = simulate_micrograph((300, 200), 11)
    np.testing.assert_array_equal(other.mask, expected)


def test_the_seam_of_two_bands_is_no_darker_or_brighter_than_any_other_row():
    image = simulate_micrograph((1024, 1024), 2).image.astype(np.int64)
    steps = np.abs(np.diff(image, axis=0)).mean(axis=1)
    assert steps[511] < steps.mean() + 5 * steps.std()


@pytest.mark.parametrize("size", [(512, 2048), (1024, 1024), (1500, 1500)])
def test_densities_do_not_depend_on_the_size(size):
    fractions = np.mean(
        [np.bincount(simulate_micrograph(size, seed).mask.ravel(), minlength=3) / math.prod(size) for seed in range(4)],
        axis=0,
    )
    np.testing.assert_allclose(fractions, [0.68, 0.26, 0.055], atol=0.035)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_pair_of_thresholds_segments_it(seed):
    simulated = simulate_micrograph((512, 512), seed)
    score, (low, high, order) = best_by_thresholds(simulated.image, simulated.mask)
    assert 0.3 < score < 0.7
    # The oracle is right about itself.
    prediction = np.asarray(order)[np.digitize(simulated.image, [low, high])]
    assert mean_iou(simulated.mask, prediction) == pytest.approx(score)


def test_the_light_is_uneven_and_the_whole_range_of_gray_is_used_without_clipping():
    simulated = simulate_micrograph((1024, 1024), 3)
    matrix = np.ma.masked_array(simulated.image, simulated.mask != 0)
    corners = [float(matrix[y : y + 128, x : x + 128].mean()) for y in range(0, 1024, 128) for x in range(0, 1024, 128)]
    assert max(corners) / min(corners) > 1.6
    assert np.isin(simulated.image, (0, 255)).mean() < 0.002


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (((0, 5), 0, "grains"), "size"),
        (((5,), 0, "grains"), "size"),
        (((5, 5), -1, "grains"), "seed -1"),
        (((5, 5), 0, "sand"), "preset 'sand' is unknown; use one of grains"),
    ],
)
def test_impossible_settings_are_named(arguments, message):
    size, seed, preset = arguments
    with pytest.raises(SettingsError, match=message):
        simulate_micrograph(size, seed, preset=preset)


@pytest.mark.parametrize(("count", "seed"), [(0, 0), (1, -1)])
def test_an_impossible_archive_writes_nothing(tmp_path, count, seed):
    with pytest.raises(SettingsError):
        simulate_archive(tmp_path / "a", count, (8, 8), seed)
    assert not (tmp_path / "a").exists()


def test_an_archive_holds_pixels_pixel_size_and_truth(tmp_path):
    pairs = simulate_archive(tmp_path, 2, (70, 301), seed=4)
    files = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert files == [
        ".lock",
        ".microseg.json",
        "images/grains_0000.tif",
        "images/grains_0001.tif",
        "masks/grains_0000.png",
        "masks/grains_0001.png",
        "truth.csv",
    ]
    truth = list(csv.DictReader((tmp_path / "truth.csv").read_text("utf-8").splitlines()))
    assert len(truth) == 6
    for image_path, mask_path in pairs:
        with tifffile.TiffFile(image_path) as tiff:
            assert tiff.is_ome
            page = tiff.pages[0]
            assert page.is_tiled
            assert page.compression.name == "ADOBE_DEFLATE"
            assert page.shape == (70, 301)
            pixels = ET.fromstring(tiff.ome_metadata).find(".//{*}Pixels")
            sizes = {key: pixels.get(f"PhysicalSize{key}") for key in ("X", "Y")}
            units = {pixels.get(f"PhysicalSize{key}Unit") for key in ("X", "Y")}
            assert {key: float(value) for key, value in sizes.items()} == {"X": 0.5, "Y": 0.5}
            assert units == {"µm"}
        with Image.open(mask_path) as png:
            assert png.mode == "L"
            mask = np.asarray(png)
        rows = [row for row in truth if row["micrograph"] == image_path.name]
        assert [row["class"] for row in rows] == ["matrix", "grain", "pore"]
        for index, row in enumerate(rows):
            assert int(row["pixel_count"]) == np.count_nonzero(mask == index)
            assert float(row["area_fraction"]) == int(row["pixel_count"]) / mask.size
        assert sum(float(row["area_fraction"]) for row in rows) == pytest.approx(1)


def test_the_same_seed_gives_the_same_files_and_a_longer_archive_begins_with_the_shorter(tmp_path):
    simulate_archive(tmp_path / "a", 1, (40, 50), seed=9)
    simulate_archive(tmp_path / "b", 2, (40, 50), seed=9)
    for path in ("images/grains_0000.tif", "masks/grains_0000.png"):
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
    first, second = (tifffile.imread(tmp_path / f"b/images/grains_000{index}.tif") for index in range(2))
    assert (first != second).any()


def test_names_say_the_preset(tmp_path):
    for preset in PRESETS:
        # The detector's columns have their places.
        size = (9, 256) if preset.startswith("ccd") else (9, 9)
        (pair,) = simulate_archive(tmp_path / preset, 1, size, 0, preset=preset)
        assert all(re.fullmatch(rf"{preset}_\d{{4}}", path.stem) for path in pair)


@pytest.mark.slow
def test_a_small_network_learns_it():
    import torch

    from microseg_ray.models import build_model

    torch.manual_seed(0)
    size, side = 128, 1024
    archive = [simulate_micrograph((side, side), 100 + index) for index in range(6)]

    def tiles(name):
        arrays = (getattr(item, name).reshape(side // size, size, side // size, size) for item in archive)
        return torch.from_numpy(
            np.concatenate([array.transpose(0, 2, 1, 3).reshape(-1, size, size) for array in arrays])
        )

    images, masks = tiles("image")[:, None].float() / 255, tiles("mask").long()
    model = build_model("unet", 1, 3, {"width": 8, "depth": 3})
    epochs, batch = 8, 8
    steps = len(images) // batch
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * steps)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(batch)[:steps]:
            loss = torch.nn.functional.cross_entropy(model(images[chosen]), masks[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    held_out = simulate_micrograph((side, side), 7)
    model.eval()
    with torch.inference_mode():
        prediction = model(torch.from_numpy(held_out.image)[None, None].float() / 255).argmax(dim=1)[0].numpy()
    assert mean_iou(held_out.mask, prediction) > 0.9
