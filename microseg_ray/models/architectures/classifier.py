"""The coarse/fine classifier: one class for a whole micrograph.

Micrographs are resized to a fixed size before. The output is one logit per class, so that a softmax gives probabilities
as for the other models.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from microseg_ray.errors import SettingsError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CoarseFine", "build_classifier"]

_WIDTHS = (8, 16, 32, 32)
_HIDDEN = 128


class CoarseFine(nn.Module):
    """Four 3x3 convolutions (8, 16, 32, 32 channels, no padding) with ReLU and 2x2 pooling, a dense layer of 128, a head.

    For two classes the head has one output z and the logits are 0 and z, so that the softmax of the second equals the sigmoid
    of z: 1,653,937 parameters for RGB images of 432 x 288 px.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes, 2 or more.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        dropout: Dropout rate before each dense layer in training.

    Raises:
        ValueError: Fewer than two classes, or images too small; on call, images of another size.

    Example:
        >>> model = CoarseFine(3, 2)
        >>> sum(parameter.numel() for parameter in model.parameters()), model(torch.zeros(1, 3, 432, 288)).shape
        (1653937, torch.Size([1, 2]))
    """

    stride = 1
    sees_all = "model (one class for the whole micrograph)"

    def __init__(
        self, in_channels: int, classes: int, height: int = 432, width: int = 288, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"{classes} classes: a classifier needs two or more")
        self.in_channels = in_channels
        self.classes = classes
        self.size = (height, width)
        layers: list[nn.Module] = []
        before = in_channels
        for after in _WIDTHS:
            layers += [nn.Conv2d(before, after, kernel_size=3), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            before, height, width = after, (height - 2) // 2, (width - 2) // 2
        if min(height, width) < 1:
            raise ValueError(f"images of {self.size[0]} x {self.size[1]} px are too small; both sides need 46 or more")
        self.features = nn.Sequential(*layers)
        self.dense = nn.Linear(before * height * width, _HIDDEN)
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(_HIDDEN, 1 if classes == 2 else classes)

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, in_channels, height, width) to float32 logits (n, classes)."""
        if tuple(images.shape[-2:]) != self.size:
            raise ValueError(
                f"images of {images.shape[-2]} x {images.shape[-1]} px (y, x): this classifier sees {self.size[0]} x "
                f"{self.size[1]}; resize them"
            )
        features = self.dropout(self.features(images).flatten(1))
        features = self.dropout(self.activation(self.dense(features)))
        with torch.autocast(device_type=features.device.type, enabled=False):
            logits: Tensor = self.head(features.to(torch.promote_types(features.dtype, torch.float32)))
        return torch.cat([torch.zeros_like(logits), logits], dim=1) if self.classes == 2 else logits


def build_classifier(
    in_channels: int = 3, classes: int = 2, *, height: int = 432, width: int = 288, dropout: float = 0.0
) -> CoarseFine:
    """Build a classifier with initial weights, like `build_model("coarse_fine", ...)`.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes, 2 or more.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        dropout: Dropout rate before each dense layer in training.

    Raises:
        SettingsError: A value is invalid.

    Example:
        >>> build_classifier(1, 3, height=64, width=64)(torch.zeros(5, 1, 64, 64)).shape
        torch.Size([5, 3])
    """
    try:
        return CoarseFine(in_channels, classes, height, width, dropout)
    except ValueError as error:
        raise SettingsError(f"model: {error}") from error
