"""A residual U-Net with most layers at half resolution and coarser, for short trainings from scratch.

Full resolution takes most of a U-Net's time, so it has only two narrow convolutions: one on the input, and one that
restores edges. The other layers are residual blocks at half resolution and coarser. The coarsest level has dilated blocks,
which provide the context to distinguish a large grain from a patch of matrix.

All layers (zero-padded, strided and transposed convolutions) commute with shifts by the model's stride. Tiles whose
origins are multiples of the stride therefore give the same logits as the whole image.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn

from microseg_ray.models.architectures.blocks import check_sides, full_precision, initialise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["ResUNet"]


class ResUNet(nn.Module):
    """A residual U-Net with `depth` levels, the first at half resolution, and a narrow path at full resolution.

    Level l (from 0) has `width * max(1, 2 * l)` channels at a resolution of 1 / 2**(l + 1). The 1x1 head is always computed
    in float32, also under bf16 autocast. Batch norms are used, which are constant in evaluation mode.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        width: Channels of the level at half resolution.
        depth: Number of levels; the sides of an image must be multiples of `stride = 2**depth`.
        dilations: Dilation of each residual block of the coarsest level; they determine the receptive field.
        detail: Channels of the path at full resolution; the head reads twice as many.
        dropout: Share of channels of the coarsest level that are dropped in training.

    Raises:
        ValueError: No level, or no block at the coarsest level; on call, sides that are not multiples of the stride.

    Example:
        >>> model = ResUNet(in_channels=1, classes=3, width=4, depth=2)
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
        width: int = 24,
        depth: int = 4,
        dilations: Sequence[int] = (1, 2, 4),
        detail: int = 8,
        dropout: float = 0.0,
    ) -> None:
        if depth < 1 or not dilations:
            raise ValueError(
                f"depth {depth} and dilations {tuple(dilations)}: at least one level and one block are needed"
            )
        super().__init__()
        self.in_channels = in_channels
        self.classes = classes
        self.stride = 2**depth
        widths = [width * max(1, 2 * level) for level in range(depth)]
        self.detail = nn.Sequential(*_step(in_channels, detail), nn.ReLU(inplace=True))
        self.stem = nn.Sequential(*_step(in_channels, widths[0], kernel=5, stride=2), nn.ReLU(inplace=True))
        self.down = nn.ModuleList(
            nn.Conv2d(fine, coarse, kernel_size=2, stride=2) for fine, coarse in itertools.pairwise(widths)
        )
        # Two blocks only at coarse levels: the first two levels cost more than all others together.
        self.encoder = nn.ModuleList(
            nn.Sequential(*(_Residual(w, w) for _ in range(1 if level < 2 else 2)))
            for level, w in enumerate(widths[:-1])
        )
        self.context = nn.Sequential(*(_Residual(widths[-1], widths[-1], dilation) for dilation in dilations))
        self.dropout = nn.Dropout2d(dropout)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(coarse, fine, kernel_size=2, stride=2)
            for coarse, fine in zip(widths[:0:-1], widths[-2::-1], strict=True)
        )
        self.decoder = nn.ModuleList(_Residual(2 * w, w) for w in widths[-2::-1])
        self.last = nn.ConvTranspose2d(widths[0], 2 * detail, kernel_size=2, stride=2)
        self.refine = nn.Sequential(*_step(3 * detail, 2 * detail), nn.ReLU(inplace=True))
        self.head = nn.Conv2d(2 * detail, classes, kernel_size=1)
        initialise(self, self.head)
        for module in self.modules():
            if isinstance(module, _Residual):
                module.start_small()

    def forward(self, images: Tensor) -> Tensor:
        """Logits of a batch of images.

        Args:
            images: float (n, in_channels, y, x), y and x multiples of `stride`.

        Returns:
            Logits (n, classes, y, x), float32 (float64 for a float64 model).

        Raises:
            ValueError: A side is not a positive multiple of the stride.

        Example:
            >>> ResUNet(1, 2, width=2, depth=1).forward(torch.zeros(1, 1, 4, 4)).dtype
            torch.float32
        """
        check_sides(images, self.stride)
        features = self.stem(images)
        skips: list[Tensor] = []
        for level, down in zip(self.encoder, self.down, strict=True):
            skips.append(level(features))
            features = down(skips[-1])
        features = self.dropout(self.context(features))
        for up, level in zip(self.up, self.decoder, strict=True):
            features = level(torch.cat([skips.pop(), up(features)], dim=1))
        features = self.refine(torch.cat([self.detail(images), self.last(features)], dim=1))
        return full_precision(self.head, features)


class _Residual(nn.Module):
    """Two 3x3 convolutions with a shortcut, which is a 1x1 convolution if the number of channels changes."""

    def __init__(self, before: int, after: int, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_step(before, after, dilation=dilation), nn.ReLU(inplace=True), *_step(after, after, dilation=dilation)
        )
        self.shortcut = nn.Identity() if before == after else nn.Conv2d(before, after, kernel_size=1, bias=False)
        self.activation = nn.ReLU(inplace=True)

    def forward(self, features: Tensor) -> Tensor:
        total: Tensor = self.activation(self.body(features) + self.shortcut(features))
        return total

    def start_small(self) -> None:
        """Scale down the last norm, so that the shortcut dominates at first and activations keep their scale."""
        last = self.body[-1]
        if isinstance(last, nn.BatchNorm2d):
            nn.init.constant_(last.weight, 0.5)


def _step(before: int, after: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution and its norm in one Sequential, so that the norm can be folded."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(before, after, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    return convolution, nn.BatchNorm2d(after)
