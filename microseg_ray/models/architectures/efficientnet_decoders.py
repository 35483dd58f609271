"""Segmentation models on EfficientNet-Lite encoders: a U-Net, and a decoder like that of DeepLabV3+.

Both leave full resolution, which takes most of the time of a U-Net, to a few channels. Neither looks at the whole tile.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from microseg_ray.models.architectures.blocks import check_sides, convolution, full_precision, initialise
from microseg_ray.models.architectures.efficientnet import REDUCTIONS, EfficientNetEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["EfficientNetDeepLab", "EfficientNetUNet"]

_LOW_LEVEL = 24
_FEWEST = 2


class EfficientNetUNet(nn.Module):
    """A U-Net whose encoder is an EfficientNet-Lite.

    The level of 1 / 2**(l + 1) of the side has `width * max(1, 2 * l)` channels in the decoder, and two 3x3 convolutions. At
    full resolution, one 3x3 convolution of the image and one after the decoder restore edges.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        encoder: A key of `efficientnet.EFFICIENTNETS`.
        stages: Feature maps of the encoder that are used, 2 to 5; the stride is `2**stages`.
        width: Channels of the decoder at half resolution.
        detail: Channels of the path at full resolution; the head reads twice as many.
        dropout: Share of channels of the coarsest map that are dropped in training.

    Raises:
        ValueError: Unknown encoder or number of stages; on call, sides that are not multiples of the stride.

    Example:
        >>> model = EfficientNetUNet(1, 3, stages=3, width=8).eval()
        >>> model(torch.zeros(1, 1, 16, 32)).shape, model.stride
        (torch.Size([1, 3, 16, 32]), 8)
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        encoder: str = "efficientnet_lite0",
        stages: int = 4,
        width: int = 24,
        detail: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.classes = classes
        widths = [width * max(1, 2 * level) for level in range(stages)]
        up: list[nn.Module] = []
        levels: list[nn.Module] = []
        built = _encoder(encoder, in_channels, stages)
        below = built.channels[-1]
        for skip, wide in zip(built.channels[-2::-1], widths[-2::-1], strict=True):
            up.append(nn.ConvTranspose2d(below, wide, kernel_size=2, stride=2))
            levels.append(nn.Sequential(*convolution(skip + wide, wide), *convolution(wide, wide)))
            below = wide
        self.up = nn.ModuleList(up)
        self.decoder = nn.ModuleList(levels)
        self.dropout = nn.Dropout2d(dropout)
        self.detail = nn.Sequential(*convolution(in_channels, detail))
        self.last = nn.ConvTranspose2d(below, 2 * detail, kernel_size=2, stride=2)
        self.refine = nn.Sequential(*convolution(3 * detail, 2 * detail))
        self.head = nn.Conv2d(2 * detail, classes, kernel_size=1)
        initialise(self, self.head)
        # The encoder has an initialisation of its own.
        self.encoder = built
        self.stride = REDUCTIONS[stages - 1]

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, in_channels, y, x), sides multiples of `stride`, to float32 logits (n, classes, y, x)."""
        check_sides(images, self.stride)
        skips: list[Tensor] = self.encoder(images)
        features = self.dropout(skips.pop())
        for up, level in zip(self.up, self.decoder, strict=True):
            features = level(torch.cat([skips.pop(), up(features)], dim=1))
        features = self.refine(torch.cat([self.detail(images), self.last(features)], dim=1))
        return full_precision(self.head, features)


class EfficientNetDeepLab(nn.Module):
    """A decoder like that of DeepLabV3+ on an EfficientNet-Lite.

    Chen, Zhu, Papandreou, Schroff, Adam: Encoder-decoder with atrous separable convolution (ECCV 2018): dilated convolutions
    side by side on the coarsest map, joined with the map of a quarter of the side. Here the dilated convolutions are
    depthwise, nothing averages over the tile, and the logits are upsampled from half of the side, after a path of a few
    channels that sees the image at full resolution.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        encoder: A key of `efficientnet.EFFICIENTNETS`.
        stages: Feature maps of the encoder that are used, 3 to 5; the stride is `2**stages`.
        width: Channels of the decoder at a quarter of the side.
        dilations: Dilations of the convolutions side by side; they determine the receptive field.
        detail: Channels of the path at full resolution; the head reads twice as many.
        dropout: Share of channels of the joined map that are dropped in training.

    Raises:
        ValueError: Unknown encoder, number of stages, or no dilation; on call, sides that are not multiples of the stride.

    Example:
        >>> model = EfficientNetDeepLab(1, 3, stages=3, width=8).eval()
        >>> model(torch.zeros(1, 1, 16, 32)).shape, model.stride
        (torch.Size([1, 3, 16, 32]), 8)
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        encoder: str = "efficientnet_lite0",
        stages: int = 4,
        width: int = 96,
        dilations: Sequence[int] = (1, 2, 4),
        detail: int = 8,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not dilations:
            raise ValueError("dilations (): at least one is needed")
        built = _encoder(encoder, in_channels, stages)
        if stages <= _FEWEST:
            raise ValueError(f"stages {stages} is not possible; possible are 3 to {len(REDUCTIONS)}")
        self.in_channels = in_channels
        self.classes = classes
        self.narrow = nn.Sequential(*convolution(built.channels[-1], width, 1))
        self.branches = nn.ModuleList(_separable(width, width, dilation) for dilation in dilations)
        self.project = nn.Sequential(*convolution((1 + len(dilations)) * width, width, 1))
        self.dropout = nn.Dropout2d(dropout)
        steps = stages - _FEWEST
        self.up = nn.Upsample(scale_factor=2**steps, mode="bilinear")
        self.low_level = nn.Sequential(*convolution(built.channels[1], _LOW_LEVEL, 1))
        self.refine = nn.Sequential(*convolution(width + _LOW_LEVEL, width // 2), *convolution(width // 2, width // 2))
        self.detail = nn.Sequential(*convolution(in_channels, detail))
        self.last = nn.ConvTranspose2d(width // 2, 2 * detail, kernel_size=4, stride=4)
        self.sharpen = nn.Sequential(*convolution(3 * detail, 2 * detail))
        self.head = nn.Conv2d(2 * detail, classes, kernel_size=1)
        initialise(self, self.head)
        self.encoder = built
        self.stride = REDUCTIONS[stages - 1]

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, in_channels, y, x), sides multiples of `stride`, to float32 logits (n, classes, y, x)."""
        check_sides(images, self.stride)
        maps: list[Tensor] = self.encoder(images)
        narrow = self.narrow(maps[-1])
        joined = self.project(torch.cat([narrow, *(branch(narrow) for branch in self.branches)], dim=1))
        features = self.refine(torch.cat([self.up(self.dropout(joined)), self.low_level(maps[1])], dim=1))
        features = self.sharpen(torch.cat([self.detail(images), self.last(features)], dim=1))
        return full_precision(self.head, features)


def _encoder(name: str, in_channels: int, stages: int) -> EfficientNetEncoder:
    if not _FEWEST <= stages <= len(REDUCTIONS):
        raise ValueError(f"stages {stages} is not possible; possible are {_FEWEST} to {len(REDUCTIONS)}")
    return EfficientNetEncoder(name, in_channels, stages)


def _separable(before: int, after: int, dilation: int) -> nn.Sequential:
    """A depthwise 3x3 and a 1x1 convolution, each with its norm and ReLU."""
    depthwise = nn.Conv2d(before, before, 3, padding=dilation, dilation=dilation, groups=before, bias=False)
    return nn.Sequential(depthwise, nn.BatchNorm2d(before), nn.ReLU(inplace=True), *convolution(before, after, 1))
