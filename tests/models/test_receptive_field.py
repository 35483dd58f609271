"""Receptive fields by law: nothing outside the radius matters, something at the radius does, tiles equal the whole."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from microseg_ray.models import build_model
from microseg_ray.models.architectures.unet import UNet
from microseg_ray.models.card import ReceptiveField
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.settings.model import OPTIONS


def positive(model):
    """The model with positive weights and no biases: any pixel that is seen makes an output positive."""
    model = model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    return model


def seen_by_block(model, stride, radius, axis):
    """Naive: light one pixel at a time along an axis; at which distances beyond the block does it answer?"""
    side = (2 * (radius // stride + 3) + 1) * stride
    start = side // 2 // stride * stride
    thin = 4 * stride
    distances = []
    for offset in range(side):
        image = torch.zeros(1, 1, *((side, thin) if axis == 0 else (thin, side)), dtype=torch.float64)
        image.select(2 + axis, offset).fill_(1.0)
        with torch.inference_mode():
            answer = model(image).narrow(2 + axis, start, stride)
        if bool((answer != 0).any()):
            distances.append(max(start - offset, offset - (start + stride - 1), 0))
    return distances


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("axis", [0, 1])
def test_radius_is_exactly_the_largest_distance_at_which_a_pixel_changes_an_output(depth, axis):
    model = UNet(1, 2, width=2, depth=depth, norm="none")
    field = measure_receptive_field(model, 1)
    assert field.stride == 2**depth
    assert field.tile_dependent == ()
    # Max pooling of positive numbers lets every lit pixel through, so the real forward pass must agree exactly.
    assert max(seen_by_block(positive(model), field.stride, field.radius, axis)) == field.radius


def test_the_weights_and_the_width_do_not_matter():
    narrow, wide = UNet(1, 2, width=1, depth=3).eval(), UNet(3, 7, width=5, depth=3).eval()
    with torch.no_grad():
        for parameter in wide.parameters():
            parameter.zero_()
    assert measure_receptive_field(narrow, 1) == measure_receptive_field(wide, 3)


@pytest.mark.parametrize(("depth", "norm"), [(1, "batch"), (2, "none"), (3, "batch")])
def test_a_tile_with_the_halo_predicts_what_the_whole_image_does(depth, norm):
    torch.manual_seed(depth)
    model = UNet(1, 3, width=4, depth=depth, norm=norm)
    model(torch.rand(4, 1, 64, 64))  # lets the running statistics move
    model.eval()
    field = measure_receptive_field(model, 1)
    assert field.halo % field.stride == 0
    assert 0 <= field.halo - field.radius < field.stride
    core, halo = 2 * field.stride, field.halo
    image = torch.rand(1, 1, core + 4 * halo, core + 3 * halo)
    y0, x0 = 2 * halo, halo + field.stride
    with torch.inference_mode():
        whole = model(image)[..., y0 : y0 + core, x0 : x0 + core]
        tile = model(image[..., y0 - halo : y0 + core + halo, x0 - halo : x0 + core + halo])
    torch.testing.assert_close(tile[..., halo : halo + core, halo : halo + core], whole, rtol=0, atol=1e-5)


def test_one_stride_less_than_the_halo_is_not_enough():
    model = positive(UNet(1, 2, width=2, depth=2, norm="none"))
    field = measure_receptive_field(model, 1)
    stride, halo = field.stride, field.halo - field.stride
    image = torch.rand(1, 1, 4 * field.halo + stride, 4 * field.halo + stride, dtype=torch.float64)
    origin = 2 * field.halo
    with torch.inference_mode():
        whole = model(image)[..., origin : origin + stride, origin : origin + stride]
        tile = model(image[..., origin - halo : origin + stride + halo, origin - halo : origin + stride + halo])
    assert not torch.equal(tile[..., halo : halo + stride, halo : halo + stride], whole)


def test_known_radii():
    assert measure_receptive_field(nn.Conv2d(1, 1, 1), 1).radius == 0
    chain = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 2, 5, padding=2))
    assert measure_receptive_field(chain, 1) == ReceptiveField(radius=3, stride=1)
    dilated = nn.Conv2d(1, 1, 3, padding=9, dilation=9)
    assert measure_receptive_field(dilated, 1).radius == 9
    oblong = nn.Conv2d(1, 1, (3, 11), padding=(1, 5))
    assert measure_receptive_field(oblong, 1).radius == 5
    grouped = nn.Conv2d(4, 4, 7, padding=3, groups=2, padding_mode="reflect")
    assert measure_receptive_field(grouped, 4).radius == 3


def test_the_stride_is_found_where_the_model_does_not_tell():
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1),
        nn.MaxPool2d(2),
        nn.Upsample(scale_factor=4, mode="nearest"),
        nn.Sigmoid(),
    )
    # A block of 4 sees one pooled pixel, that two strided ones, and they 5 pixels: one beyond the block at the left.
    assert measure_receptive_field(model, 1) == ReceptiveField(radius=1, stride=4)


def test_the_model_is_left_as_it_was():
    model = UNet(1, 2, width=2, depth=1).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_receptive_field(model, 1)
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(("norm", "kind"), [("group", "GroupNorm"), ("instance", "InstanceNorm2d")])
def test_norms_that_see_the_whole_tile_are_listed_by_name(norm, kind):
    model = UNet(1, 2, width=2, depth=1, norm=norm).eval()
    field = measure_receptive_field(model, 1)
    assert f"encoder.0.1 ({kind})" in field.tile_dependent
    assert len(field.tile_dependent) == 6
    assert field.radius == measure_receptive_field(UNet(1, 2, width=2, depth=1, norm="none"), 1).radius


def test_batch_norm_is_listed_only_where_it_takes_statistics_of_the_batch():
    model = UNet(1, 2, width=2, depth=1)
    assert len(measure_receptive_field(model.train(), 1).tile_dependent) == 6
    assert measure_receptive_field(model.eval(), 1).tile_dependent == ()
    own = nn.Sequential(
        nn.BatchNorm2d(1, track_running_stats=False), nn.InstanceNorm2d(1, track_running_stats=True)
    ).eval()
    assert measure_receptive_field(own, 1).tile_dependent == ("0 (BatchNorm2d)",)


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.gate = nn.Sequential(nn.Conv2d(2, 2, 1), nn.Sigmoid())

    def forward(self, x):
        x = self.conv(x)
        return x * self.gate(self.pool(x))


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.linear = nn.Linear(4, 4)

    def forward(self, x):
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        mixed, _ = self.attention(tokens, tokens, tokens, need_weights=False)
        return self.linear(mixed).transpose(1, 2).reshape(x.shape)


def test_global_pooling_and_attention_are_listed():
    assert measure_receptive_field(SqueezeExcite(), 2) == ReceptiveField(
        radius=1, stride=1, tile_dependent=("pool (AdaptiveAvgPool2d)",)
    )
    listed = measure_receptive_field(Attention(), 4).tile_dependent
    assert listed == ("norm (LayerNorm)", "attention (MultiheadAttention)")


class Functional(nn.Module):
    def forward(self, x):
        return F.max_pool2d(x, 5, stride=1, padding=2)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="non-linear that is not a layer"):
        measure_receptive_field(Functional(), 1)
    with pytest.raises(ValueError, match="as large as its input"):
        measure_receptive_field(nn.Conv2d(1, 1, 3), 1)
    with pytest.raises(ValueError, match="return_indices"):
        measure_receptive_field(nn.MaxPool2d(2, return_indices=True), 1)


def test_the_default_model():
    assert measure_receptive_field(UNet(1, 4).eval(), 1).stride == 16


class Coarse(nn.Module):
    """Half resolution and back, by a function with these options."""

    def __init__(self, **options):
        super().__init__()
        self.options = options
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.last = nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, images):
        return self.last(F.interpolate(self.down(images), size=images.shape[2:], **self.options))


class Coordinates(nn.Module):
    """The place in the tile along one axis as a further channel."""

    def __init__(self, axis):
        super().__init__()
        self.axis = axis
        self.last = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, images):
        side = images.shape[self.axis]
        shape = (1, 1, side, 1) if self.axis == 2 else (1, 1, 1, side)
        places = torch.linspace(-1, 1, side, dtype=images.dtype).reshape(shape)
        return self.last(torch.cat([images, places.expand_as(images)], dim=1))


class Aligned(nn.Sequential):
    def __init__(self, *, aligned):
        super().__init__(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=aligned),
            nn.Conv2d(4, 2, 1),
        )


class Spatial(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.first, self.weights = nn.Conv2d(1, 2, 1), nn.Softmax(dim=dim)

    def forward(self, images):
        return self.weights(self.first(images))


TILE_DEPENDENT = {
    "interpolate, align_corners": (Coarse(mode="bilinear", align_corners=True), "align_corners"),
    "coordinates y": (Coordinates(2), "coordinates"),
    "coordinates x": (Coordinates(3), "coordinates"),
    "Upsample, align_corners": (Aligned(aligned=True), "1 (Upsample)"),
    "softmax over x": (Spatial(-1), "weights (Softmax)"),
    "softmax over y": (Spatial(2), "weights (Softmax)"),
    "group norm": (nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4)), "1 (GroupNorm)"),
    "instance norm": (nn.Sequential(nn.Conv2d(1, 4, 1), nn.InstanceNorm2d(4)), "1 (InstanceNorm2d)"),
}
SAFE = {
    "interpolate, bilinear": Coarse(mode="bilinear", align_corners=False),
    "interpolate, nearest": Coarse(mode="nearest"),
    "Upsample": Aligned(aligned=False),
    "softmax over classes": Spatial(1),
}


@pytest.mark.parametrize(("model", "reason"), TILE_DEPENDENT.values(), ids=TILE_DEPENDENT)
def test_models_that_depend_on_the_tile_are_listed_with_the_reason(model, reason):
    torch.manual_seed(0)
    (listed,) = measure_receptive_field(model.eval(), 1).tile_dependent
    assert reason in listed


@pytest.mark.parametrize("model", SAFE.values(), ids=SAFE)
def test_models_that_do_not_are_not_listed(model):
    assert measure_receptive_field(model.eval(), 1).tile_dependent == ()


@pytest.mark.parametrize(
    ("name", "options", "dependent"),
    [
        ("resunet", {}, False),
        ("unet", {"width": 4}, False),
        ("unet", {"width": 4, "norm": "group"}, True),
        ("efficientnet_unet", {}, False),
        ("efficientnet_deeplab", {}, False),
        pytest.param("vgg16_unet", {}, False, marks=pytest.mark.slow),
        ("deeplabv3plus", {"image_pooling": True}, True),
        ("deeplabv3plus", {"image_pooling": False}, False),
        ("resnet_unet", {"encoder": "resnet18"}, False),
        ("defectsegnet", {}, False),
    ],
)
def test_our_architectures_are_classified_rightly(name, options, dependent):
    model = build_model(name, 1, 2, {**OPTIONS[name], **options}).eval()
    assert bool(measure_receptive_field(model, 1).tile_dependent) == dependent
