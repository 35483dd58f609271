"""Building models: names, options, shapes, precision of the head."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.models import ARCHITECTURES, build_model
from microseg_ray.models.unet import UNet

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
    assert ARCHITECTURES == ("unet",)
    with pytest.raises(SettingsError, match=r"unknown architecture 'resnet'; known are unet"):
        build_model("resnet", 1, 2, {})
    with pytest.raises(SettingsError, match=r"model\.widht: .*known are width, depth, norm, dropout"):
        build_model("unet", 1, 2, {"widht": 4})
    with pytest.raises(SettingsError, match=r"model\.depth: .*\(got 99\)"):
        build_model("unet", 1, 2, {"depth": 99})
    with pytest.raises(SettingsError, match=r"model\.norm: "):
        build_model("unet", 1, 2, {"norm": "layer"})
    with pytest.raises(SettingsError, match=r"model\.classes: 0"):
        build_model("unet", 1, 0, {})
    with pytest.raises(ValueError, match="norm 'layer' is unknown"):
        UNet(1, 2, norm="layer")


def test_the_package_and_the_card_load_no_torch():
    code = (
        "import sys, microseg_ray.models, microseg_ray.models.card, microseg_ray.metrics; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
