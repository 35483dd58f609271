"""P11: a mosaic of 2000 x 1715 px: stitched equals one pass, and its IoU is that of its tiles."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore

CLASSES = '["clay", "silt", "pore"]'


def pooled(folder):
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["pooled"]


def test_the_metrics_of_a_mosaic_are_those_of_its_tiles(real_data, tmp_path, microseg):
    """The same predictions, as 25 files and as one: the same counts."""
    home = real_data / "mudrock"
    common = ("evaluate", "--classes", CLASSES, "--figures", "false")
    ran = microseg(
        *common, "--predictions", home / "seed_pred/15_*_a.png", "--masks", home / "labels/15_*_a.png",
        "--output", tmp_path / "tiles",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    ran = microseg(
        *common, "--predictions", home / "mosaics/15_seed_pred.png", "--prediction_suffix", "_seed_pred",
        "--masks", home / "mosaics/15_labels.png", "--mask_suffix", "_labels", "--output", tmp_path / "mosaic",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    tiles, mosaic = pooled(tmp_path / "tiles"), pooled(tmp_path / "mosaic")
    assert mosaic["mean_iou"] == pytest.approx(tiles["mean_iou"], abs=1e-12)
    assert mosaic["pixel_accuracy"] == pytest.approx(tiles["pixel_accuracy"], abs=1e-12)
    print(
        f"P11, the earlier system: mean IoU {tiles['mean_iou']:.4f} of 25 tiles, {mosaic['mean_iou']:.4f} as a mosaic"
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_mosaic_is_segmented_as_well_as_its_tiles(real_data, tmp_path, microseg):
    home = real_data / "mudrock"
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8") as file:
        rows = [
            (home / f"mosaics/{name}_images.png", home / f"mosaics/{name}_labels.png", name, "train")
            for name in (11, 13)
        ]
        csv.writer(file).writerows([("micrograph", "mask", "group", "split"), *rows])
    config = {
        "classes": json.loads(CLASSES),
        "data": {"table": str(tmp_path / "table.csv")},
        "tile": {"output": str(tmp_path / "tiles"), "tile": 512, "overlap": 0, "workers": 0},
        "train": {"tiles": str(tmp_path / "tiles"), "output": str(tmp_path / "model"), "epochs": 3, "steps_per_epoch": 30,
                  "batch": 4, "crop": 160, "precision": "fp32", "workers": 0, "threads": 1,
                  "model": {"name": "unet", "width": 12, "depth": 3},
                  "optimizer": {"name": "adamw", "learning_rate": 3.0e-3, "schedule": "cosine"},
                  "loss": {"cross_entropy": 1, "dice": 0.5}},
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    for job in ("tile", "train"):
        ran = microseg(job, path)
        assert ran.code == 0, ran.err + ran.out[-2000:]
    best = tmp_path / "model/best"
    common = ("--checkpoint", best, "--precision", "fp32", "--figures", "false")
    mosaic = home / "mosaics/15_images.png"
    for name, arguments in {
        "per_tile": ("--images", home / "images/15_*_a.png", "--masks", home / "labels/15_*_a.png"),
        "whole": (
            "--images",
            mosaic,
            "--image_suffix",
            "_images",
            "--masks",
            home / "mosaics/15_labels.png",
            "--mask_suffix",
            "_labels",
        ),
    }.items():
        ran = microseg("evaluate", *common, *arguments, "--output", tmp_path / name)
        assert ran.code == 0, ran.err + ran.out[-2000:]
    masks = {}
    for name, tile in (("stitched", 512), ("one_pass", 2112)):
        ran = microseg(
            "segment", "--archive", mosaic, "--checkpoint", best, "--output", tmp_path / name, "--precision", "fp32",
            "--workers", 0, "--tile", tile,
        )  # fmt: skip
        assert ran.code == 0, ran.err + ran.out[-2000:]
        masks[name] = np.asarray(MaskStore.open(Run.open(tmp_path / name).store_path("15_images.png")).mask[:])
    disagreement = float(np.mean(masks["stitched"] != masks["one_pass"]))
    per_tile, whole = pooled(tmp_path / "per_tile"), pooled(tmp_path / "whole")
    for name, values in (("25 tiles", per_tile), ("mosaic", whole)):
        print(f"P11, {name}: mean IoU {values['mean_iou']:.4f}, accuracy {values['pixel_accuracy']:.4f}")
    print(f"P11: stitched and one pass disagree in {disagreement:.6f} of the pixels")
    assert disagreement <= 0.001
    # A mosaic gives each pixel its surroundings, so that it may be better than the tiles; it is not worse.
    assert whole["mean_iou"] >= per_tile["mean_iou"] - 0.005
