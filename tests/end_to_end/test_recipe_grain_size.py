"""docs/recipes/grain_size.md, command by command, on micrographs of 192 x 192 px."""

import csv
import math

import numpy as np

from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from tests.recipe_pages import copy_configs, page_at, run_page

PAGE = page_at("grain_size.md")
SMALL = {
    "simulate.count": 4,
    "simulate.size": 192,
    "tile.tile": 64,
    "tile.workers": 0,
    "train.epochs": 1,
    "train.steps_per_epoch": 12,
    "train.workers": 0,
    "train.threads": 1,
    "train.model": {"name": "unet", "width": 8, "depth": 2},
    "segment.workers": 0,
}


def boundaries_per_length(mask):
    """Boundaries on all rows, columns and diagonals per pixel of line, by walking each line; one cut at its end counts half."""
    found = {}
    for direction, lines in (
        ("x", list(mask)),
        ("y", list(mask.T)),
        ("down", [mask.diagonal(k) for k in range(-mask.shape[0] + 1, mask.shape[1])]),
        ("up", [mask[:, ::-1].diagonal(k) for k in range(-mask.shape[0] + 1, mask.shape[1])]),
    ):
        crossings = sum(int((line[1:] != line[:-1]).sum()) for line in lines)
        step = 1 if direction in {"x", "y"} else math.sqrt(2)
        found[direction] = crossings / 2 / (mask.size * step)
    return sum(found.values()) / 4


def test_the_commands_of_the_page_run(tmp_path, monkeypatch, microseg):
    monkeypatch.chdir(tmp_path)
    copy_configs(PAGE, tmp_path, {"configs/grain_size.yaml": SMALL})
    ran = run_page(PAGE, microseg)
    printed = next(one.out for one in ran if one.job == "measure")
    run = Run.open(tmp_path / "runs/grain_size/run")
    masks = [np.asarray(MaskStore.open(run.store_path(name)).mask[:]) for name in run.names()]
    assert len(masks) == 6
    assert all((mask == 1).any() for mask in masks), "the model found no boundary: train it longer"
    lengths = np.array([1 / boundaries_per_length(mask) for mask in masks])
    with (run.folder / "stereology.csv").open(encoding="utf-8") as file:
        rows = {row["quantity"]: row for row in csv.DictReader(file) if row["class_name"] == "boundary"}
    # The true pixel is 1 um.
    np.testing.assert_allclose(float(rows["mean_grain_intercept"]["mean"]), lengths.mean())
    # Student's t for 5 degrees of freedom, of a table.
    half = 2.5706 * lengths.std(ddof=1) / math.sqrt(6)
    number = -6.643856 * math.log10(lengths.mean() / 1000) - 3.288
    np.testing.assert_allclose(float(rows["grain_size_number"]["mean"]), number, atol=1e-4)
    ends = [-6.643856 * math.log10(length / 1000) - 3.288 for length in (lengths.mean() + half, lengths.mean() - half)]
    np.testing.assert_allclose([float(rows["grain_size_number"][key]) for key in ("low", "high")], ends, atol=1e-3)
    assert f"ASTM grain size number G {number:.2f}" in printed
    assert "ASTM E930 G of the largest grain" in printed
    assert "grain size number" in (run.folder / "tables.md").read_text(encoding="utf-8")
    assert (run.folder / "report.html").is_file()
