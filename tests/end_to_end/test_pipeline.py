"""From simulated micrographs to areas through the command line, with one config: every job finds what the last one left."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch

from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.sources import read_mask

CONFIG = """
classes: [matrix, grain, pore]
data:
  images: {root}/archive/images
  masks: {root}/archive/masks
  splits: {{test: 0.25, val: 0.25}}
tile: {{output: {root}/tiles, tile: 64, overlap: 16, workers: {workers}}}
train:
  tiles: {root}/tiles
  output: {root}/model
  epochs: 5
  batch: 8
  steps_per_epoch: 20
  workers: {train_workers}
  threads: 1
  model: {{width: 6, depth: 2}}
  optimizer: {{learning_rate: 1.0e-2}}
segment: {{archive: {root}/archive/images, checkpoint: {root}/model/best, output: {root}/run, workers: {workers}, shard: 128}}
evaluate: {{checkpoint: {root}/model/best, split: test, output: {root}/evaluation}}
measure: {{run: {root}/run}}
"""


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def go_through(microseg, root, workers, train_workers):
    ran = microseg("simulate", "--output", root / "archive", "--count", 4, "--size", 256, "--seed", 3)
    assert ran.code == 0, ran.err
    config = root / "c.yaml"
    config.write_text(CONFIG.format(root=root, workers=workers, train_workers=train_workers))
    printed = {}
    for job in ("tile", "train", "segment", "evaluate", "measure"):
        ran = microseg(job, config)
        assert ran.code == 0, (job, ran.err, ran.out)
        printed[job] = ran.out
    return printed


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_from_micrographs_to_areas(microseg, tmp_path, one_thread):
    printed = go_through(microseg, tmp_path, 0, 0)
    names = sorted(path.name for path in (tmp_path / "archive/images").iterdir())
    assert len(names) == 4
    for line in ("train", "test", "val"):
        assert line in printed["tile"]
    assert "checkpoints:" in printed["train"]
    areas = rows_of(tmp_path / "run/areas.csv")
    assert [row["micrograph"] for row in areas] == [name for name in names for _ in range(3)]
    for row in areas:
        mask = np.asarray(MaskStore.open(tmp_path / "run/masks" / f"{row['micrograph']}.zarr").mask[:])
        index = ["matrix", "grain", "pore"].index(row["class_name"])
        assert int(row["pixel_count"]) == np.count_nonzero(mask == index)
        assert int(row["measured_pixel_count"]) == 256 * 256
    document = json.loads((tmp_path / "evaluation/metrics.json").read_text())
    assert document["micrographs"] == 1
    assert document["pooled"]["pixel_accuracy"] > 0.7, "it did not learn"
    assert "classification report" in printed["evaluate"]
    # What evaluate predicts is what segment wrote.
    tested = rows_of(tmp_path / "evaluation/per_image.csv")[0]["micrograph"]
    truth = read_mask(next((tmp_path / "archive/masks").glob(f"{tested.partition('.')[0]}*")))
    guess = read_mask(tmp_path / "run/masks" / f"{tested}.zarr")
    expected = [[int(((truth == row) & (guess == column)).sum()) for column in range(3)] for row in range(3)]
    assert document["confusion_matrix"] == expected
    again = microseg("segment", tmp_path / "c.yaml")
    assert again.code == 0
    assert "0 shards computed, 4 micrographs were complete already" in again.out


@pytest.mark.slow
@pytest.mark.ray
def test_on_ray_the_same_bytes(microseg, tmp_path, tree_of, ray_session, one_thread):
    """Law 6: Ray only says when. Tiles, weights, masks and tables of an embedded Ray are those of the plain loops."""
    (tmp_path / "x").mkdir()
    go_through(microseg, tmp_path / "x", 0, 0)
    plain = {part: tree_of(tmp_path / "x" / part) for part in ("tiles", "run/masks", "evaluation")}
    weights = (tmp_path / "x/model/best/model.safetensors").read_bytes()
    areas = rows_of(tmp_path / "x/run/areas.csv")
    (tmp_path / "x").rename(tmp_path / "plain")
    (tmp_path / "x").mkdir()
    go_through(microseg, tmp_path / "x", 2, 1)
    assert (tmp_path / "x/model/best/model.safetensors").read_bytes() == weights
    for part, tree in plain.items():
        now = tree_of(tmp_path / "x" / part)
        assert now.keys() == tree.keys()
        # What a mask is bound to names the time of its input; the pixels are what must be equal.
        assert {
            name for name in tree if tree[name] != now[name] and not name.endswith(("zarr.json", "tiles.parquet"))
        } == set()
    assert rows_of(tmp_path / "x/run/areas.csv") == areas
