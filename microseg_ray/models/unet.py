"""A U-Net whose logits do not depend on where a tile was cut.

Zero-padded 3x3 convolutions, 2x2 max pooling and 2x2 transposed convolutions of stride 2: every step commutes with a
shift by the model's stride, so tiles whose origins are multiples of the stride predict what the whole image does.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Norm", "UNet"]

Norm = Literal["batch", "group", "instance", "none"]

_GROUP_COUNT = 8


class UNet(nn.Module):
    """A U-Net: `depth` poolings, `width` channels at the first level and twice as many at each next one.

    Each level has two 3x3 convolutions (with a bias only where no normalisation follows), each followed by the
    normalisation and a ReLU. The 1x1 head is always computed in float32, under bf16 autocast too: logits that differ by
    less than bf16 can say must not become ties.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        width: Channels of the first level.
        depth: Number of poolings; the sides of an image must be multiples of `stride = 2**depth`.
        norm: `batch` and `none` are tile-invariant; `group` and `instance` take statistics of the whole tile.
        dropout: Share of channels that are dropped after each level while training.

    Raises:
        ValueError: Unknown norm; when called, an image whose sides are no multiples of the stride.

    Example:
        >>> model = UNet(in_channels=1, classes=3, width=4, depth=2)
        >>> model(torch.zeros(2, 1, 16, 24)).shape
        torch.Size([2, 3, 16, 24])
        >>> model(torch.zeros(1, 1, 18, 24))
        Traceback (most recent call last):
            ...
        ValueError: image of 18 x 24 px (y, x): both sides must be positive multiples of the model's stride 4; pad ...
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int = 32,
        depth: int = 4,
        norm: Norm = "batch",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.classes = classes
        self.stride = 2**depth
        widths = [width * 2**level for level in range(depth + 1)]
        self.encoder = nn.ModuleList(
            _level(before, after, norm, dropout) for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, kernel_size=2, stride=2) for w in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(_level(2 * w, w, norm, dropout) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                # Kernel = stride, so an output pixel sees one input pixel: torch's fan would count four. No ReLU follows.
                nn.init.normal_(module.weight, std=1 / math.sqrt(module.in_channels))
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            else:
                continue
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.head.weight, std=1 / math.sqrt(self.head.in_channels))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            images: float (n, in_channels, y, x), y and x multiples of `stride`.

        Returns:
            Logits (n, classes, y, x), float32 (float64 for a float64 model).

        Raises:
            ValueError: A side is no positive multiple of the stride.

        Example:
            >>> UNet(1, 2, width=2, depth=1).forward(torch.zeros(1, 1, 4, 4)).dtype
            torch.float32
        """
        height, width = images.shape[-2:]
        if height % self.stride or width % self.stride or not (height and width):
            raise ValueError(
                f"image of {height} x {width} px (y, x): both sides must be positive multiples of the model's stride "
                f"{self.stride}; pad the bottom and the right"
            )
        features = images
        skips: list[Tensor] = []
        for level in self.encoder:
            if skips:
                features = self.pool(features)
            features = level(features)
            skips.append(features)
        skips.pop()
        for up, level in zip(self.up, self.decoder, strict=True):
            features = level(torch.cat([skips.pop(), up(features)], dim=1))
        with torch.autocast(device_type=features.device.type, enabled=False):
            logits: Tensor = self.head(features.to(torch.promote_types(features.dtype, torch.float32)))
        return logits


def _level(before: int, after: int, norm: Norm, dropout: float) -> nn.Sequential:
    """Two convolutions with normalisation and ReLU; a flat Sequential, so that norms can be folded by place."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        layers.append(nn.Conv2d(channels, after, kernel_size=3, padding=1, bias=norm == "none"))
        layers += _norm(norm, after)
        layers.append(nn.ReLU(inplace=True))
    if dropout > 0:
        layers.append(nn.Dropout2d(dropout))
    return nn.Sequential(*layers)


def _norm(norm: Norm, channels: int) -> list[nn.Module]:
    match norm:
        case "batch":
            return [nn.BatchNorm2d(channels)]
        case "group":
            return [nn.GroupNorm(math.gcd(_GROUP_COUNT, channels), channels)]
        case "instance":
            return [nn.InstanceNorm2d(channels, affine=True)]
        case "none":
            return []
        case _:
            raise ValueError(f"norm {norm!r} is unknown; known are batch, group, instance, none")
