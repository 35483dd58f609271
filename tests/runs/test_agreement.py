"""Intensities of training and of use are compared before anything is computed."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import tifffile

from microseg_ray.errors import SettingsError
from microseg_ray.evaluation.pairs import true_classes
from microseg_ray.runs.segment import segment
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import EvaluateSettings, SegmentSettings
from microseg_ray.sources.agreement import Intensities

GRAY = np.random.default_rng(0).integers(40, 255, (80, 96)).astype(np.uint8)
SAME = {
    "8-bit": GRAY,
    "16-bit": GRAY.astype(np.uint16) * 257,
    "float from 0 to 1": (GRAY / 255).astype(np.float32),
}
WRONG = {
    "12-bit data in uint16": (GRAY.astype(np.uint32) * 4095 // 255).astype(np.uint16),
    "8-bit values in uint16": GRAY.astype(np.uint16),
    "float from 0 to 255": GRAY.astype(np.float32),
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


@pytest.fixture(scope="module")
def right(trained, tmp_path_factory):
    return mask_of(GRAY, trained, tmp_path_factory.mktemp("right"))[0]


def mask_of(pixels, checkpoint, folder, **options):
    tifffile.imwrite(folder / "a.tif", pixels)
    chosen = {
        "archive": str(folder / "a.tif"),
        "checkpoint": str(checkpoint),
        "output": str(folder / "run"),
        "workers": 0,
    }
    result = segment(SegmentSettings(**chosen, shard=128, precision="fp32", **options))
    if result.ledger.failures:
        return None, result
    return np.asarray(MaskStore.open(result.run.store_path("a.tif")).mask[:]), result


@pytest.mark.parametrize("pixels", SAME.values(), ids=SAME)
def test_the_same_intensities_in_another_type_are_right(pixels, trained, right, tmp_path):
    mask, _ = mask_of(pixels, trained, tmp_path)
    assert np.mean(mask != right) < 0.01


@pytest.mark.parametrize("pixels", WRONG.values(), ids=WRONG)
def test_another_bit_depth_or_range_is_stopped_noted_or_rescaled(pixels, trained, right, tmp_path):
    for mode in ("stop", "note", "rescale"):
        (tmp_path / mode).mkdir()
    mask, result = mask_of(pixels, trained, tmp_path / "stop")
    assert mask is None
    assert "on_intensity_mismatch" in result.ledger.failures[0].reason
    _, result = mask_of(pixels, trained, tmp_path / "note", on_intensity_mismatch="note")
    notes = MaskStore.open(result.run.store_path("a.tif")).note["notes"]
    kind = {"uint16": "uint16", "float32": "float"}[str(pixels.dtype)]
    assert any(kind in note for note in notes)
    mask, _ = mask_of(pixels, trained, tmp_path / "rescale", on_intensity_mismatch="rescale")
    assert np.mean(mask != right) < 0.03


def test_floats_beyond_one_are_an_objection_whatever_the_card_says(checkpoint, tmp_path):
    mask, result = mask_of(GRAY.astype(np.float32), checkpoint, tmp_path)
    assert mask is None
    assert "takes 0 to 1" in result.ledger.failures[0].reason


def test_dark_images_of_the_same_type_are_noted_and_not_stopped(trained, tmp_path):
    mask, result = mask_of(GRAY // 16, trained, tmp_path)
    assert mask is not None
    assert "median intensity" in MaskStore.open(result.run.store_path("a.tif")).note["notes"][-1]


@pytest.mark.parametrize("classes", [["grain", "matrix", "pore"], ["matrix", "grain", "crack"], ["matrix", "grain"]])
def test_classes_in_another_order_or_of_other_names_are_refused(classes, checkpoint):
    common = {"images": "images", "masks": "masks", "checkpoint": str(checkpoint)}
    with pytest.raises(SettingsError, match=r"evaluate\.classes: .* has matrix, grain, pore"):
        true_classes(EvaluateSettings(**common, classes=classes))
    assert true_classes(EvaluateSettings(**common, classes=["Matrix", "grain", "pore"]))[0].name == "Matrix"
