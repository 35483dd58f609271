"""docs/recipes/defects.md, command by command, on micrographs of 256 x 256 px."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from microseg_ray.catalog import read_table
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import JOBS
from tests.recipe_pages import copy_configs, page_at, run_page

PAGE = page_at("defects.md")
SIZE = 256
CHANGES = {
    "configs/defects.yaml": {
        "simulate.size": SIZE,
        "tile.tile": 64,
        "tile.workers": 0,
        "train.crop": 40,
        "train.batch": 4,
        "train.epochs": 2,
        "train.steps_per_epoch": 2,
        "train.workers": 0,
        "train.precision": "fp32",
        "tune.trials": 2,
        "tune.epochs": 1,
        "segment.workers": 0,
        "evaluate.figures": False,
    },
}


@pytest.fixture
def workspace(tmp_path_factory):
    """An empty repository's folder with DefectSegNet's folders in it, one micrograph a split and two to train."""
    home = tmp_path_factory.mktemp("defects")
    for number, name in enumerate(("train/1_hidose1", "train/2_hidose1", "val/val_hidose1", "test/test_lodose2")):
        split, stem = name.split("/")
        pixels = np.random.default_rng(number).integers(0, 255, (48, 64), np.uint8)
        for folder, own, array in (
            (split, f"{stem}_void", pixels),
            (f"{split}_labels", f"{stem}_void_lab", (pixels > 200).astype(np.uint8) * (number + 99)),
        ):
            (home / "steel" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(home / "steel" / folder / f"{own}.png")
    return home


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ray_session")
def test_the_commands_of_the_page_run_with_their_model(workspace, monkeypatch, microseg):
    """DefectSegNet and the search too, which tests/models and tests/on_ray cover at a smaller size."""
    monkeypatch.chdir(workspace)
    copy_configs(PAGE, workspace, CHANGES)
    assert "tune" in {one.job for one in run_page(PAGE, microseg)}
    with (workspace / "runs/defects/tune/trials.csv").open(encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 2


@pytest.mark.slow
def test_the_commands_of_the_page_run(workspace, monkeypatch, microseg):
    monkeypatch.chdir(workspace)
    small = {**CHANGES["configs/defects.yaml"], "train.model": {"name": "unet", "width": 2, "depth": 2}}
    copy_configs(PAGE, workspace, {"configs/defects.yaml": small})
    ran = run_page(PAGE, microseg, JOBS.keys() - {"tune"})
    assert {one.job for one in ran} >= {"simulate", "divide", "tile", "train", "segment", "evaluate", "threshold"}

    runs = workspace / "runs"
    # 2 micrographs x 3 regions x 8 symmetries train; nothing else is augmented.
    rows = read_table(runs / "defects/divided/catalog.csv")
    assert [sum(row.split == split for row in rows) for split in ("train", "val", "test")] == [48, 2, 2]
    # A map of each class and micrograph, as high and wide as the micrograph.
    maps = sorted((runs / "defects/probabilities/maps").glob("*.csv"))
    assert len(maps) == 2 * 4
    void = np.loadtxt(runs / "defects/probabilities/maps/steel_0000_void.csv")
    assert void.shape == (SIZE, SIZE)
    assert 0 <= void.min() <= void.max() <= 1
    # The map's mask and the run's are one.
    mask = np.asarray(Image.open(runs / "defects/voids/masks/steel_0000_void.png"))
    store = MaskStore.open(Run.open(runs / "defects/voids_run").store_path("steel_0000.tif"))
    np.testing.assert_array_equal(mask, np.asarray(store.mask[:]))
    np.testing.assert_array_equal(mask, void > 0.5)
    document = json.loads((runs / "defects/evaluation/metrics.json").read_text(encoding="utf-8"))
    assert set(document["pooled"]["classes"]) == {"matrix", "dislocation", "precipitate", "void"}
    assert document["calibration"]["split"] == "val"
    binary = json.loads((runs / "void/evaluation/metrics.json").read_text(encoding="utf-8"))
    assert set(binary["pooled"]["classes"]) == {"rest", "void"}
    folders = read_table(runs / "folders/catalog.csv")
    assert sorted((row.split, row.group) for row in folders) == [
        ("test", "test"), ("train", "1"), ("train", "2"), ("val", "val")
    ]  # fmt: skip
    label = np.asarray(Image.open(workspace / "steel/val_labels/val_hidose1_void_lab.png"))
    made = next(row.mask for row in folders if row.split == "val")
    np.testing.assert_array_equal(np.asarray(Image.open(made)), label > 0)
