"""Validation looks at images and their masks, and at nothing else; the first of the earlier systems looked at masks twice."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.on_ray.fits import train
from microseg_ray.on_ray.rows import tile
from microseg_ray.settings import TileSettings, TrainSettings
from microseg_ray.tiles.store import TileStore


def fit(folder):
    """One epoch on pairs of which group 1 validates."""
    tile(
        TileSettings(
            images=f"{folder}/images",
            masks=f"{folder}/masks",
            output=f"{folder}/tiles",
            classes=["matrix", "grain", "pore"],
            tile=32,
            overlap=0,
            workers=0,
            group=r"^(\d+)_",
            splits={"val": ["1"]},
        )
    )
    return train(
        TrainSettings(
            tiles=f"{folder}/tiles",
            output=f"{folder}/fit",
            epochs=1,
            batch=4,
            steps_per_epoch=12,
            workers=0,
            threads=1,
            model={"name": "unet", "width": 4, "depth": 2},
            optimizer={"learning_rate": 1e-2},
        )
    )


def test_validation_images_count_and_their_labels_stay_whole_numbers(new_pairs, tmp_path):
    """Acceptance F8: with noise in place of the validation images the fit is the same and the score another."""
    before = torch.get_num_threads()
    for name in ("real", "noise"):
        new_pairs(tmp_path / name)
    generator = np.random.default_rng(0)
    for path in sorted((tmp_path / "noise/images").glob("1_*.png")):
        Image.fromarray(generator.integers(0, 256, (96, 80), dtype=np.uint8)).save(path)
    real, noise = fit(tmp_path / "real"), fit(tmp_path / "noise")
    torch.set_num_threads(before)
    (row,), (other,) = real.history, noise.history
    assert row["loss"] == other["loss"]
    assert float(other["pixel_accuracy"]) < float(row["pixel_accuracy"])
    first, second = (load_checkpoint(fitted.last)[0].state_dict() for fitted in (real, noise))
    assert all(torch.equal(first[key], second[key]) for key in first)
    # The strip of 255 is there, and nothing lies between two classes.
    store = TileStore.open(tmp_path / "noise/tiles")
    _, masks, _ = store.read(store.rows("val"))
    assert np.unique(masks).tolist() == [0, 1, 2, 255]
