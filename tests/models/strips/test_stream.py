"""Strips give what a pass over the whole image gives, for every network that can be streamed, at any height and size."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from microseg_ray.models import build_model
from microseg_ray.models.folding import fold_norms
from microseg_ray.models.runtimes import load_runtime
from microseg_ray.models.strips import NotStreamableError, stream
from microseg_ray.models.strips.rows import Range
from microseg_ray.models.strips.schedule import Schedule
from microseg_ray.models.strips.stream import StripNetwork
from microseg_ray.models.strips.trace import traced

if TYPE_CHECKING:
    from collections.abc import Callable

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "unet": ("unet", {"width": 2, "depth": 2}),
    "unet, pool": ("unet", {"width": 2, "depth": 1, "norm": "pool", "activation": "elu", "dropout": 0.1}),
    "resunet": ("resunet", {"width": 2, "depth": 2, "detail": 2, "dilations": (1, 3)}),
    "resunet, deep": ("resunet", {"width": 2, "depth": 3, "detail": 2, "dilations": (1, 2)}),
    "efficientnet_unet": ("efficientnet_unet", {"stages": 2, "width": 2, "detail": 2}),
    "efficientnet_deeplab": ("efficientnet_deeplab", {"stages": 3, "width": 4, "detail": 2, "dilations": (1, 2)}),
    "defectsegnet": ("defectsegnet", {}),
    "defectsegnet, before": ("defectsegnet", {"norm_place": "before"}),
}


@pytest.fixture(scope="module", autouse=True)
def no_image_is_small():
    """So that small images are divided into strips, too."""
    kept, stream.WHOLE_PIXELS = stream.WHOLE_PIXELS, 0
    yield
    stream.WHOLE_PIXELS = kept


class _Mixed(nn.Module):
    """Layers that the architectures lack."""

    stride = 4

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.ReflectionPad2d((0, 1, 2, 1)), nn.Conv2d(1, 4, (4, 2), groups=1), nn.GELU())
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.mean = nn.Sequential(nn.ZeroPad2d((1, 0, 0, 1)), nn.AvgPool2d(2, stride=1), nn.AvgPool2d(2))
        self.wide = nn.Conv2d(4, 4, 3, padding=(4, 2), dilation=(4, 2), groups=2)
        self.up = nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1)
        self.last = nn.Upsample(scale_factor=2, mode="bilinear")
        self.head = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        fine = self.first(images)
        half = self.pool(fine)
        coarse = self.wide(torch.relu(self.mean(half)))
        half = half.mul(0.5) + torch.sigmoid(self.up(coarse))
        joined: torch.Tensor = self.head(torch.cat([fine, self.last(half)], dim=1))
        return joined


def _prepared(model: nn.Module, seed: int = 0) -> nn.Module:
    """Norms with statistics, folded, in float64: so only the strips themselves can make a difference."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return fold_norms(nn.Sequential(model.eval())).eval().requires_grad_(requires_grad=False).double()


@pytest.fixture(scope="module")
def network(request: pytest.FixtureRequest) -> tuple[nn.Module, int]:
    torch.manual_seed(0)
    if request.param == "mixed":
        return _prepared(_Mixed()), 4
    name, options = NETWORKS[request.param]
    model = build_model(name, 1, 3, options)
    return _prepared(model), int(model.stride)  # type: ignore[arg-type]


def _image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, height, width, generator=generator, dtype=torch.float64)


def _streamed(strips: StripNetwork, image: torch.Tensor, wanted: int | None = None) -> torch.Tensor:
    parts, reached = [], 0
    for part in strips.run(lambda rows: image[:, :, rows.begin : rows.end], (image.shape[2], image.shape[3]), wanted):
        assert part.rows == Range(reached, reached + part.logits.shape[2])
        reached = part.rows.end
        parts.append(part.logits.clone())
    return torch.cat(parts, dim=2)


@pytest.fixture(scope="module")
def strips_of(network: tuple[nn.Module, int]) -> Callable[[int], StripNetwork]:
    """The network in strips of so many strides; they are made once, which takes longer than an image."""
    model, stride = network
    return cache(lambda strides: StripNetwork(model, 1, stride, strides * stride, load_runtime("torch", "fp32")))


@pytest.mark.parametrize("network", [*NETWORKS, "mixed"], indirect=True)
@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_strips_are_the_whole_pass(
    network: tuple[nn.Module, int], strips_of: Callable[[int], StripNetwork], data: st.DataObject
) -> None:
    model, stride = network
    strips = strips_of(data.draw(st.sampled_from([1, 2, 5])))
    height = data.draw(st.integers(3, strips.schedule.first // stride + 12)) * stride
    width = data.draw(st.integers(3, 6)) * stride
    image = _image(height, width, data.draw(st.integers(0, 99)))
    with torch.inference_mode():
        whole = model(image)
    torch.testing.assert_close(_streamed(strips, image), whole, rtol=0, atol=1e-9)
    # A part from the top, which ends early.
    wanted = data.draw(st.integers(1, height))
    part = _streamed(strips, image, wanted)
    assert part.shape[2] >= wanted
    torch.testing.assert_close(part, whole[:, :, : part.shape[2]], rtol=0, atol=1e-9)


@pytest.mark.parametrize("network", ["unet", "resunet", "mixed"], indirect=True)
def test_a_band_begins_one_radius_early(network: tuple[nn.Module, int]) -> None:
    model, stride = network
    strips = StripNetwork(model, 1, stride, 2 * stride, load_runtime("torch", "fp32"))
    image = _image(strips.schedule.first + 20 * stride, 8 * stride)
    with torch.inference_mode():
        whole = model(image)
    begin = strips.schedule.first + 6 * stride
    early = begin - strips.schedule.first
    part = _streamed(strips, image[:, :, early:])
    torch.testing.assert_close(part[:, :, begin - early :], whole[:, :, begin:], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("vgg16_unet", {}),
        ("resnet_unet", {"encoder": "resnet18"}),
        ("deeplabv3plus", {"image_pooling": False}),
        pytest.param(
            "deeplabv3plus",
            {"image_pooling": False, "output_stride": 8, "encoder": "resnet101"},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_large_networks_have_a_schedule(name: str, options: dict[str, Any]) -> None:
    """Their passes take long; the layers that they are made of are compared above."""
    with torch.device("meta"):
        model = build_model(name, 3, 2, options).eval()
    strips = StripNetwork(model, 3, int(model.stride), 256, load_runtime("torch", "fp32"))  # type: ignore[arg-type]
    first = strips.schedule.first
    steady = strips.schedule.program(first, first + 256)
    assert steady == strips.schedule.program(first + 512, first + 768)
    assert steady.finished == 256


@pytest.mark.parametrize(
    ("name", "options", "width", "precision"),
    [
        ("resunet", {}, 512, "fp32"),
        pytest.param("unet", {"width": 16, "depth": 2}, 1024, "fp32", marks=pytest.mark.slow),
        ("unet", {"width": 16, "depth": 2}, 1024, "bf16"),
    ],
)
def test_at_real_widths_strips_are_equal_to_the_bit(
    name: str, options: dict[str, Any], width: int, precision: Literal["fp32", "bf16"]
) -> None:
    """There torch takes the same kernels for a strip as for the whole image, with the vector units that servers have.

    With AVX2 it takes others for some shapes, so that sums are rounded in another way.
    """
    torch.manual_seed(0)
    model = build_model(name, 1, 4, options)
    prepared = _prepared(model).float()
    runtime = load_runtime("torch", precision)
    strips = StripNetwork(prepared, 1, int(model.stride), 128, runtime)  # type: ignore[arg-type]
    image = _image(strips.schedule.first + 144, width).float().contiguous(memory_format=torch.channels_last)
    whole = runtime.compile(prepared, [image])(image)[0]
    found = _streamed(strips, image)
    if torch.backends.cpu.get_cpu_capability() == "AVX512":
        assert float((found - whole).abs().max()) == 0.0
    elif precision == "fp32":
        torch.testing.assert_close(found, whole, rtol=0, atol=1e-4)
    else:
        assert float((found.argmax(1) != whole.argmax(1)).float().mean()) < 1e-3


def test_memory_is_flat_in_height() -> None:
    """What is kept does not grow: a hundred strips hold as many numbers as ten."""
    model = _prepared(build_model("unet", 1, 2, {"width": 2, "depth": 1}))
    strips = StripNetwork(model, 1, 2, 8, load_runtime("torch", "fp32"))
    sizes = []
    for fed in (strips.schedule.first + 8 * 10, strips.schedule.first + 8 * 1000):
        program = strips.schedule.program(fed, fed + 8)
        sizes.append(sum(step.left + step.after.length for step in program.steps) + program.rows)
    assert sizes[0] == sizes[1]


def test_one_graph_serves_all_strips_in_the_middle() -> None:
    model = _prepared(build_model("resunet", 1, 2, {"width": 2, "depth": 2, "detail": 2}))
    strips = StripNetwork(model, 1, 4, 16, load_runtime("torch", "fp32"))
    _streamed(strips, _image(strips.schedule.first + 160, 16))
    assert len(strips._graphs) == 3


class _Pooled(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images - images.mean((2, 3), keepdim=True)


class _Branching(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images if images.sum() > 0 else -images


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Conv2d(1, 8, 1), nn.GroupNorm(2, 8)), "GroupNorm"),
        (nn.InstanceNorm2d(1, affine=True), "InstanceNorm2d"),
        (nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")), "circular"),
        (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "align_corners"),
        (nn.Upsample(scale_factor=3), "factors of 2"),
        (nn.Softmax(dim=2), "Softmax"),
        (_Pooled(), "mean"),
        (_Branching(), "cannot be traced"),
        (nn.Conv2d(1, 2, 3), "gives"),
        (nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1, output_padding=1), "output_padding"),
    ],
)
def test_what_cannot_be_streamed_says_why(model: nn.Module, reason: str) -> None:
    with pytest.raises(NotStreamableError, match=reason):
        StripNetwork(nn.Sequential(model).eval(), 1, 1, 8, load_runtime("torch", "fp32"))


@pytest.mark.parametrize("network", ["resunet", "efficientnet_unet", "mixed"], indirect=True)
def test_strips_of_every_height_share_what_is_computed_early(network: tuple[nn.Module, int]) -> None:
    model, stride = network
    nodes = traced(model, 1, stride)
    early = Schedule(nodes, stride, stride).early
    for strides in (1, 3, 8):
        own, shared = Schedule(nodes, stride, strides * stride), Schedule(nodes, stride, strides * stride, early)
        far = 4096 * stride
        assert own.program(far, far + strides * stride) == shared.program(far, far + strides * stride)
