"""docs/recipes/fractography.md, command by command, on simulated surfaces that were annotated with VIA."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from microseg_ray.settings import JOBS
from microseg_ray.sources import read_mask
from tests.recipe_pages import TINY, commands, copy_configs, page_at, run_page

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page_at("fractography.md")
SIDE = 128


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def shape_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def outlines(mask: np.ndarray, value: int, name: str) -> list[dict[str, object]]:
    """The facets of one class as somebody would have drawn them with VIA's polygon tool."""
    from skimage.measure import approximate_polygon, find_contours

    drawn = []
    for outline in find_contours(np.pad(mask == value, 1).astype(float), 0.5):
        points = (approximate_polygon(outline, 0.7) - 1).round().clip(0, SIDE - 1).astype(int)
        if len(points) > 3:
            shape = {"name": "polygon", "all_points_x": points[:, 1].tolist(), "all_points_y": points[:, 0].tolist()}
            drawn.append({"shape_attributes": shape, "region_attributes": {"name": name}})
    return drawn


@pytest.fixture
def place(tmp_path, microseg, monkeypatch):
    """A repository with configs, and beside it the micrographs that the configs name, with VIA's file."""
    data = tmp_path / "shared/data/fracture"
    data.mkdir(parents=True)
    ran = microseg(
        *("simulate", "--preset", "facets", "--count", 8, "--size", SIDE, "--seed", 4, "--format", "png"),
        *("--imaging.info_bar", 0, "--output", tmp_path / "drawn"),
    )
    assert ran.code == 0, ran.err
    project = {}
    for number, path in enumerate(sorted((tmp_path / "drawn/images").iterdir())):
        # As the public micrographs are: JPEG, and not all of one size.
        cut = slice(0, SIDE - 24 * (number == 7))
        with Image.open(path) as image:
            Image.fromarray(np.asarray(image)[cut]).save(data / f"{path.stem}.jpg", quality=95)
        mask = read_mask(tmp_path / "drawn/masks" / path.name)[cut]
        regions = outlines(mask, 2, "i") + outlines(mask, 1, "t")
        project[f"{path.stem}.jpg1"] = {"filename": f"{path.stem}.jpg", "size": 1, "regions": regions}
    (data / "via_region_data.json").write_text(json.dumps(project), encoding="utf-8")
    repository = tmp_path / "repository"
    repository.mkdir()
    tiny = {**TINY, "tune.search": {"optimizer.name": ["adam", "rmsprop", "adadelta", "sgd"]}}
    changes = {
        "configs/fractography.yaml": tiny,
        "configs/facets.yaml": {**tiny, "simulate.count": 6, "simulate.size": SIDE},
    }
    copy_configs(PAGE, repository, changes)
    monkeypatch.chdir(repository)
    return repository


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_the_search_of_the_page(place, microseg):
    """Acceptance F5: all four optimizers. A trial is a process of its own, which takes its time to start."""
    run_page(PAGE, microseg, {"simulate", "annotate", "tile", "tune"})
    tried = {row["optimizer.name"] for row in rows_of(place / "runs/fractography/tune/trials.csv")}
    assert tried == {"adam", "rmsprop", "adadelta", "sgd"}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_page_but_the_search(place, microseg):
    jobs = {one.job for one in run_page(PAGE, microseg, set(JOBS) - {"tune"})}
    assert jobs == {
        *("annotate", "catalog", "tile", "train", "evaluate", "plan", "segment", "measure", "report"),
        "simulate",
    }
    runs = place / "runs/fractography"
    masks = {path.name: read_mask(path) for path in (runs / "masks").glob("*.png")}
    assert len(masks) == 8
    assert {int(value) for mask in masks.values() for value in np.unique(mask)} == {0, 1, 2}
    # The whole way from what was drawn to the masks keeps nearly every pixel: outlines are simplified by 0.7 px.
    drawn = read_mask(place.parent / "drawn/masks/facets_0000.png")
    assert (masks["facets_0000.png"] == drawn).mean() > 0.9
    history = rows_of(runs / "model/metrics.csv")
    assert [row["epoch"] for row in history] == ["1", "2"]
    assert list((runs / "model/events").iterdir())
    longer = rows_of(runs / "longer/metrics.csv")
    assert longer[-1]["epoch"] == "20"
    assert [row["loss"] for row in longer[:2]] == [row["loss"] for row in history]
    check_run(place, runs / "run")


def check_run(place: Path, run: Path) -> None:
    """Acceptance F9 and F10: masks of any size, overlays, areas, percentages."""
    archive = place.parent / "shared/data/fracture"
    images = sorted(archive.glob("*.jpg"))
    sizes = {path.name: shape_of(path) for path in images}
    assert len(set(sizes.values())) == 2
    areas = rows_of(run / "areas.csv")
    shares = rows_of(run / "percentages.csv")
    assert len(areas) == len(shares) == 3 * len(images)
    for name, shape in sizes.items():
        mask = read_mask(run / "masks" / f"{name}.zarr")
        assert mask.shape == shape
        counts = np.bincount(mask.ravel(), minlength=3)
        own = [row for row in areas if row["micrograph"] == name]
        assert [int(row["pixel_count"]) for row in own] == counts.tolist()
        assert [float(row["area_um2"]) for row in own] == pytest.approx((counts * 0.25**2).tolist())
        assert sum(float(row["percent"]) for row in shares if row["micrograph"] == name) == pytest.approx(100, abs=1e-6)
        assert shape_of(run / "overlays" / f"{name}.png") == shape
    assert sorted(archive.iterdir()) == [*images, archive / "via_region_data.json"], "something was written there"
    assert (run / "report.html").is_file()


def test_the_page_names_every_option_of_the_original():
    text = PAGE.read_text(encoding="utf-8")
    options = (
        "save_weights_path train_images train_annotations logs n_classes input_height input_width val_images "
        "val_annotations start_epoch end_epoch batch_size val_batch_size load_weights optimizer_name init_learning_rate "
        "epoch_steps test_images output_path"
    )
    assert [name for name in options.split() if f"`{name}`" not in text] == []
    assert commands(PAGE)[0] == ("annotate", "configs/fractography.yaml")
