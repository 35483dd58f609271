"""U-Net decoders for encoders with published weights: ResNets, and the backbones of timm if it is installed."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.models.architectures.blocks import (
    ScaledInput,
    check_sides,
    convolution,
    full_precision,
    input_scaling,
)
from microseg_ray.models.architectures.resnet import ResNetEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["EncoderUNet", "resnet_unet", "timm_unet"]

_WIDTHS = (256, 128, 64, 32, 16)
_FINEST = {1: 0, 2: 1, 4: 2}
"""Allowed reductions of the first map, and the number of decoder steps each needs."""


class EncoderUNet(nn.Module):
    """A U-Net decoder on the feature maps of an encoder.

    Each step doubles the resolution (nearest), concatenates the encoder's map of that resolution and applies two 3x3
    convolutions with batch norm and ReLU: 256 channels at the coarsest step, halved at each further one.

    Args:
        encoder: Module from images to feature maps, finest first, each of half the side of the one before; the first of 1,
            1/2 or 1/4 of the image's side.
        channels: Channels of those maps.
        reductions: Side of the image divided by that of each map.
        in_channels: Channels of the images.
        classes: Number of classes.
        scaling: Input range of the encoder's weights.

    Raises:
        ValueError: The maps do not halve; on call, sides that are not multiples of the stride.

    Example:
        >>> model = resnet_unet(1, 3, encoder="resnet18").eval()
        >>> model(torch.zeros(1, 1, 32, 64)).shape, model.stride
        (torch.Size([1, 3, 32, 64]), 32)
    """

    def __init__(
        self,
        encoder: nn.Module,
        channels: Sequence[int],
        reductions: Sequence[int],
        in_channels: int,
        classes: int,
        scaling: ScaledInput = "plain",
    ) -> None:
        super().__init__()
        if (
            len(channels) > len(_WIDTHS) + 1
            or any(coarse != 2 * fine for fine, coarse in pairwise(reductions))
            or (reductions[0] not in _FINEST)
        ):
            raise ValueError(
                f"feature maps of 1/{list(reductions)} of the side: each must have half the grid of the last"
            )
        self.in_channels = in_channels
        self.classes = classes
        self.stride = int(reductions[-1])
        self.foreign = False
        self.scaling = input_scaling(scaling, in_channels)
        self.encoder = encoder
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        # If the encoder's first map is coarser than the image, finer steps have no map to concatenate.
        skips = [*channels[-2::-1], *([0] * _FINEST[reductions[0]])]
        steps: list[nn.Module] = []
        before = channels[-1]
        for skip, width in zip(skips, _WIDTHS, strict=False):
            steps.append(nn.Sequential(*convolution(before + skip, width), *convolution(width, width)))
            before = width
        self.decoder = nn.ModuleList(steps)
        self.head = nn.Conv2d(before, classes, kernel_size=1)

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, in_channels, y, x), sides multiples of `stride`, to float32 logits (n, classes, y, x)."""
        check_sides(images, self.stride)
        skips: list[Tensor] = list(self.encoder(self.scaling(images)))
        features = skips.pop()
        for step in self.decoder:
            features = self.up(features)
            features = step(torch.cat([features, skips.pop()], dim=1) if skips else features)
        return full_precision(self.head, features)


def resnet_unet(
    in_channels: int, classes: int, encoder: str = "resnet34", scaling: ScaledInput = "plain"
) -> EncoderUNet:
    """A U-Net on a ResNet encoder with torchvision's names.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        encoder: A key of `resnet.RESNETS`.
        scaling: Input range of the encoder's weights.

    Example:
        >>> resnet_unet(1, 2, encoder="resnet18").stride
        32
    """
    built = ResNetEncoder(encoder, in_channels)
    return EncoderUNet(built, built.channels, (2, 4, 8, 16, 32), in_channels, classes, scaling)


def timm_unet(in_channels: int, classes: int, encoder: str = "resnet34", scaling: ScaledInput = "plain") -> EncoderUNet:
    """A U-Net on any backbone of timm with feature maps of 1/2 to 1/32 of the side.

    Raises:
        SettingsError: timm is not installed or has no such backbone, or the backbone has other feature maps.
    """
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        # A torchvision that does not match the installed torch raises RuntimeError.
        raise SettingsError(
            f"model.name: timm needs the package timm ({error}); pip install 'microseg_ray[timm]'"
        ) from error
    try:
        built: Any = timm.create_model(encoder, pretrained=False, features_only=True, in_chans=in_channels)
        channels, reductions = built.feature_info.channels(), built.feature_info.reduction()
        model = EncoderUNet(built, channels, reductions, in_channels, classes, scaling)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"model.encoder: {encoder!r} cannot be the encoder of a U-Net ({error}); timm.list_models() has the names"
        ) from error
    model.foreign = True
    return model
