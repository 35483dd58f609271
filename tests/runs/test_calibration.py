"""One run, one calibration: a pixel size that was given once is kept, and no size is written that the model was not used at."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from microseg_ray.runs.calibration import keep_calibration
from microseg_ray.runs.folder import Run
from microseg_ray.runs.segment import segment
from microseg_ray.settings import SegmentSettings


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    """The tiny model, trained at 0.5 um."""
    model = tmp_path_factory.mktemp("trained") / "best"
    shutil.copytree(checkpoint, model)
    document = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**document, "pixel_size_um": [0.5, 0.5]}))
    return model


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (64, 80), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


def settings(archive, checkpoint, output, **options):
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "shard": 64, "workers": 0}
    return SegmentSettings(**{**chosen, **options})


def sizes(areas):
    return {row.micrograph: row.pixel_size_um_y for row in areas}


@pytest.fixture(scope="module")
def made(images, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "run"
    segment(settings(images, trained, folder, pixel_size_um=0.5))
    return folder


@pytest.fixture
def run_folder(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def test_a_second_segment_keeps_the_pixel_size_of_the_first(images, trained, tmp_path, run_folder):
    grown = tmp_path / "grown"
    shutil.copytree(images, grown)
    shutil.copy(images / "a.png", grown / "c.png")
    again = segment(settings(grown, trained, run_folder))
    assert sizes(again.areas) == {"a.png": 0.5, "b.png": 0.5, "c.png": 0.5}
    assert {row.pixel_size_source for row in again.areas} == {"option pixel_size_um"}
    assert again.note == "pixel size: 0.5 x 0.5 um, kept from before in this run"
    assert again.run.document["calibration"]["pixel_size_um"] == [0.5, 0.5]


def test_a_pixel_size_that_is_given_holds_for_all(images, trained, run_folder):
    again = segment(settings(images, trained, run_folder, pixel_size_um=0.52))
    assert sizes(again.areas) == {"a.png": 0.52, "b.png": 0.52}
    assert again.ledger.computed == 0
    assert again.note == ""


def test_what_measure_wrote_is_kept_by_segment(images, trained, run_folder, microseg):
    assert microseg("measure", "--run", run_folder, "--pixel_size_um", "0.48").code == 0
    kept, note = keep_calibration(settings(images, trained, run_folder))
    assert kept.pixel_size_um == (0.48, 0.48)
    assert "0.48" in note
    assert keep_calibration(settings(images, trained, run_folder, overwrite=True))[1] == ""


def test_measure_refuses_a_size_at_which_the_model_would_have_refused(run_folder, microseg):
    before = {row["micrograph"]: row["area_um2"] for row in Run.open(run_folder).areas()}
    ran = microseg("measure", "--run", run_folder, "--pixel_size_um", "5")
    assert ran.code != 0
    assert "a.png, b.png" in ran.err + ran.out
    assert "segment these again" in ran.err + ran.out
    assert {row["micrograph"]: row["area_um2"] for row in Run.open(run_folder).areas()} == before


def test_measure_of_a_rescaled_run_keeps_the_mark(images, trained, tmp_path, microseg):
    folder = tmp_path / "run"
    options = {"pixel_size_um": 0.25, "on_scale_mismatch": "rescale"}
    first = segment(settings(images / "a.png", trained, folder, **options))
    assert first.areas[0].pixel_size_source == "option pixel_size_um, rescaled"
    assert microseg("measure", "--run", folder, "--pixel_size_um", "0.25").code == 0
    assert Run.open(folder).areas()[0]["pixel_size_source"] == "option pixel_size_um, rescaled"
    ran = microseg("measure", "--run", folder, "--pixel_size_um", "0.3")
    assert ran.code != 0, "at 0.3 um the micrograph would have been rescaled to another grid"
    assert "a.png" in ran.err + ran.out
