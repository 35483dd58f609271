"""A U-Net on VGG16, in the variant that was used for fracture surfaces of ceramics.

Simonyan, Zisserman: Very deep convolutional networks (2015) for the encoder, whose state-dict names are torchvision's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from microseg_ray.models.architectures.blocks import ScaledInput, check_sides, full_precision, input_scaling

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["VGG16Encoder", "VGG16UNet"]

_STAGES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_DECODER = (1024, 512, 256, 128, 128)


class VGG16Encoder(nn.Module):
    """The 13 convolutions of VGG16; returns the map before each pooling, and the last pooled map.

    Example:
        >>> [tuple(features.shape[1:]) for features in VGG16Encoder(3)(torch.zeros(1, 3, 32, 32))]
        [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 2, 2), (512, 1, 1)]
        >>> next(iter(VGG16Encoder(3).state_dict()))
        'features.0.weight'
    """

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = in_channels
        for widths in _STAGES:
            for width in widths:
                # Not in place, because the decoder reads the maps before pooling.
                layers += [nn.Conv2d(before, width, kernel_size=3, padding=1), nn.ReLU()]
                before = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        _initialise(self)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Six maps of a batch (n, in_channels, y, x)."""
        maps: list[Tensor] = []
        features = images
        for layer in self.features:
            if isinstance(layer, nn.MaxPool2d | nn.AvgPool2d):
                maps.append(features)
            features = layer(features)
        return [*maps, features]


class VGG16UNet(nn.Module):
    """A U-Net on VGG16 without norms or dropout; 55,789,763 parameters for RGB and three classes.

    One 3x3 convolution of 1024 channels follows the last pooling; then each step doubles the resolution (nearest),
    concatenates the encoder's map and applies two 3x3 convolutions: 1024, 512, 256, 128, 128 channels.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        linear_decoder: No activation between the decoder's convolutions, as in the original.
        scaling: Input range of the encoder's weights; `caffe` in the original.
        valid_head: The head has no padding, so that logits are two pixels smaller along each axis, as in the original. Not
            for segmentation runs, which need logits of the image's size.

    Raises:
        ValueError: On call, sides that are not multiples of the stride 32.

    Example:
        >>> model = VGG16UNet(3, 3)
        >>> sum(parameter.numel() for parameter in model.parameters())
        55789763
    """

    stride = 32

    def __init__(
        self,
        in_channels: int,
        classes: int,
        *,
        linear_decoder: bool = True,
        scaling: ScaledInput = "plain",
        valid_head: bool = False,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.classes = classes
        self.scaling = input_scaling(scaling, in_channels)
        self.encoder = VGG16Encoder(in_channels)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        skips = [stage[-1] for stage in reversed(_STAGES)]
        self.bottom = nn.Sequential(*_decoding(skips[0], (_DECODER[0],), linear=linear_decoder))
        before = _DECODER[0]
        steps: list[nn.Module] = []
        for skip, width in zip(skips, _DECODER, strict=True):
            steps.append(nn.Sequential(*_decoding(before + skip, (width, width), linear=linear_decoder)))
            before = width
        self.decoder = nn.ModuleList(steps)
        self.head = nn.Conv2d(before, classes, kernel_size=3, padding=0 if valid_head else 1)
        for part in (self.bottom, self.decoder, self.head):
            _initialise(part, linear=linear_decoder)

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, in_channels, y, x), sides multiples of 32, to float32 logits (n, classes, y, x)."""
        check_sides(images, self.stride)
        skips: list[Tensor] = self.encoder(self.scaling(images))
        features = self.bottom(skips.pop())
        for step in self.decoder:
            features = step(torch.cat([self.up(features), skips.pop()], dim=1))
        return full_precision(self.head, features)


def _decoding(before: int, widths: tuple[int, ...], *, linear: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    for width in widths:
        layers.append(nn.Conv2d(before, width, kernel_size=3, padding=1))
        if not linear:
            layers.append(nn.ReLU(inplace=True))
        before = width
    return layers


def _initialise(part: nn.Module, *, linear: bool = False) -> None:
    for module in part.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear" if linear else "relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
