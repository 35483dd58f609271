"""DeepLabV3+, in the variant that was used for pores and grains of rocks.

Chen, Zhu, Papandreou, Schroff, Adam: Encoder-decoder with atrous separable convolution (ECCV 2018), with plain
convolutions. The encoder is a ResNet with torchvision's names (post-activation), so that published weight files can be
loaded; the original code used the pre-activation ResNet. Bilinear resampling uses half-pixel centres.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from microseg_ray.models.architectures.blocks import (
    ScaledInput,
    convolution,
    cut_to,
    full_precision,
    input_scaling,
    padded_sides,
)
from microseg_ray.models.architectures.resnet import ResNetEncoder

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DeepLabV3Plus"]

_WIDTH, _LOW_LEVEL, _LOW_STRIDE = 256, 48, 4
_RATES = (6, 12, 18)
_WEIGHT_STRIDE = 16
"""Output stride for the rates 6, 12, 18; they are doubled at half of it."""


class DeepLabV3Plus(nn.Module):
    """DeepLabV3+ with a ResNet encoder.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        encoder: `resnet50` or `resnet101`.
        output_stride: Output stride of the encoder, 8 or 16; the rates of the pyramid are 6, 12, 18 at 16, doubled at 8.
        image_pooling: Whether to include the branch that averages over the whole tile. With it, predictions depend on the
            tile's position, so that no halo makes stitching exact, and training needs at least two tiles per batch.
        scaling: Input range of the encoder's weights.

    Raises:
        ValueError: Unknown encoder or output stride.

    Example:
        >>> model = DeepLabV3Plus(1, 3, image_pooling=False).eval()
        >>> model.stride, model.rates, model(torch.zeros(1, 1, 20, 33)).shape
        (16, (6, 12, 18), torch.Size([1, 3, 20, 33]))
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        encoder: str = "resnet50",
        output_stride: int = 16,
        *,
        image_pooling: bool = True,
        scaling: ScaledInput = "plain",
    ) -> None:
        super().__init__()
        if encoder not in {"resnet50", "resnet101"}:
            raise ValueError(f"encoder {encoder!r} is not one of DeepLabV3+'s; they are resnet50, resnet101")
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride {output_stride} is not possible; possible are 8, 16")
        self.in_channels = in_channels
        self.classes = classes
        self.stride = output_stride
        self.rates = tuple(rate * _WEIGHT_STRIDE // output_stride for rate in _RATES)
        self.scaling = input_scaling(scaling, in_channels)
        self.encoder = ResNetEncoder(encoder, in_channels, output_stride)
        self.pyramid = _Pyramid(self.encoder.channels[-1], self.rates, image_pooling=image_pooling)
        self.low_level = nn.Sequential(*convolution(self.encoder.channels[1], _LOW_LEVEL, 1))
        self.up = nn.Upsample(scale_factor=output_stride // _LOW_STRIDE, mode="bilinear")
        self.refine = nn.Sequential(*convolution(_WIDTH + _LOW_LEVEL, _WIDTH), *convolution(_WIDTH, _WIDTH))
        self.head = nn.Conv2d(_WIDTH, classes, kernel_size=1)
        self.last = nn.Upsample(scale_factor=_LOW_STRIDE, mode="bilinear")

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch.

        Args:
            images: float (n, in_channels, y, x) of any size; if sides are not multiples of `stride`, the bottom and the
                right are padded internally with the last row and column.

        Returns:
            float32 logits (n, classes, y, x).
        """
        maps = self.encoder(self.scaling(padded_sides(images, self.stride)))
        joined = torch.cat([self.up(self.pyramid(maps[-1])), self.low_level(maps[1])], dim=1)
        return cut_to(self.last(full_precision(self.head, self.refine(joined))), images)


class _Pyramid(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1 and three dilated 3x3 convolutions and the tile mean, merged by a 1x1."""

    def __init__(self, before: int, rates: tuple[int, ...], *, image_pooling: bool) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                nn.Sequential(*convolution(before, _WIDTH, 1)),
                *(nn.Sequential(*convolution(before, _WIDTH, dilation=rate)) for rate in rates),
            ]
        )
        self.pooling = (
            nn.Sequential(nn.AdaptiveAvgPool2d(1), *convolution(before, _WIDTH, 1)) if image_pooling else None
        )
        count = len(self.branches) + (1 if image_pooling else 0)
        self.project = nn.Sequential(*convolution(count * _WIDTH, _WIDTH, 1))

    def forward(self, features: Tensor) -> Tensor:
        """(n, before, y, x) to (n, 256, y, x)."""
        found = [branch(features) for branch in self.branches]
        if self.pooling is not None:
            # When the receptive field is measured, the pooling is disabled and the map already has this size.
            found.append(self.pooling(features).expand(-1, -1, *features.shape[-2:]))
        joined: Tensor = self.project(torch.cat(found, dim=1))
        return joined
