"""Exported files: the classes of the checkpoint on real tiles, any size, metadata within and beside."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from microseg_ray import Box, open_micrograph
from microseg_ray.errors import SettingsError
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard, ReceptiveField, read_card
from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint
from microseg_ray.models.export import METADATA_KEY, export_checkpoint
from microseg_ray.models.predictor import Predictor
from microseg_ray.settings import ClassSpec, Scaling


def with_scaling(checkpoint, folder, scaling):
    model, card = load_checkpoint(checkpoint)
    save_checkpoint(folder, model, card.model_copy(update={"scaling": scaling}))
    return folder


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    return {
        kind: export_checkpoint(str(checkpoint), str(folder / name), kind)
        for kind, name in (("onnx", "model.onnx"), ("torch", "model.pt2"))
    }


def logits_of(path, kind, pixels):
    if kind == "onnx":
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"pixels": pixels})[0]
    with torch.no_grad():
        return torch.export.load(path).module()(torch.from_numpy(pixels)).numpy()


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_real_tiles_get_the_classes_of_the_checkpoint(kind, exported, checkpoint, real_data):
    files = sorted((real_data / "mudrock" / "images").glob("*.png"))
    model, card = load_checkpoint(checkpoint)
    predictor = Predictor(model, card, "fp32")
    for number, file in enumerate(files[:5]):
        with open_micrograph(file) as micrograph:
            side = 64 + 4 * number
            tile = micrograph.read(Box(8, 12, 8 + side, 12 + side + 8))[None]
        got = logits_of(exported[kind].path, kind, np.ascontiguousarray(tile))
        assert got.shape == (1, 3, side, side + 8)
        assert np.array_equal(got.argmax(axis=1), predictor.masks(tile, (0, 255)))


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_batch_and_size_are_free(kind, exported):
    assert exported[kind].largest_difference < 1e-4
    for shape in ((1, 1, 8, 8), (5, 1, 8, 36)):
        got = logits_of(exported[kind].path, kind, np.zeros(shape, np.uint8))
        assert got.shape == (shape[0], 3, *shape[2:])


def test_the_metadata_stands_within_and_beside(exported, checkpoint):
    for kind, done in exported.items():
        beside = json.loads(done.path.with_name(done.path.name + ".json").read_text())
        if kind == "onnx":
            file = onnx.load(done.path)
            within = {item.key: item.value for item in file.metadata_props}[METADATA_KEY]
            onnx.checker.check_model(file)
        else:
            extra = {f"{METADATA_KEY}.json": ""}
            torch.export.load(done.path, extra_files=extra)
            within = extra[f"{METADATA_KEY}.json"]
        assert json.loads(within) == beside
        assert [item["name"] for item in beside["classes"]] == ["matrix", "grain", "pore"]
        assert beside["stride"] == read_card(checkpoint).receptive_field.stride
        assert beside["input"]["limits"] == [0, 255]
        assert beside["input"]["sides"] == "multiples of 4"


@pytest.mark.parametrize(("scaling", "dtype", "limits"), [
    (Scaling(kind="fixed", low=100, high=9000), "uint16", (100.0, 9000.0)),
    (Scaling(), "uint16", (0.0, 65535.0)),
])  # fmt: skip
def test_scaling_of_the_pixel_alone_is_part_of_the_file(scaling, dtype, limits, checkpoint, tmp_path):
    folder = with_scaling(checkpoint, tmp_path / "best", scaling)
    done = export_checkpoint(str(folder), str(tmp_path / "model.onnx"), "onnx", dtype)
    assert done.metadata["input"]["dtype"] == dtype
    model, card = load_checkpoint(folder)
    pixels = np.random.default_rng(0).integers(0, 65536, (2, 1, 16, 24)).astype(dtype)
    wanted = Predictor(model, card, "fp32").masks(pixels, limits)
    assert np.array_equal(logits_of(done.path, "onnx", pixels).argmax(axis=1), wanted)


def test_scaling_of_the_whole_micrograph_is_left_to_the_caller(checkpoint, tmp_path):
    folder = with_scaling(checkpoint, tmp_path / "best", Scaling(kind="percentile", low=1, high=99))
    done = export_checkpoint(str(folder), str(tmp_path / "model.pt2"), "torch")
    assert done.metadata["input"]["values"] == "scaled as `scaling` says"
    scaled = np.random.default_rng(0).random((1, 1, 8, 8), dtype=np.float32)
    with torch.no_grad():
        wanted = load_checkpoint(folder)[0](torch.from_numpy(scaled)).numpy()
    np.testing.assert_allclose(logits_of(done.path, "torch", scaled), wanted, rtol=0, atol=1e-4)


def test_a_classifier_is_exported_at_its_size(tmp_path):
    options = {"height": 64, "width": 50}
    card = ModelCard(
        architecture="coarse_fine",
        options=options,
        in_channels=3,
        classes=(ClassSpec(name="coarse"), ClassSpec(name="fine")),
        receptive_field=ReceptiveField(radius=0, stride=1),
    )
    save_checkpoint(tmp_path / "best", build_model("coarse_fine", 3, 2, options), card)
    done = export_checkpoint(str(tmp_path / "best"), str(tmp_path / "model.onnx"))
    assert logits_of(done.path, "onnx", np.zeros((3, 3, 64, 50), np.uint8)).shape == (3, 2)
    assert done.metadata["input"]["sides"] == "64 x 50"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [
    ("vgg16_unet", {}),
    ("deeplabv3plus", {}),
    ("deeplabv3plus", {"output_stride": 8, "image_pooling": False}),
    ("resnet_unet", {"input_scaling": "imagenet"}),
    ("defectsegnet", {}),
])  # fmt: skip
@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_every_architecture_is_exported(name, options, kind, tmp_path):
    model = build_model(name, 1, 2, options)
    card = ModelCard(
        architecture=name,
        options=options,
        in_channels=1,
        classes=(ClassSpec(name="a"), ClassSpec(name="b")),
        receptive_field=ReceptiveField(radius=0, stride=model.stride),
    )
    save_checkpoint(tmp_path / "best", model, card)
    assert export_checkpoint(str(tmp_path / "best"), str(tmp_path / "model"), kind).largest_difference < 1e-3


def test_the_job_prints_what_goes_in_and_comes_out(checkpoint, tmp_path, microseg):
    arguments = ("export", "--checkpoint", checkpoint, "--output", tmp_path / "out" / "model.pt2", "--format", "torch")
    done = microseg(*arguments)
    assert done.code == 0, done.err
    assert "classes: matrix, grain, pore" in done.out
    assert "equal classes" in done.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        ".microseg.json",
        "model.pt2",
        "model.pt2.json",
    ]
    again = microseg(*arguments)
    assert again.code == 2
    assert "exists; give another file, or --overwrite" in again.err
    assert microseg("export", "--checkpoint", tmp_path / "none", "--output", tmp_path / "x.onnx").code == 1


def test_a_missing_package_names_the_extra(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(SettingsError, match=r"onnx needs the package onnxscript; pip install 'microseg_ray\[export\]'"):
        export_checkpoint(str(checkpoint), str(tmp_path / "model.onnx"))
