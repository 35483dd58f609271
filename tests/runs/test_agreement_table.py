"""The intensities table of docs/agreement.md: what segment, plan and info do with the same micrograph in six forms."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile

from microseg_ray.settings import PlanSettings, Scaling, SegmentSettings
from microseg_ray.sources.agreement import FLOAT_SLACK, Intensities, intensity_note, intensity_objection

GRAY = np.random.default_rng(0).integers(40, 255, (80, 96)).astype(np.uint8)
FORMS = {
    "uint8": (GRAY, ""),
    "12-bit in uint16": ((GRAY.astype(np.uint32) * 4095 // 255).astype(np.uint16), "take 12 of the 16 bits of uint16"),
    "8-bit in uint16": (GRAY.astype(np.uint16), "take 8 of the 16 bits of uint16"),
    "16-bit": (GRAY.astype(np.uint16) * 257, ""),
    "float 0 to 255": (GRAY.astype(np.float32), "float intensities go from 40 to 254"),
    "float 0 to 1": ((GRAY / 255).astype(np.float32), ""),
}


@pytest.fixture(scope="module")
def trained(checkpoint, tmp_path_factory):
    """The tiny model, whose card says that it was trained on 8-bit images."""
    model = tmp_path_factory.mktemp("trained") / "best"
    shutil.copytree(checkpoint, model)
    document = json.loads((model / "model.json").read_text())
    intensities = Intensities.of("uint8", 254, GRAY / 255).model_dump()
    (model / "model.json").write_text(json.dumps({**document, "intensities": intensities}))
    return model


@pytest.mark.parametrize(("pixels", "objection"), FORMS.values(), ids=FORMS)
def test_info_and_plan_say_what_segment_would_stop_at(pixels, objection, trained, tmp_path, microseg):
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    ran = microseg("info", tmp_path / "a.tif", "--checkpoint", trained)
    assert ran.code == (3 if objection else 0)
    assert ("objection:" in ran.out) == bool(objection)
    assert objection in ran.out
    assert ("fits" in ran.out) == (not objection)
    said = json.loads(microseg("info", tmp_path / "a.tif", "--checkpoint", trained, "--json").out)
    assert bool(said["objections"]) == bool(objection)
    chosen = ("--checkpoint", trained, "--archive", tmp_path / "a.tif", "--output", tmp_path / "run", "--workers", 0)
    planned = microseg("plan", *chosen)
    assert planned.code == (3 if objection else 0)
    assert objection in planned.out


def test_info_compares_channels_and_the_pixel_size(trained, tmp_path, microseg):
    colour = np.random.default_rng(1).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "rgb.tif", colour, photometric="rgb")
    ran = microseg("info", tmp_path / "rgb.tif", "--checkpoint", trained)
    assert ran.code == 3
    assert "objection: has 3 different colour channels, the model sees 1" in ran.out
    document = json.loads((trained / "model.json").read_text())
    sized = tmp_path / "sized"
    shutil.copytree(trained, sized)
    (sized / "model.json").write_text(json.dumps({**document, "pixel_size_um": [0.5, 0.5]}))
    tifffile.imwrite(tmp_path / "a.tif", GRAY)
    assert "note: pixel size unknown" in microseg("info", tmp_path / "a.tif", "--checkpoint", sized).out
    ran = microseg("info", tmp_path / "a.tif", "--checkpoint", sized, "--source.pixel_size_um", 5)
    assert ran.code == 3
    assert "objection: its pixels are 5 x 5 um" in ran.out


@pytest.mark.parametrize("beyond", [0.0005, 0.5 * FLOAT_SLACK, 2 * FLOAT_SLACK])
def test_floats_beyond_one_are_noted_below_the_slack_and_stopped_above(beyond):
    sample = np.linspace(-beyond, 1 + beyond, 5000, dtype=np.float32)
    stopped = intensity_objection(Scaling(), None, "float32", sample)
    noted = intensity_note(None, (0.0, 1.0), sample)
    assert bool(stopped) == (beyond > FLOAT_SLACK)
    assert bool(noted) == (beyond > 1e-3)


def test_a_hot_pixel_is_noted_and_does_not_stop():
    sample = np.append(np.linspace(0, 1, 5000, dtype=np.float32), np.float32(300))
    assert not intensity_objection(Scaling(), None, "float32", sample)
    assert "300" in intensity_note(None, (0.0, 1.0), sample)


@pytest.mark.parametrize("job", ["segment", "plan"])
def test_classes_of_the_config_are_compared_with_the_checkpoint(job, trained, tmp_path, microseg):
    tifffile.imwrite(tmp_path / "a.tif", GRAY)
    chosen = {"archive": str(tmp_path / "a.tif"), "checkpoint": str(trained), "output": str(tmp_path / "run")}
    assert {SegmentSettings(**chosen).classes, PlanSettings(**chosen).classes} == {()}
    config = tmp_path / "c.yaml"
    config.write_text("classes: [grain, matrix, pore]\n")
    options = [part for key, value in chosen.items() for part in (f"--{key}", value)]
    ran = microseg(job, config, *options, "--workers", 0)
    assert ran.code == 2
    assert "grain, matrix, pore are not the classes in order of" in ran.err + ran.out
    assert not (tmp_path / "run").exists()
    config.write_text("classes: [Matrix, grain, pore]\n")
    assert microseg("plan", config, *options, "--workers", 0).code == 0
