"""docs/recipes/mudrock.md, command by command, on micrographs of a quarter of the size."""

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from microseg_ray.runs.folder import Run
from microseg_ray.settings import JOBS
from microseg_ray.simulation import simulate_micrograph
from microseg_ray.tiles.store import TileStore
from tests.recipe_pages import copy_configs, page_at, run_page

PAGE = page_at("mudrock.md")
SIZE = (80, 96)
UNET = {"name": "unet", "width": 2, "depth": 2}
SMALL = {"train.batch": 2, "train.epochs": 1, "train.steps_per_epoch": 1, "train.workers": 0, "segment.workers": 0}
CHANGES = {
    "configs/mudrock.yaml": {
        **SMALL,
        "tile.tile": 32,
        "tile.overlap": 0,
        "tile.workers": 0,
        "tune.trials": 2,
        "tune.epochs": 1,
        "train.model": UNET,
        "tune.search": {"loss.dice": {"low": 0, "high": 1}},
        "train.precision": "fp32",
        "evaluate.pictures": 2,
        "tune.scheduler": "none",
    },
    "configs/mudrock_deeplab.yaml": {
        **SMALL,
        "tile.tile": 64,
        "tile.overlap": 0,
        "tile.workers": 0,
        "train.crop": 48,
        "train.model.encoder": "resnet50",
        "train.precision": "fp32",
        "evaluate.pictures": 1,
        "evaluate.precision": "fp32",
        "segment.precision": "fp32",
        "segment.archive": "../shared/data/mudrock/images/10_*.png",
        "segment.halo": 16,
        "evaluate.halo": 16,
    },
}


@pytest.fixture
def workspace(tmp_path_factory):
    """A repository's folder with `../shared/data/mudrock` beside it: samples 11, 13, 15 and three single micrographs."""
    root = tmp_path_factory.mktemp("mudrock")
    data, home = root / "shared/data/mudrock", root / "home"
    for folder in (data / "images", data / "labels", data / "mosaics", home / "VOC2012"):
        folder.mkdir(parents=True)
    names = [f"{sample}_{tile}" for sample in (11, 13, 15) for tile in (1, 2)] + ["10_1", "12_1", "14_1"]
    for seed, name in enumerate(names):
        made = simulate_micrograph(SIZE, seed, preset="mudrock")
        for view, step in (("a", (1, 1)), ("b", (1, -1)), ("c", (-1, 1))):
            for folder, pixels in (("images", made.image), ("labels", made.mask)):
                Image.fromarray(pixels[:: step[0], :: step[1]]).save(data / folder / f"{name}_{view}.png")
        if name.endswith("_1"):
            Image.fromarray(made.image).save(data / f"mosaics/{name}_images.png")
    voc = home / "VOC2012"
    (voc / "JPEGImages").mkdir()
    shutil.copytree(data / "labels", voc / "SegmentationClassAug")
    for path in (data / "images").iterdir():
        Image.open(path).save(voc / "JPEGImages" / f"{path.stem}.jpg", quality=95)
    stems = sorted(path.stem for path in (data / "images").iterdir())
    (voc / "val.txt").write_text("\n".join(stem for stem in stems if stem.startswith("13_")) + "\n", encoding="utf-8")
    train = [stem for stem in stems if not stem.startswith(("13_", "15_2"))]
    (voc / "train.txt").write_text("\n".join(train) + "\n", encoding="utf-8")
    return home


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("ray_session")
def test_the_commands_of_the_page_run_with_their_models(workspace, monkeypatch, microseg):
    """DeepLab and the search too, which tests/models and tests/on_ray cover at a smaller size."""
    monkeypatch.chdir(workspace)
    copy_configs(PAGE, workspace, CHANGES)
    assert "tune" in {one.job for one in run_page(PAGE, microseg)}


@pytest.mark.slow
def test_the_commands_of_the_page_run(workspace, monkeypatch, microseg):
    monkeypatch.chdir(workspace)
    deeplab = {key: value for key, value in CHANGES["configs/mudrock_deeplab.yaml"].items() if "encoder" not in key}
    copy_configs(PAGE, workspace, {**CHANGES, "configs/mudrock_deeplab.yaml": {**deeplab, "train.model": UNET}})
    ran = run_page(PAGE, microseg, JOBS.keys() - {"tune"})
    assert {one.job for one in ran} >= {"tile", "train", "segment", "evaluate", "catalog", "export"}

    runs, data = workspace / "runs", workspace.parent / "shared/data/mudrock"
    document = json.loads((runs / "mudrock/evaluation/metrics.json").read_text(encoding="utf-8"))
    assert set(document["pooled"]["classes"]) == {"clay", "silt", "pore"}
    assert list((runs / "mudrock/evaluation/overlays").iterdir())
    for folder in ("mudrock/mosaics", "mudrock_deeplab/mosaics"):
        run = Run.open(runs / folder)
        assert run.names()
        assert not run.failures()
    # The list of the validation set was predicted, and nothing else; masks lie on the micrographs' own pixels.
    listed = Run.open(runs / "voc/predicted")
    wanted = (workspace / "VOC2012/val.txt").read_text(encoding="utf-8").split()
    assert listed.names() == [f"JPEGImages/{stem}.jpg" for stem in wanted]
    assert {row["measured_pixel_count"] for row in listed.areas()} == {SIZE[0] * SIZE[1]}
    with (runs / "mudrock/lists.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    splits = {split: {row["group"] for row in rows if row["split"] == split} for split in ("train", "val", "test")}
    # 9 micrographs; 15 % and 5 % of them are one each.
    assert {split: len(groups) for split, groups in splits.items()} == {"train": 7, "val": 1, "test": 1}
    assert sum(len(groups) for groups in splits.values()) == len(set().union(*splits.values()))
    # Tiles of the VOC lists hold the very pixels of their files.
    store = TileStore.open(runs / "voc/tiles")
    row = store.table.to_pylist()[0]
    image = np.asarray(Image.open(workspace / "VOC2012/JPEGImages" / row["micrograph"].split("/")[-1]))
    label = np.asarray(Image.open(data / "labels" / f"{row['micrograph'].split('/')[-1][:-4]}.png"))
    place = np.s_[row["y0"] : row["y0"] + 64, row["x0"] : row["x0"] + 64]
    images, masks, _ = store.read([0])
    np.testing.assert_array_equal(images[0, 0], image[place])
    np.testing.assert_array_equal(masks[0], label[place])
