"""Building blocks shared by several architectures."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

__all__ = [
    "InputScaling",
    "ScaledInput",
    "check_sides",
    "convolution",
    "cut_to",
    "full_precision",
    "initialise",
    "input_scaling",
    "padded_sides",
]

ScaledInput = Literal["plain", "imagenet", "caffe"]

# Mean and standard deviation of ImageNet (red, green, blue), used by torchvision's and MicroNet's weights.
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Mean of 0 to 255 (blue, green, red), used by the VGG weights of Caffe and Keras.
_CAFFE_MEAN = (103.939, 116.779, 123.68)


def check_sides(images: Tensor, stride: int) -> None:
    """Check that the sides of images are positive multiples of a model's stride.

    Raises:
        ValueError: They are not.

    Example:
        >>> check_sides(torch.zeros(1, 1, 18, 24), 4)
        Traceback (most recent call last):
            ...
        ValueError: image of 18 x 24 px (y, x): both sides must be positive multiples of the model's stride 4; pad ...
    """
    height, width = images.shape[-2:]
    if height % stride or width % stride or not (height and width):
        raise ValueError(
            f"image of {height} x {width} px (y, x): both sides must be positive multiples of the model's stride "
            f"{stride}; pad the bottom and the right"
        )


def padded_sides(images: Tensor, stride: int) -> Tensor:
    """Images whose sides are multiples of a stride: the bottom and the right are padded with the last row and column.

    Example:
        >>> padded_sides(torch.zeros(1, 1, 18, 24), 4).shape
        torch.Size([1, 1, 20, 24])
    """
    height, width = images.shape[-2:]
    below, beside = -height % stride, -width % stride
    return F.pad(images, (0, beside, 0, below), mode="replicate") if below or beside else images


def cut_to(features: Tensor, images: Tensor) -> Tensor:
    """The part of features that lies over images; undoes `padded_sides`.

    Example:
        >>> cut_to(torch.zeros(1, 3, 20, 24), torch.zeros(1, 1, 18, 24)).shape
        torch.Size([1, 3, 18, 24])
    """
    height, width = images.shape[-2:]
    return features if features.shape[-2:] == (height, width) else features[..., :height, :width]


def full_precision(head: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Compute the logits of a head in float32, also under bf16 autocast.

    In bf16, logits that differ by less than its precision would become ties.

    Example:
        >>> with torch.autocast("cpu", dtype=torch.bfloat16):
        ...     full_precision(nn.Conv2d(1, 1, 1), torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16)).dtype
        torch.float32
    """
    with torch.autocast(device_type=features.device.type, enabled=False):
        return head(features.to(torch.promote_types(features.dtype, torch.float32)))


def initialise(model: nn.Module, head: nn.Conv2d) -> None:
    """Initialise a model whose convolutions are followed by ReLUs, and its 1x1 head, which is not.

    Args:
        model: The whole model; He initialisation for convolutions, 0 for biases.
        head: The part of it that computes logits; initialised so that its outputs have the scale of its inputs.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1))
        >>> initialise(model, model[1])
        >>> bool(model[0].bias.any())
        False
    """
    for module in model.modules():
        if isinstance(module, nn.ConvTranspose2d):
            # Kernel = stride, so each output pixel depends on one input pixel; torch's fan would count four. No ReLU follows.
            nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_channels))
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_channels))


def convolution(before: int, after: int, kernel: int = 3, *, dilation: int = 1) -> list[nn.Module]:
    """A size-preserving convolution, batch norm and ReLU, in one Sequential so that the norm can be folded.

    Example:
        >>> [type(layer).__name__ for layer in convolution(1, 2)]
        ['Conv2d', 'BatchNorm2d', 'ReLU']
    """
    padding = dilation * (kernel // 2)
    return [
        nn.Conv2d(before, after, kernel, padding=padding, dilation=dilation, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    ]


class InputScaling(nn.Module):
    """Converts scaled intensities (0 to 1) to the input range of published weights.

    `imagenet`: (value - mean) / standard deviation of ImageNet; `caffe`: 0 to 255 less ImageNet's mean, channels in the
    order blue, green, red. For other than three channels the mean of the three values is used.

    Args:
        kind: `imagenet` or `caffe`.
        channels: Channels of the images.

    Example:
        >>> InputScaling("imagenet", 3)(torch.full((1, 3, 1, 1), 0.5)).flatten().round(decimals=3).tolist()
        [0.06..., 0.19..., 0.41...]
    """

    mean: Tensor
    std: Tensor

    def __init__(self, kind: ScaledInput, channels: int) -> None:
        super().__init__()
        mean: tuple[float, ...]
        std: tuple[float, ...]
        match kind:
            case "imagenet":
                mean, std = _IMAGENET_MEAN, _IMAGENET_STD
            case "caffe":
                mean, std = tuple(value / 255 for value in _CAFFE_MEAN), (1 / 255,) * 3
            case _:
                raise ValueError(f"input_scaling {kind!r} is unknown; known are plain, imagenet, caffe")
        self.reverse = kind == "caffe" and channels == 3
        for name, figures in (("mean", mean), ("std", std)):
            each = figures if channels == 3 else (sum(figures) / 3,) * channels
            # Saved with the weights, because a model built on the meta device is filled from them.
            self.register_buffer(name, torch.tensor(each).reshape(1, channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, channels, y, x) to the same shape."""
        ordered = images.flip(1) if self.reverse else images
        return (ordered - self.mean) / self.std


def input_scaling(kind: ScaledInput, channels: int) -> nn.Module:
    """`InputScaling`, or nothing for `plain`.

    Example:
        >>> input_scaling("plain", 1)
        Identity()
    """
    return nn.Identity() if kind == "plain" else InputScaling(kind, channels)
