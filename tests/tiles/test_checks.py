"""What a store must agree on before anything is trained on it: pixel sizes, classes that occur, known intensities."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.fitting.setup import card_of, check_fit
from microseg_ray.fitting.workers import Workers
from microseg_ray.models import build_model
from microseg_ray.settings import TileSettings, TrainSettings
from microseg_ray.sources.specimen.profile import PERCENTILES
from microseg_ray.tiles.make import tile
from microseg_ray.tiles.store import TileStore


def write(folder, name, pixels, mask, size_um=None):
    """One pair; the pixel size goes into the TIFF's resolution."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    options = {}
    if size_um is not None:
        options = {"resolution": (1e4 / size_um, 1e4 / size_um), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "images" / f"{name}.tif", pixels, **options)
    Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{name}.png")


def picture(seed, dtype=np.uint8, top=255, shape=(40, 48)):
    return np.random.default_rng(seed).uniform(0, top, shape).astype(dtype)


def mask_of(*values, shape=(40, 48)):
    return np.random.default_rng(0).choice(np.array(values, np.uint8), shape)


def tiling(folder, **options) -> TileSettings:
    chosen = {
        "images": str(folder / "images"),
        "masks": str(folder / "masks"),
        "output": str(folder / "tiles"),
        "classes": ["matrix", "pore"],
        "tile": 16,
        "overlap": 0,
        "workers": 0,
    }
    return TileSettings(**{**chosen, **options})


def training(folder, **options) -> TrainSettings:
    return TrainSettings(
        **{"tiles": str(folder / "tiles"), "output": str(folder / "fit"), "workers": 0, "batch": 2, **options}
    )


@pytest.mark.parametrize(
    ("values", "classes", "lacking", "listed"),
    [
        ((0, 255), ["matrix", "pore"], r"'pore' \(mask value 1\)", "0 ("),
        ((0, 1), ["matrix", "pore", "crack"], r"'crack' \(mask value 2\)", "1 ("),
        ((1, 255), ["matrix", "pore"], r"'matrix' \(mask value 0\)", "255 ("),
    ],
    ids=["0 and 255", "a class too many", "1 and 255"],
)
def test_a_class_without_a_pixel_is_no_training(tmp_path, values, classes, lacking, listed):
    write(tmp_path, "a", picture(1), mask_of(*values))
    write(tmp_path, "b", picture(2), mask_of(*values))
    tiled = tile(tiling(tmp_path, classes=classes))
    assert "no training tile has a pixel of class" in tiled.notes[0]
    assert listed in tiled.notes[0]
    assert ("255 means no class" in tiled.notes[0]) == (255 in values)
    with pytest.raises(SettingsError, match=rf"no training pixel of class {lacking}.*allow_empty_classes"):
        check_fit(training(tmp_path), Workers())
    assert check_fit(training(tmp_path, allow_empty_classes=True), Workers()).spec.tiles == tiled.store.spec.tiles


def test_the_classes_of_the_config_are_those_of_the_store_in_order(tmp_path):
    write(tmp_path, "a", picture(1), mask_of(0, 1))
    tile(tiling(tmp_path))
    check_fit(training(tmp_path, classes=["matrix", "pore"]), Workers())
    for wrong in (["pore", "matrix"], ["matrix"], ["matrix", "void"]):
        with pytest.raises(
            SettingsError,
            match=r"train\.classes: .* are not the classes in order of the tile store .*which has matrix, pore",
        ):
            check_fit(training(tmp_path, classes=wrong), Workers())


def test_nearly_equal_pixel_sizes_give_the_card_their_median(tmp_path):
    for name, size in (("a", 0.5), ("b", 0.501), ("c", 0.5), ("d", None)):
        write(tmp_path, name, picture(ord(name)), mask_of(0, 1), size)
    tiled = tile(tiling(tmp_path))
    assert tiled.store.spec.pixel_size_um == pytest.approx((0.5, 0.5))
    assert any("1 of 4 micrographs have no known pixel size" in note for note in tiled.notes)
    torch.manual_seed(0)
    settings = training(tmp_path, model={"name": "unet", "width": 2, "depth": 1})
    card = card_of(settings, tiled.store, build_model("unet", 1, 2, settings.model.options))
    assert card.pixel_size_um == tiled.store.spec.pixel_size_um
    profile = tiled.store.spec.intensities
    assert (card.intensities.dtype, card.intensities.bits) == (profile.dtype, 8)
    assert card.intensities.percentiles == (profile.percentiles[1], profile.percentiles[4], profile.percentiles[7])


def test_pixel_sizes_that_differ_stop_the_job(tmp_path):
    write(tmp_path, "a", picture(1), mask_of(0, 1), 0.5)
    write(tmp_path, "b", picture(2), mask_of(0, 1), 4.0)
    with pytest.raises(InputError, match=r"a\.tif has 0\.5 x 0\.5 um, b\.tif has 4 x 4 um.*on_scale_mismatch"):
        tile(tiling(tmp_path))
    wide = tile(tiling(tmp_path, scale_tolerance=10, output=str(tmp_path / "wide")))
    assert wide.store.spec.pixel_size_um == pytest.approx((2.25, 2.25))
    ignored = tile(tiling(tmp_path, on_scale_mismatch="ignore", output=str(tmp_path / "any")))
    assert ignored.store.spec.pixel_size_um is None
    assert "different pixel sizes" in ignored.notes[0]


def test_an_append_is_held_to_the_scale_of_the_store(tmp_path):
    write(tmp_path, "a", picture(1), mask_of(0, 1), 0.5)
    tile(tiling(tmp_path))
    write(tmp_path, "b", picture(2), mask_of(0, 1), 0.51)
    grown = tile(tiling(tmp_path, append=True)).store.spec
    assert grown.pixel_size_um == pytest.approx((0.5, 0.5))
    assert grown.intensities.pixels == 2 * 40 * 48
    write(tmp_path, "c", picture(3), mask_of(0, 1), 4.0)
    before = TileStore.open(tmp_path / "tiles").digest
    with pytest.raises(InputError, match="different pixel sizes"):
        tile(tiling(tmp_path, append=True))
    assert TileStore.open(tmp_path / "tiles").digest == before


def test_the_store_keeps_the_distribution_of_what_is_trained_on(tmp_path):
    """Percentiles after scaling equal numpy's over the training micrographs, those of other splits are left out."""
    dark, bright = picture(1, np.uint16, 4095), picture(2, np.uint16, 2047, (64, 64))
    write(tmp_path, "train_a", dark, mask_of(0, 1))
    write(tmp_path, "train_b", bright, mask_of(0, 1, shape=(64, 64)))
    write(tmp_path, "held", picture(3, np.uint16, 65535), mask_of(0, 1))
    store = tile(tiling(tmp_path, splits={"val": ["held"]})).store
    found = store.spec.intensities
    assert (found.dtype, found.bits, found.pixels) == ("uint16", 12, dark.size + bright.size)
    expected = np.percentile(np.concatenate([dark.ravel(), bright.ravel()]) / 65535, PERCENTILES)
    assert found.percentiles == pytest.approx(expected.tolist(), abs=2e-4)
    assert TileStore.open(store.folder).spec.intensities == found


def test_floats_beyond_the_scaling_are_set_aside(tmp_path):
    write(tmp_path, "a", picture(1, np.float32, 1.0), mask_of(0, 1))
    write(tmp_path, "b", picture(2, np.float32, 255.0), mask_of(0, 1))
    tiled = tile(tiling(tmp_path))
    assert [failure.path for failure in tiled.failures] == ["b.tif"]
    assert "takes 0 to 1 as black to white" in tiled.failures[0].reason
    write(tmp_path, "b", picture(2, np.float32, 1.05), mask_of(0, 1))
    little = tile(tiling(tmp_path, output=str(tmp_path / "little")))
    assert little.failures == []
    assert any("b.tif: its float intensities go from" in note for note in little.notes)
    fixed = {"kind": "fixed", "low": 0, "high": 255}
    assert tile(tiling(tmp_path, scaling=fixed, output=str(tmp_path / "fixed"))).failures == []


def test_a_mask_of_several_pages_has_one_for_each_page_of_its_micrograph(tmp_path):
    """The page that is read decides; another number of pages is an objection."""
    write(tmp_path, "a", picture(1), mask_of(0, 1))
    (tmp_path / "masks" / "a.png").unlink()
    labels = np.stack([mask_of(0), mask_of(1), mask_of(0, 1)])
    tifffile.imwrite(tmp_path / "masks" / "a.tif", labels, photometric="minisblack")
    with pytest.raises(InputError, match=r"the mask has 3 pages, its micrograph 1"):
        tile(tiling(tmp_path))
    stack = np.stack([picture(seed) for seed in range(3)])
    tifffile.imwrite(tmp_path / "images" / "a.tif", stack, photometric="minisblack")
    store = tile(tiling(tmp_path, source={"page": 1}, output=str(tmp_path / "second"))).store
    matrix, pore = store.tile_counts("train").sum(axis=0).tolist()
    assert (matrix, pore > 0) == (0, True)
    tifffile.imwrite(tmp_path / "masks" / "a.tif", labels[:2], photometric="minisblack")
    with pytest.raises(InputError, match=r"the mask has 2 pages, its micrograph 3"):
        tile(tiling(tmp_path, output=str(tmp_path / "two")))
