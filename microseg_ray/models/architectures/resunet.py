"""A residual U-Net that works from half resolution downwards and sees far, for short trainings from scratch.

Full resolution costs most of a U-Net's time, so it gets two narrow convolutions only: one that looks at the pixels, one
that puts the edges back. Everything else is residual blocks on a grid of half the pixels per side and coarser, and the
coarsest level has dilated blocks, which is where the context comes from that tells a large grain from a patch of matrix.

Zero-padded convolutions, strided and transposed ones: every step commutes with a shift by the model's stride, so tiles
whose origins are multiples of the stride predict what the whole image does.
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
    """A residual U-Net on `depth` grids, the first of half resolution, with a narrow path of full resolution.

    Level l (from 0) has `width * max(1, 2 * l)` channels on a grid of 1 / 2**(l + 1). The 1x1 head is always computed in
    float32, under bf16 autocast too. The normalisation is that of the batch, which is a constant in evaluation.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes.
        width: Channels of the level of half resolution.
        depth: Number of levels; the sides of an image must be multiples of `stride = 2**depth`.
        dilations: Dilation of each residual block of the coarsest level; together they set how far the model sees.
        detail: Channels of the path of full resolution; the head reads twice as many.
        dropout: Share of channels of the coarsest level that are dropped while training.

    Raises:
        ValueError: No level, no block of the coarsest level; when called, an image whose sides are no multiples of the
            stride.

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
        # Two blocks where pixels are few: the first two levels cost more than all that follow.
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
            ValueError: A side is no positive multiple of the stride.

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
    """Two 3x3 convolutions beside a shortcut, which is a 1x1 convolution where the channels change."""

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
        """Let the shortcut lead at first: the sum of many blocks then stays of the order of one."""
        last = self.body[-1]
        if isinstance(last, nn.BatchNorm2d):
            nn.init.constant_(last.weight, 0.5)


def _step(before: int, after: int, kernel: int = 3, stride: int = 1, dilation: int = 1) -> tuple[nn.Module, nn.Module]:
    """A convolution and its norm, side by side in a Sequential so that the norm can be folded."""
    padding = dilation * (kernel // 2)
    convolution = nn.Conv2d(before, after, kernel, stride=stride, padding=padding, dilation=dilation, bias=False)
    return convolution, nn.BatchNorm2d(after)
