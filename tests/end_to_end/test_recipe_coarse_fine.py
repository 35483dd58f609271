"""docs/recipes/coarse_fine.md, command by command, on small pictures."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.recipe_pages import copy_configs, page_at, run_page

PAGE = page_at("coarse_fine.md")
SMALL = {
    "classifier.epochs": 1,
    "classifier.threads": 1,
    "classifier.model": {"height": 48, "width": 64},
}
CHANGES = {
    "configs/coarse_fine.yaml": SMALL,
    "configs/coarse_fine_hard.yaml": {**SMALL, "simulate.count": 12, "simulate.size": [96, 128]},
}


def picture(seed: int, period: int) -> Image.Image:
    """Random squares of a side of `period` px, 96 x 128 px in all."""
    cells = np.random.default_rng([seed, period]).integers(40, 216, (96 // period + 1, 128 // period + 1), np.uint8)
    return Image.fromarray(np.kron(cells, np.ones((period, period), np.uint8))[:96, :128])


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """A repository's folder with the pictures beside it; picture 2 of each class is in both splits."""
    data, home = tmp_path / "shared/data/grains", tmp_path / "repository"
    for split, numbers in (("train", range(3)), ("test", range(2, 4))):
        for name, period in (("coarse", 24), ("fine", 6)):
            (data / split / name).mkdir(parents=True)
            for number in numbers:
                picture(number, period).save(data / split / name / f"{number}.png")
    (home / "new_pictures").mkdir(parents=True)
    picture(9, 6).save(home / "new_pictures/a.png")
    monkeypatch.chdir(home)
    return home


@pytest.mark.slow
def test_the_commands_of_the_page_run(workspace, microseg):
    copy_configs(PAGE, workspace, CHANGES)
    ran = run_page(PAGE, microseg, codes={"audit": 1})
    assert {one.job for one in ran} == {"audit", "classifier", "classify", "simulate"}
    # The audit names the picture that is in both splits.
    assert "2.png" in next(one.out for one in ran if one.job == "audit")
    runs = workspace / "runs/coarse_fine"
    with (runs / "new/classes.csv").open(encoding="utf-8") as file:
        assert [row["micrograph"] for row in csv.DictReader(file)] == ["a.png"]
    judged = json.loads((runs / "classes/metrics.json").read_text(encoding="utf-8"))
    assert judged["micrographs"] == 4
