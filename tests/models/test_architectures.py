"""Building models: names, options, shapes, precision of the head."""

import subprocess
import sys
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.models import ARCHITECTURES, build_model
from microseg_ray.models.architectures.unet import UNet
from microseg_ray.settings import ModelSettings, TrainSettings, load_settings, settings_from
from microseg_ray.settings.model import OPTIONS, Architecture

SMALL = {"width": 2, "depth": 2}


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_every_norm_gives_logits_and_gradients_of_the_right_shape(norm):
    model = build_model("unet", 3, 5, SMALL | {"norm": norm, "dropout": 0.1})
    logits = model(torch.rand(2, 3, 16, 24))
    assert logits.shape == (2, 5, 16, 24)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("norm", ["batch", "group", "instance", "none"])
def test_convolutions_have_a_bias_only_where_no_norm_follows(norm):
    model = UNet(1, 2, width=4, depth=2, norm=norm)
    threes = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert len(threes) == 2 * (3 + 2)
    assert all((m.bias is None) == (norm != "none") for m in threes)
    assert all(m.padding_mode == "zeros" and m.padding == (1, 1) for m in threes)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_widths_double_at_each_level_and_the_stride_is_that_of_the_poolings(depth):
    model = UNet(1, 2, width=3, depth=depth)
    assert model.stride == 2**depth
    assert [level[0].out_channels for level in model.encoder] == [3 * 2**level for level in range(depth + 1)]


@pytest.mark.parametrize("shape", [(18, 16), (16, 17), (0, 16)])
def test_sides_that_are_no_multiple_of_the_stride_are_refused(shape):
    with pytest.raises(ValueError, match=rf"{shape[0]} x {shape[1]} px \(y, x\).*stride 4"):
        UNet(1, 2, width=2, depth=2)(torch.zeros(1, 1, *shape))


def test_the_head_is_float32_under_autocast():
    model = UNet(1, 3, width=4, depth=1).eval()
    seen = []
    model.head.register_forward_hook(lambda _m, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    inner = []
    model.encoder[0][0].register_forward_hook(lambda _m, _i, output: inner.append(output.dtype))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.rand(1, 1, 8, 8)).dtype == torch.float32
    assert seen == [(torch.float32, torch.float32)]
    assert inner == [torch.bfloat16]


def test_the_initial_logits_are_of_the_order_of_one():
    torch.manual_seed(0)
    for norm in ("batch", "none"):
        logits = UNet(1, 4, width=16, depth=3, norm=norm)(torch.randn(2, 1, 64, 64))
        assert 0.1 < float(logits.detach().std()) < 10


def test_channels_last_gives_the_same_logits():
    torch.manual_seed(0)
    model = UNet(2, 3, width=8, depth=2).eval()
    images = torch.rand(2, 2, 16, 16)
    with torch.inference_mode():
        plain = model(images)
        model.to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            model(images.contiguous(memory_format=torch.channels_last)), plain, rtol=1e-4, atol=1e-5
        )


def test_unknown_names_and_values_are_named():
    assert set(ARCHITECTURES) == set(get_args(Architecture)) == set(OPTIONS)
    with pytest.raises(SettingsError, match=r"unknown architecture 'resnet'; known are unet, "):
        build_model("resnet", 1, 2, {})
    with pytest.raises(SettingsError, match=r"model\.widht: .*known are width, depth, norm, dropout"):
        build_model("unet", 1, 2, {"widht": 4})
    with pytest.raises(SettingsError, match=r"model\.output_stride: `unet` has no such option"):
        build_model("unet", 1, 2, {"output_stride": 8})
    with pytest.raises(SettingsError, match=r"model\.depth: .*\(got 99\)"):
        build_model("unet", 1, 2, {"depth": 99})
    with pytest.raises(SettingsError, match=r"model\.norm: "):
        build_model("unet", 1, 2, {"norm": "layer"})
    with pytest.raises(SettingsError, match=r"model\.classes: 0"):
        build_model("unet", 1, 0, {})
    with pytest.raises(SettingsError, match=r"encoder 'vgg' is unknown; known are resnet18"):
        build_model("resnet_unet", 1, 2, {"encoder": "vgg"})
    with pytest.raises(SettingsError, match=r"encoder 'resnet18' is not one of DeepLabV3\+'s"):
        build_model("deeplabv3plus", 1, 2, {"encoder": "resnet18"})
    with pytest.raises(ValueError, match="norm 'layer' is unknown"):
        UNet(1, 2, norm="layer")
    with pytest.raises(ValueError, match="activation 'gelu' is unknown; known are relu, elu"):
        UNet(1, 2, activation="gelu")


@pytest.mark.parametrize(
    ("name", "package", "extra"), [("smp", "segmentation-models", "smp"), ("timm", "timm", "timm")]
)
def test_a_missing_package_names_the_extra(name, package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch" if name == "smp" else name, None)
    with pytest.raises(SettingsError, match=rf"needs the package {package}.*pip install 'microseg_ray\[{extra}\]'"):
        build_model(name, 1, 2, {})


def test_settings_take_the_options_of_their_architecture_only():
    assert (ModelSettings().name, ModelSettings().start) == ("efficientnet_unet", "imagenet")
    assert ModelSettings(weights="scratch").start is None
    assert (ModelSettings(depth=3).name, ModelSettings(depth=3).start) == ("resunet", None)
    assert ModelSettings(dilations=(1,)).name == "resunet"
    assert ModelSettings(width=8, stages=3).name == "efficientnet_unet"
    assert ModelSettings(name="unet").options == {
        "width": 32,
        "depth": 4,
        "norm": "batch",
        "dropout": 0.0,
        "activation": "relu",
        "dropout_place": "after",
    }
    for name, options in OPTIONS.items():
        assert ModelSettings(name=name).options == options
    with pytest.raises(ValidationError, match="`deeplabv3plus` has no option depth; its options are encoder"):
        ModelSettings(name="deeplabv3plus", depth=3)
    # What was written comes back, and another name can be put over a default that says nothing.
    given = ModelSettings(name="deeplabv3plus", output_stride=8)
    assert given.model_dump(mode="json") == {"name": "deeplabv3plus", "output_stride": 8}
    assert ModelSettings.model_validate(given.model_dump(mode="json")) == given
    assert ModelSettings().model_dump() == {"name": "efficientnet_unet"}


def test_a_config_and_the_command_line_name_model_and_options(tmp_path):
    config = tmp_path / "train.yaml"
    config.write_text("train: {tiles: t, output: o, model: {name: unet, width: 24, depth: 4, norm: batch}}")
    both = load_settings(TrainSettings, ["--model.depth", "3"], config).model
    assert (both.name, both.width, both.depth, both.norm) == ("unet", 24, 3, "batch")
    # Without a name the options say which default is meant, also where file and command line give one each.
    config.write_text("train: {tiles: t, output: o, model: {width: 24}}")
    assert load_settings(TrainSettings, [], config).model.name == "efficientnet_unet"
    assert load_settings(TrainSettings, ["--model.depth", "3"], config).model.options["width"] == 24
    assert load_settings(TrainSettings, ["--model.depth", "3"], config).model.name == "resunet"
    arguments = ["--tiles", "t", "--output", "o", "--model.name", "deeplabv3plus", "--model.image_pooling", "false"]
    other = load_settings(TrainSettings, arguments).model
    assert other.options["image_pooling"] is False
    with pytest.raises(SettingsError, match=r"`vgg16_unet` has no option width"):
        load_settings(TrainSettings, ["--model.name", "vgg16_unet"], config)
    resolved = load_settings(TrainSettings, arguments).resolved()
    assert settings_from(TrainSettings, resolved).model == other


def test_an_architecture_file_becomes_text_in_the_settings(tmp_path):
    path = tmp_path / "architecture.txt"
    path.write_text("type:dense|size:3|input tensors:0\n")
    settings = ModelSettings(name="defectsegnet", architecture_file=str(path))
    assert settings.architecture_file is None
    assert settings.options["layers"] == path.read_text()
    path.unlink()
    assert build_model("defectsegnet", 2, 5, settings.options)(torch.zeros(1, 2, 4, 6)).shape == (1, 5, 4, 6)
    with pytest.raises(ValidationError, match=r"architecture_file .*architecture\.txt: cannot be read"):
        ModelSettings(name="defectsegnet", architecture_file=str(path))


def test_a_card_from_before_the_other_architectures_still_builds():
    model = build_model("unet", 1, 2, {"width": 4, "depth": 2, "norm": "batch", "dropout": 0.0})
    names = list(model.state_dict())
    assert names[0] == "encoder.0.0.weight"
    assert "encoder.1.3.weight" in names
    assert names[-1] == "head.bias"


def test_the_package_and_the_card_load_no_torch():
    modules = "microseg_ray.models, microseg_ray.models.card, microseg_ray.evaluation.metrics"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
