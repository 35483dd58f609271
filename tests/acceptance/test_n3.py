"""N3: a model of one training micrograph (spot7_180d_3) beats Otsu's threshold on the four test micrographs of another spot."""

from __future__ import annotations

import json
import shutil

import pytest

OTSU = (
    0.658  # micro-IoU on the same four micrographs with the polarity chosen by the truth (shared/reference/systems.md)
)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_one_training_micrograph_beats_otsu(real_data, tmp_path, microseg):
    home = real_data / "superalloy"
    for split, pattern in (("train", "spot7_180d_3*.tif"), ("test", "*.tif")):
        for kind in ("", "_annot"):
            folder = tmp_path / ("annotations" if kind else "images")
            folder.mkdir(exist_ok=True)
            for path in (home / f"{split}{kind}").glob(pattern):
                shutil.copy(path, folder)
    config = {
        "classes": ["matrix", "secondary", "tertiary"],
        "data": {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks"), "group": r"^(spot\d+)",
                 "splits": {"test": ["spot2"]}},
        "annotate": {"annotations": str(tmp_path / "annotations"), "annotation_suffix": "_mask", "format": "colors",
                     "colors": {"#0000ff": "secondary", "#ff0000": "tertiary"}, "other": "matrix",
                     "output": str(tmp_path / "masks")},
        "tile": {"output": str(tmp_path / "tiles"), "tile": 512, "overlap": 0, "workers": 0},
        # No validation split: one micrograph is all there is to learn from, and the test micrographs choose nothing.
        "train": {"tiles": str(tmp_path / "tiles"), "output": str(tmp_path / "model"), "epochs": 4, "steps_per_epoch": 25,
                  "batch": 4, "crop": 192, "precision": "fp32", "workers": 0, "threads": 1,
                  "model": {"name": "resunet", "width": 16, "depth": 3},
                  "optimizer": {"name": "adamw", "learning_rate": 3.0e-3, "schedule": "cosine", "warmup": 0.1},
                  "loss": {"cross_entropy": 1, "dice": 0.5},
                  "augment": {"rotate": 180, "scale": [0.8, 1.25], "brightness": 0.1, "contrast": 0.2}},
        "evaluate": {"checkpoint": str(tmp_path / "model/best"), "split": "test", "output": str(tmp_path / "evaluation"),
                     "precision": "fp32", "figures": False},
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    for job in ("annotate", "tile", "train", "evaluate"):
        ran = microseg(job, path)
        assert ran.code == 0, ran.err + ran.out[-2000:]
    document = json.loads((tmp_path / "evaluation/metrics.json").read_text(encoding="utf-8"))
    pooled = document["pooled"]
    micro = pooled["pixel_accuracy"] / (2 - pooled["pixel_accuracy"])
    ious = ", ".join(f"{name} {item['iou']:.4f}" for name, item in pooled["classes"].items())
    print(f"N3: one training micrograph, seed 0: micro-IoU {micro:.4f} (Otsu {OTSU}), {ious}")
    assert micro > OTSU
