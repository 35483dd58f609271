"""A U-Net whose logits do not depend on the tile's position.

All layers (zero-padded 3x3 convolutions, 2x2 max pooling, 2x2 transposed convolutions of stride 2) commute with shifts by
the model's stride. Tiles whose origins are multiples of the stride therefore give the same logits as the whole image.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

import torch
from torch import nn

from microseg_ray.models.architectures.blocks import check_sides, full_precision, initialise

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Activation", "DropoutPlace", "Norm", "UNet"]

Norm = Literal["batch", "group", "instance", "none", "pool"]
Activation = Literal["relu", "elu"]
DropoutPlace = Literal["after", "between"]

_GROUP_COUNT = 8


class UNet(nn.Module):
    """A U-Net with `depth` poolings, `width` channels at the first level and twice as many at each next level.

    Each level has two 3x3 convolutions (with a bias only if no normalisation follows), each followed by normalisation and
    activation. The 1x1 head is always computed in float32, also under bf16 autocast, because in bf16 logits that differ by
    less than its precision would become ties.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        width: Channels of the first level.
        depth: Number of poolings; the sides of an image must be multiples of `stride = 2**depth`.
        norm: `batch`, `pool` (a batch norm after each pooling and nowhere else) and `none` are tile-invariant; `group` and
            `instance` use statistics of the whole tile.
        dropout: Dropout rate of each level in training.
        activation: `relu` or `elu`.
        dropout_place: `after` drops whole channels after each level, `between` values between its two convolutions.

    With `width=32, depth=4, norm="none", activation="elu", dropout_place="between"` it is the U-Net that was published for CCD
    images: 7,759,620 parameters for one channel and four classes. Its first version is `norm="pool"` for three channels.

    Raises:
        ValueError: Unknown norm, activation or `dropout_place`; on call, sides that are not multiples of the stride.

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
        activation: Activation = "relu",
        dropout_place: DropoutPlace = "after",
    ) -> None:
        super().__init__()
        for option, value, known in (
            ("activation", activation, get_args(Activation)),
            ("dropout_place", dropout_place, get_args(DropoutPlace)),
        ):
            if value not in known:
                raise ValueError(f"{option} {value!r} is unknown; known are {', '.join(known)}")
        self.in_channels = in_channels
        self.classes = classes
        self.stride = 2**depth
        widths = [width * 2**level for level in range(depth + 1)]

        def level(before: int, after: int) -> nn.Sequential:
            return _level(before, after, norm, activation, _Dropout(dropout, dropout_place))

        self.encoder = nn.ModuleList(
            level(before, after) for before, after in zip([in_channels, *widths], widths, strict=False)
        )
        self.pool = nn.MaxPool2d(2)
        self.pooled = nn.ModuleList(nn.BatchNorm2d(w) if norm == "pool" else nn.Identity() for w in widths[:-1])
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, kernel_size=2, stride=2) for w in reversed(widths[:-1]))
        self.decoder = nn.ModuleList(level(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        initialise(self, self.head)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            images: float (n, in_channels, y, x), y and x multiples of `stride`.

        Returns:
            Logits (n, classes, y, x), float32 (float64 for a float64 model).

        Raises:
            ValueError: A side is not a positive multiple of the stride.

        Example:
            >>> UNet(1, 2, width=2, depth=1).forward(torch.zeros(1, 1, 4, 4)).dtype
            torch.float32
        """
        check_sides(images, self.stride)
        features = self.encoder[0](images)
        skips: list[Tensor] = []
        for pooled, level in zip(self.pooled, list(self.encoder)[1:], strict=True):
            skips.append(features)
            features = level(pooled(self.pool(features)))
        for up, level in zip(self.up, self.decoder, strict=True):
            features = level(torch.cat([skips.pop(), up(features)], dim=1))
        return full_precision(self.head, features)


class _Dropout(NamedTuple):
    share: float
    place: DropoutPlace


def _level(before: int, after: int, norm: Norm, activation: Activation, dropout: _Dropout) -> nn.Sequential:
    """Two convolutions with normalisation and activation; a flat Sequential, so that norms can be folded by position."""
    layers: list[nn.Module] = []
    for channels in (before, after):
        if layers and dropout.share > 0 and dropout.place == "between":
            layers.append(nn.Dropout(dropout.share))
        layers.append(nn.Conv2d(channels, after, kernel_size=3, padding=1, bias=norm in {"none", "pool"}))
        layers += _norm(norm, after)
        layers.append(nn.ReLU(inplace=True) if activation == "relu" else nn.ELU(inplace=True))
    if dropout.share > 0 and dropout.place == "after":
        layers.append(nn.Dropout2d(dropout.share))
    return nn.Sequential(*layers)


def _norm(norm: Norm, channels: int) -> list[nn.Module]:
    match norm:
        case "batch":
            return [nn.BatchNorm2d(channels)]
        case "group":
            return [nn.GroupNorm(math.gcd(_GROUP_COUNT, channels), channels)]
        case "instance":
            return [nn.InstanceNorm2d(channels, affine=True)]
        case "none" | "pool":
            return []
        case _:
            raise ValueError(f"norm {norm!r} is unknown; known are {', '.join(get_args(Norm))}")
