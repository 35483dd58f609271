"""A graph that is written node by node is the one that OpenVINO's converter makes of the same module."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from microseg_ray.models.largest import LargestClass
from microseg_ray.models.runtimes import load_runtime
from microseg_ray.models.runtimes.writing import TensorWriter, Writable
from microseg_ray.models.strips.stream import undivided

pytest.importorskip("openvino")

LAYERS = [
    nn.Conv2d(4, 6, 3, padding=(0, 1)),
    nn.Conv2d(4, 4, (3, 2), stride=2, dilation=2, groups=2, bias=False),
    nn.Conv2d(4, 4, 3, padding=1, groups=4),
    nn.ConvTranspose2d(4, 6, 2, stride=2),
    nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, bias=False),
    nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
    nn.MaxPool2d(3, stride=2, padding=(0, 1)),
    nn.AvgPool2d(2),
    nn.AvgPool2d((2, 3), stride=1, padding=(0, 1)),
    nn.Upsample(scale_factor=2),
    nn.Upsample(scale_factor=(4.0, 4.0), mode="bilinear"),
    nn.BatchNorm2d(4),
    nn.Sequential(nn.Identity(), nn.ReLU()),
    nn.ReLU(),
    nn.ReLU6(),
    nn.Hardtanh(-0.2, 0.7),
    nn.LeakyReLU(0.2),
    nn.PReLU(4, 0.3),
    nn.ELU(0.7),
    nn.SiLU(),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.Hardswish(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Softplus(),
]

# Of 12: all, but one at either end, but one at both, and a few in the middle.
PLACES = [(0, 12), (1, 11), (0, 11), (1, 10), (5, 3)]


class Functions(nn.Module):
    """What a forward may call, with numbers and constants among the arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("offset", torch.tensor([0.5, -0.5, 0.25, 1.0]).reshape(1, 4, 1, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = F.relu(image * 2 - 0.25) + self.offset
        second = torch.cat([first.flip(1), torch.sigmoid(image).div(3)], dim=1)
        third = torch.add(F.gelu(first), first.tanh(), alpha=2)
        return torch.cat([second, third.contiguous().float(), 1 - first], 1)


@pytest.mark.parametrize("layer", LAYERS, ids=repr)
def test_a_layer_is_written_as_it_is_converted(layer):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, image):
            return self.write(TensorWriter(), image)[0]

        def write(self, writer, *inputs):
            return (writer.layer(self.layer, inputs[0]),)

    _compare(One(), layer, torch.Size([1, 4, 12, 16]))


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(4, 6, 2, stride=2),
        nn.ConvTranspose2d(4, 4, 4, stride=2, padding=1, bias=False),
        nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2),
        nn.Upsample(scale_factor=2),
    ],
    ids=repr,
)
def test_some_rows_of_a_layer_are_those_of_all_its_rows(layer):
    class Rows(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def write(self, writer, *inputs):
            return tuple(writer.layer_rows(self.layer, inputs[0], *rows) for rows in PLACES)

    layer.eval().requires_grad_(requires_grad=False)
    image = torch.randn(1, 4, 6, 9, generator=torch.Generator().manual_seed(0))
    whole, torchs = layer(image), Rows().write(TensorWriter(), image)
    found = load_runtime("openvino", "fp32", threads=1).compile(Rows(), [image])(image)
    for rows, part, torchs_part in zip(PLACES, found, torchs, strict=True):
        expected = whole[:, :, rows[0] : sum(rows)]
        assert torch.equal(torchs_part, expected)
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layer", [nn.Identity(), nn.Dropout2d()], ids=repr)
def test_a_layer_that_does_nothing_has_no_node(layer):
    model = undivided(nn.Sequential(nn.ReLU(), layer).eval(), 4, 1)(6)
    _compare(model, nn.ReLU(), torch.Size([1, 4, 6, 8]))


def test_functions_are_written_as_they_are_converted():
    model = Functions()
    _compare(undivided(nn.Sequential(model).eval(), 4, 1)(12), model, torch.Size([1, 4, 12, 16]))


def _compare(writable: nn.Module, model: nn.Module, shape: torch.Size) -> None:
    writable.eval().requires_grad_(requires_grad=False)
    model.eval().requires_grad_(requires_grad=False)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    runtime = load_runtime("openvino", "fp32", threads=1)
    assert isinstance(writable, Writable)
    found = runtime.compile(writable, [image])(image)[0].clone()
    converted = runtime.compile(model, [image])(image)[0]
    # Several functions in a row may be fused in another order.
    torch.testing.assert_close(found, converted, rtol=0, atol=1e-6 if isinstance(model, Functions) else 0)
    torch.testing.assert_close(found, model(image), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("classes", [1, 2, 8])
def test_the_largest_class_is_torchs(classes):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.randint(-3, 4, (1, classes, 9, 33), generator=generator).float()
    logits[0, 0, 0, 0], logits[0, -1, 1, 1] = float("nan"), float("inf")
    run = load_runtime("openvino", "bf16").compile(LargestClass(), [logits], exact=True)
    assert torch.equal(run(logits)[0], LargestClass()(logits))
