"""The simulators beyond `grains`: what each draws, in any size, the same bytes by band and in every format."""

import csv

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from microseg_ray.errors import SettingsError
from microseg_ray.settings import ImagingSettings
from microseg_ray.simulation import PRESETS, simulate_archive, simulate_bands, simulate_micrograph
from microseg_ray.simulation.canvas import random_stream
from microseg_ray.simulation.ccd import ccd_bands, draw_cluster


@pytest.mark.parametrize("preset", PRESETS)
def test_any_preset_gives_its_classes_and_the_same_bytes_again(preset):
    first, second = (simulate_micrograph((300, 270), 3, preset=preset) for _ in range(2))
    assert first.image.tobytes() == second.image.tobytes()
    assert first.mask.tobytes() == second.mask.tobytes()
    assert set(np.unique(first.mask)) == set(range(len(first.classes)))
    other = simulate_micrograph((300, 270), 4, preset=preset)
    assert (first.mask != other.mask).mean() > 0.005


@pytest.mark.parametrize("preset", [name for name in PRESETS if not name.startswith("ccd")])
def test_bands_do_not_show_in_any_mask(preset, monkeypatch):
    from microseg_ray.simulation import micrograph

    expected = simulate_micrograph((300, 200), 11, preset=preset).mask
    monkeypatch.setattr(micrograph, "_BAND_ROWS", 37)
    np.testing.assert_array_equal(simulate_micrograph((300, 200), 11, preset=preset).mask, expected)


@pytest.mark.parametrize("preset", ["ccd_v0", "ccd_v1", "ccd_v2"])
def test_a_ccd_image_does_not_depend_on_its_bands(preset):
    ((_, image, mask),) = ccd_bands((600, 256), 2, preset, band_rows=1000, clusters=(20, 30))
    parts = list(ccd_bands((600, 256), 2, preset, band_rows=170, clusters=(20, 30)))
    assert [y0 for y0, *_ in parts] == [0, 170, 340, 510]
    np.testing.assert_array_equal(np.concatenate([part[1] for part in parts]), image)
    np.testing.assert_array_equal(np.concatenate([part[2] for part in parts]), mask)


@pytest.fixture(scope="module")
def clusters():
    rng = random_stream(0, 9)
    return [draw_cluster(rng) for _ in range(5_000)]


def test_the_cluster_generator_has_the_published_quantiles(clusters):
    """Of the earlier system's library of 803 clusters; the generator was fitted, not the library loaded."""
    heights, widths = (np.array([cluster.shape[axis] for cluster in clusters]) for axis in (0, 1))
    pixels = np.array([np.count_nonzero(cluster) for cluster in clusters])
    values = np.concatenate([cluster[cluster > 0] for cluster in clusters[:2000]])
    for measured, published in (
        (np.quantile(heights, [0.5, 0.95, 1]), [12, 55.9, 127]),
        (np.quantile(widths, [0.5, 0.95, 1]), [11, 49, 109]),
        (np.quantile(heights, 0.05), 3),
        (np.quantile(widths, 0.05), 3),
        (np.quantile(pixels, [0.05, 0.5, 0.95, 1]), [7, 82, 450, 892]),
        (np.quantile(values, [0.5, 0.95, 1]), [0.126, 1.73, 16.965]),
    ):
        np.testing.assert_allclose(measured, published, rtol=0.15)
    # 74 % of the pixels round to nothing in v0 and v1.
    assert np.mean(np.rint(values) == 0) == pytest.approx(0.74, abs=0.03)


def test_a_cluster_is_one_piece_that_touches_all_sides_of_its_box(clusters):
    from scipy import ndimage

    for cluster in clusters[:300]:
        assert ndimage.label(cluster > 0, np.ones((3, 3)))[1] == 1
        assert cluster[0].any()
        assert cluster[-1].any()
        assert cluster[:, 0].any()
        assert cluster[:, -1].any()


def fewest_lines_over(mask):
    """How many rows and columns cover all pixels of a mask, at least (Koenig's theorem)."""
    from scipy.sparse import csr_matrix
    from scipy.sparse.csgraph import maximum_bipartite_matching

    return int((maximum_bipartite_matching(csr_matrix(mask)) >= 0).sum())


def test_lines_that_cover_a_mask_are_counted():
    cross = np.zeros((9, 9), bool)
    cross[4] = cross[:, 2] = True
    assert fewest_lines_over(cross) == 2
    assert fewest_lines_over(np.eye(9, dtype=bool)) == 9


def test_ccd_v0_is_what_its_table_says():
    for seed in range(25):
        simulated = simulate_micrograph((256, 256), seed, preset="ccd_v0")
        hot, glowing = simulated.mask == 2, simulated.mask == 1
        assert hot[:, :15].sum() == 0
        assert (simulated.mask[:, :15] != 3).all()
        assert (simulated.image[hot] == 25).all()
        assert (simulated.image[simulated.mask == 0] == 0).all()
        # The glowing edge is a block of whole columns from column 0, where nothing lies on it.
        columns = np.flatnonzero(glowing.any(axis=0))
        assert len(columns) <= 14
        assert columns.tolist() == list(range(len(columns)))
        # Two to six hot lines, horizontal or vertical and one pixel wide: so many rows and columns cover all hot pixels.
        assert 2 <= fewest_lines_over(hot) <= 6


def test_ccd_v2_is_what_its_table_says():
    without_glow = 0
    for seed in range(200):
        rows = list(ccd_bands((64, 256), seed, "ccd_v2", clusters=(1, 2)))
        image, mask = rows[0][1].astype(float), rows[0][2]
        without_glow += not (mask == 1).any()
        background = image[mask == 0]
        assert background.mean() == pytest.approx(8800, abs=1)
        assert background.std() == pytest.approx(18.97, rel=0.1)
        hot = np.flatnonzero((mask == 2).any(axis=0))
        assert hot.min() >= 66
        assert hot.max() < 144
        assert (mask[:, :144] != 3).all()
        glow = image[mask == 1]
        if len(glow):
            assert 1370 <= np.median(glow) - 8800 <= 1530
        assert np.median(image[mask == 2]) - 8800 == pytest.approx(2200, abs=30)
    assert without_glow / 200 == pytest.approx(0.375, abs=0.1)


def test_no_pickle_is_loaded_anywhere():
    import re
    from pathlib import Path

    import microseg_ray

    for path in Path(microseg_ray.__file__).parent.rglob("*.py"):
        assert not re.search(r"^\s*(import|from) c?pickle", path.read_text(encoding="utf-8"), re.MULTILINE), path


def test_imaging_adds_what_is_asked_for():
    plain = simulate_micrograph((256, 256), 1)
    streaked = simulate_micrograph((256, 256), 1, imaging=ImagingSettings(streaks=0.8))
    np.testing.assert_array_equal(plain.mask, streaked.mask)
    difference = np.abs(streaked.image.astype(int) - plain.image).mean(axis=1)
    assert difference.max() > 5 * np.median(difference)
    barred = simulate_micrograph((256, 256), 1, imaging=ImagingSettings(info_bar=24))
    assert barred.image.shape == (280, 256)
    np.testing.assert_array_equal(barred.image[:256], plain.image)
    assert (barred.mask[256:] == 255).all()
    # A white line, then white text and a white scale bar on black.
    assert (barred.image[256] == 255).all()
    assert (barred.image[257:] == 0).mean() > 0.5
    assert (barred.image[257:] == 255).sum() > 32
    noisy = simulate_micrograph((256, 256), 1, imaging=ImagingSettings(read=20.0))
    assert noisy.image.astype(float).std() > plain.image.astype(float).std()


def test_what_cannot_be_simulated_is_said():
    with pytest.raises(SettingsError, match="columns"):
        simulate_micrograph((256, 100), 0, preset="ccd_v2")
    with pytest.raises(SettingsError, match="detector"):
        simulate_micrograph((256, 256), 0, preset="ccd_v2", imaging=ImagingSettings(blur=2.0))
    with pytest.raises(SettingsError, match="clusters"):
        simulate_micrograph((256, 256), 0, preset="grains", clusters=(1, 2))


@pytest.mark.parametrize("image_format", ["tiff", "png", "zarr", "npy"])
def test_every_format_holds_the_same_pixels_and_the_truth(tmp_path, image_format):
    from microseg_ray.sources import open_micrograph

    pairs = simulate_archive(tmp_path, 2, (70, 300), 5, "steel", image_format=image_format)
    with (tmp_path / "truth.csv").open(encoding="utf-8") as file:
        truth = list(csv.DictReader(file))
    for index, (image, mask) in enumerate(pairs):
        seed = int(np.random.SeedSequence(5, spawn_key=(index,)).generate_state(1, np.uint64)[0])
        expected = simulate_micrograph((70, 300), seed, preset="steel")
        with open_micrograph(image) as micrograph:
            assert micrograph.info.pixel_size_um == (None if image_format == "png" else (0.0032, 0.0032))
        read = {
            ".png": lambda path: np.asarray(Image.open(path)),
            ".tif": tifffile.imread,
            ".zarr": lambda path: zarr.open_group(str(path), mode="r")["0"][:],
        }[image.suffix]
        np.testing.assert_array_equal(read(image), expected.image)
        np.testing.assert_array_equal(np.asarray(Image.open(mask)), expected.mask)
        own = [row for row in truth if row["micrograph"] == image.name]
        assert [int(row["pixel_count"]) for row in own] == np.bincount(expected.mask.ravel(), minlength=4).tolist()
    if image_format == "npy":
        assert np.load(tmp_path / "images.npy").shape == (2, 70, 300)


def test_a_large_mask_is_streamed_to_a_tiled_tiff(tmp_path, monkeypatch):
    from microseg_ray.simulation import archive

    monkeypatch.setattr(archive, "_LARGE", 1000)
    ((image, mask),) = simulate_archive(tmp_path, 1, (1100, 300), 5)
    assert mask.suffix == ".tif"
    seed = int(np.random.SeedSequence(5, spawn_key=(0,)).generate_state(1, np.uint64)[0])
    expected = simulate_micrograph((1100, 300), seed)
    np.testing.assert_array_equal(tifffile.imread(image), expected.image)
    np.testing.assert_array_equal(tifffile.imread(mask), expected.mask)
    assert not list(tmp_path.rglob("*.partial"))


def test_viridis_is_what_matplotlib_saves(tmp_path):
    from matplotlib import colormaps

    ((image, _),) = simulate_archive(tmp_path, 1, (256, 256), 1, "ccd_v0", image_format="png", viridis=True)
    seed = int(np.random.SeedSequence(1, spawn_key=(0,)).generate_state(1, np.uint64)[0])
    raw = simulate_micrograph((256, 256), seed, preset="ccd_v0").image.astype(float)
    np.testing.assert_array_equal(np.asarray(Image.open(image)), colormaps["viridis"](raw / raw.max(), bytes=True))


def test_coarse_fine_writes_a_folder_per_class(tmp_path):
    simulate_archive(tmp_path, 4, (100, 120), 0, "coarse_fine_hard")
    assert sorted(path.relative_to(tmp_path).as_posix() for path in (tmp_path / "images").rglob("*.tif")) == [
        "images/coarse/coarse_fine_hard_0000.tif",
        "images/coarse/coarse_fine_hard_0002.tif",
        "images/fine/coarse_fine_hard_0001.tif",
        "images/fine/coarse_fine_hard_0003.tif",
    ]


def test_bands_hold_no_more_than_a_band():
    bands = simulate_bands((2000, 64), 0, preset="facets")
    assert bands.shape == (2000, 64)
    assert [len(image) for image, _ in bands.rows] == [512, 512, 512, 464]
