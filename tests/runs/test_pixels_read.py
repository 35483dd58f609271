"""Progress of the steps of `measure`: it rises to its total, within a micrograph too, whatever cannot be read."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from microseg_ray.runs.damage import damaged
from microseg_ray.runs.intervals import measure_intervals
from microseg_ray.runs.objects import measure_objects
from microseg_ray.runs.structure import measure_structure
from microseg_ray.settings import ClassSpec, ObjectSettings
from tests.finished_runs import finished_run

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="grain"))
SHAPES = {"a.tif": (60, 90), "b.tif": (40, 50), "broken.tif": (20, 20), "unfinished.tif": (30, 30)}
MEASURED = 60 * 90 + 40 * 50


@pytest.fixture
def run(tmp_path):
    masks = {name: np.random.default_rng(1).integers(0, 2, shape, np.uint8) for name, shape in SHAPES.items()}
    made = finished_run(
        tmp_path,
        CLASSES,
        {name: (mask, None) for name, mask in masks.items()},
        shard=32,
        unfinished=("unfinished.tif",),
    )
    (made.store_path("broken.tif") / "zarr.json").write_text("{")
    return made


def intervals(run, report):
    return measure_intervals(run, lambda _: "", report=report)


def structure(run, report):
    return measure_structure(run, intervals(run, lambda *_: None).scopes, report)


def objects(run, report):
    return measure_objects(run, ObjectSettings(labels=True), report)


@pytest.mark.parametrize(("step", "passes"), [(intervals, 1), (structure, 3), (objects, 2)])
def test_a_step_reports_the_pixels_it_has_done(run, step, passes):
    seen = []
    step(run, lambda *each: seen.append(each))
    done = [each for each, _ in seen]
    assert {total for _, total in seen} == {passes * MEASURED}
    assert done[0] == 0
    assert done[-1] == passes * MEASURED
    assert all(a <= b for a, b in pairwise(done))
    assert any(0 < each < passes * 60 * 90 for each in done), "the bar moves while the first micrograph is measured"


def test_masks_are_counted_while_they_are_checked(run):
    seen = []
    found = list(damaged(run, lambda *each: seen.append(each)))
    assert [each.path for each in found] == ["broken.tif"]
    assert seen == [(number, 4) for number in range(5)]


def test_the_job_shows_what_it_does(run, microseg):
    done = microseg("measure", "--run", run.folder, "--intervals.measure", "true", "--objects.measure", "true")
    assert done.code == 3, done.err
    for line in ("masks checked: 4 of 4", "intervals, Mpx: 1 of 1", "objects, Mpx: 1 of 1"):
        assert line in done.out
