"""D10: a search of 20 trials is stored whole, and its best is not below the settings that `train` has by default."""

from __future__ import annotations

import csv
import json

import pyarrow.parquet as pq
import pytest

SEARCH = {
    "optimizer.learning_rate": {"low": 1e-4, "high": 3e-2, "log": True},
    "optimizer.weight_decay": {"low": 0.0, "high": 0.1},
    "optimizer.warmup": {"low": 0.0, "high": 0.5},
    "loss.dice": {"low": 0.0, "high": 1.0},
    "augment.contrast": {"low": 0.0, "high": 0.4},
    "augment.brightness": {"low": 0.0, "high": 0.4},
    "augment.noise": {"low": 0.0, "high": 0.2},
}


def rows_of(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
@pytest.mark.usefixtures("ray_session")
def test_twenty_trials_are_stored_and_the_best_is_not_below_the_default(tmp_path, pairs, microseg):
    train = {"epochs": 3, "steps_per_epoch": 6, "batch": 4, "precision": "fp32", "model": {"width": 4, "depth": 1},
             "loss": {"cross_entropy": 1}}  # fmt: skip
    config = {
        "classes": ["matrix", "grain", "pore"],
        "data": {"images": str(pairs / "images"), "masks": str(pairs / "masks"), "group": "^([0-9]+)_",
                 "splits": {"val": ["1"], "test": ["3"]}},
        "tile": {"output": str(tmp_path / "tiles"), "tile": 32, "overlap": 0, "workers": 0},
        "train": {"tiles": str(tmp_path / "tiles"), "output": str(tmp_path / "default"), "workers": 0, **train},
        "tune": {"output": str(tmp_path / "sweep"), "algorithm": "cmaes", "trials": 20, "concurrent": 2, "search": SEARCH},
        "evaluate": {"checkpoint": str(tmp_path / "sweep/best"), "split": "test", "output": str(tmp_path / "test"),
                     "figures": False, "precision": "fp32"},
    }  # fmt: skip
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    for job in ("tile", "train", "tune", "evaluate"):
        ran = microseg(job, path)
        assert ran.code == 0, ran.err + ran.out[-2000:]
    trials = rows_of(tmp_path / "sweep/trials.csv")
    assert (
        len(trials)
        == len({row["trial"] for row in trials})
        == pq.read_table(tmp_path / "sweep/trials.parquet").num_rows
    )
    assert len(trials) == 20
    assert set(SEARCH) <= set(trials[0])
    scores = [float(row["mean_iou"]) for row in trials]
    default = max(float(row["val_mean_iou"]) for row in rows_of(tmp_path / "default/metrics.csv"))
    test = json.loads((tmp_path / "test/metrics.json").read_text(encoding="utf-8"))["pooled"]["mean_iou"]
    print(
        f"D10: 20 trials stored; val mean IoU best {max(scores):.4f}, default {default:.4f}; test of the best {test:.4f}"
    )
    assert scores == sorted(scores, reverse=True)
    assert scores[0] >= default
