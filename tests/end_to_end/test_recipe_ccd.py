"""docs/recipes/ccd.md, command by command, on small simulated images and FITS frames."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from microseg_ray.settings import JOBS
from microseg_ray.simulation import simulate_micrograph
from microseg_ray.sources import read_mask
from tests.format_files import write_fits
from tests.recipe_pages import TINY, copy_configs, page_at, run_page

if TYPE_CHECKING:
    from pathlib import Path

PAGE = page_at("ccd.md")
FRAME = (330, 610)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture
def place(tmp_path, microseg, monkeypatch):
    """A repository with configs, the published images' place beside it, and two FITS frames of no round size."""
    repository = tmp_path / "repository"
    (repository / "frames").mkdir(parents=True)
    ran = microseg(
        *("simulate", "--preset", "ccd_v0", "--count", 12, "--size", 256, "--format", "png", "--colormap", "viridis"),
        *("--output", tmp_path / "v0"),
    )
    assert ran.code == 0, ran.err
    (tmp_path / "shared/data/ccd/v0").mkdir(parents=True)
    (tmp_path / "v0/images").rename(tmp_path / "shared/data/ccd/v0/train")
    for seed in (0, 1):
        frame = simulate_micrograph(FRAME, seed, preset="ccd_v2").image
        write_fits(repository / f"frames/{seed}.fits", frame if seed else frame.astype(np.float32))
    tiny = {**TINY, "train.crop": 64, "tune.trials": 2}
    del tiny["tile.tile"]
    copy_configs(PAGE, repository, {"configs/ccd_v0.yaml": tiny, "configs/ccd_v2.yaml": {**tiny, "simulate.count": 12}})
    monkeypatch.chdir(repository)
    return repository


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_session")
def test_the_search_of_the_page(place, microseg):
    assert microseg("simulate", "configs/ccd_v2.yaml").code == 0
    assert microseg("tile", "configs/ccd_v2.yaml").code == 0
    run_page(PAGE, microseg, {"tune"})
    assert len(rows_of(place / "runs/ccd_v2/tune/trials.csv")) == 2
    assert (place / "runs/ccd_v2/tune/best/model.json").is_file()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_command_of_the_page_but_the_search(place, microseg):
    ran = run_page(PAGE, microseg, set(JOBS) - {"tune"})
    assert {one.job for one in ran} == {
        *("annotate", "simulate", "tile", "train", "evaluate", "segment", "measure", "report")
    }
    runs = place / "runs"
    for name in ("ccd_v0", "ccd_v2"):
        folder = runs / name / "evaluation"
        document = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        assert document["micrographs"] == {"ccd_v0": 3, "ccd_v2": 2}[name]
        assert list(document["pooled"]["classes"]) == ["background", "glowing", "hot pixel", "cluster"]
        assert (folder / "curves.png").is_file()
        assert list((folder / "panels").rglob("*.png"))
    assert any("classification report" in one.out for one in ran if one.job == "evaluate")
    # Frames: whole by default, the right half on request, both with the list of sections.
    for number in (0, 1):
        whole = read_mask(runs / f"ccd_v2/frames/masks/{number}.fits.zarr")
        assert whole.shape == FRAME
        assert (whole != 255).all()
        assert read_mask(runs / f"ccd_v2/right/masks/{number}.fits.zarr").shape == (330, 305)
    for name, width in (("frames", 610), ("right", 305)):
        shares = rows_of(runs / "ccd_v2" / name / "percentages.csv")
        assert len(shares) == 8
        assert sum(float(row["percent"]) for row in shares) == pytest.approx(200, abs=1e-6)
        for row in rows_of(runs / "ccd_v2" / name / "sections.csv"):
            assert int(row["x0"]) + int(row["width"]) <= width
            assert row["class_name"] == {"frames": "hot pixel", "right": "cluster"}[name]


def test_the_page_names_every_option_of_the_original():
    text = PAGE.read_text(encoding="utf-8")
    options = (
        "pretrained_weights input_size weights activation dropout loss optimizer dilation_rate reg get_class get_weights wcce "
        "process_fits images_small2big percentage_result check_one_object"
    )
    assert [name for name in options.split() if f"`{name}" not in text] == []
