"""The residual U-Net: shapes, precision of the head, gradients, its reach, tiles that equal the whole image."""

import pytest
import torch
from torch import nn

from microseg_ray.models.architectures.resunet import ResUNet
from microseg_ray.models.folding import fold_norms
from microseg_ray.models.receptive_field import measure_receptive_field


def settled(**options):
    """A small model in evaluation whose batch statistics have moved away from their defaults."""
    torch.manual_seed(0)
    model = ResUNet(1, 3, width=4, detail=2, **options)
    for _ in range(3):
        model(torch.rand(4, 1, 64, 64))
    return model.eval()


@pytest.mark.parametrize("depth", [1, 2, 3, 5])
def test_logits_have_the_shape_of_the_image_and_every_parameter_learns(depth):
    model = ResUNet(2, 5, width=4, depth=depth, dilations=(1, 2), detail=2, dropout=0.1)
    assert model.stride == 2**depth
    logits = model(torch.rand(2, 2, 64, 96))
    assert logits.shape == (2, 5, 64, 96)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim == 4)


@pytest.mark.parametrize("shape", [(18, 16), (16, 17), (0, 16)])
def test_sides_that_are_no_multiple_of_the_stride_are_refused(shape):
    with pytest.raises(ValueError, match=rf"{shape[0]} x {shape[1]} px \(y, x\).*stride 4"):
        ResUNet(1, 2, width=2, depth=2)(torch.zeros(1, 1, *shape))


@pytest.mark.parametrize("options", [{"depth": 0}, {"dilations": ()}])
def test_a_model_without_levels_or_context_is_refused(options):
    with pytest.raises(ValueError, match="at least one level and one block"):
        ResUNet(1, 2, **options)


def test_the_head_is_float32_under_autocast():
    model = settled(depth=2)
    seen = []
    model.head.register_forward_hook(lambda _m, inputs, output: seen.append((inputs[0].dtype, output.dtype)))
    model.refine.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert model(torch.rand(1, 1, 8, 8)).dtype == torch.float32
    assert seen == [torch.bfloat16, (torch.float32, torch.float32)]


def test_the_initial_logits_are_of_the_order_of_one():
    torch.manual_seed(0)
    logits = ResUNet(1, 4)(torch.randn(2, 1, 64, 64))
    assert 0.1 < float(logits.detach().std()) < 10


def test_every_norm_can_be_folded_without_changing_the_logits():
    model = settled(depth=3)
    images = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        before = model(images)
        folded = fold_norms(model)
        torch.testing.assert_close(folded(images), before, rtol=1e-4, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.parametrize("dilations", [(1,), (1, 2), (2, 1, 1)])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_tile_with_the_halo_predicts_what_the_whole_image_does(depth, dilations):
    model = settled(depth=depth, dilations=dilations)
    field = measure_receptive_field(model, 1)
    assert field.stride == 2**depth
    assert field.tile_dependent == ()
    core, halo = 2 * field.stride, field.halo
    image = torch.rand(1, 1, core + 3 * halo, core + 4 * halo)
    y0, x0 = halo, halo + field.stride
    with torch.inference_mode():
        whole = model(image)[..., y0 : y0 + core, x0 : x0 + core]
        tile = model(image[..., y0 - halo : y0 + core + halo, x0 - halo : x0 + core + halo])
    torch.testing.assert_close(tile[..., halo : halo + core, halo : halo + core], whole, rtol=0, atol=1e-5)


def test_dilations_set_the_reach():
    def radius(*dilations):
        return measure_receptive_field(ResUNet(1, 2, width=2, depth=3, dilations=dilations).eval(), 1).radius

    near, far, wide = radius(1), radius(1, 1), radius(3)
    assert far - near == 2 * 8  # two more 3x3 convolutions on the coarsest grid
    assert wide - near == 2 * 2 * 8  # two whose kernels reach two grid points further
