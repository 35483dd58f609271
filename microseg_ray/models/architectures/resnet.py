"""ResNet encoders with torchvision's state-dict names, so that published weight files can be loaded.

He, Zhang, Ren, Sun: Deep residual learning for image recognition (CVPR 2016); the stride of a bottleneck is in its 3x3
convolution, as in torchvision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["RESNETS", "ResNetEncoder"]

RESNETS: dict[str, tuple[bool, tuple[int, int, int, int]]] = {
    "resnet18": (False, (2, 2, 2, 2)),
    "resnet34": (False, (3, 4, 6, 3)),
    "resnet50": (True, (3, 4, 6, 3)),
    "resnet101": (True, (3, 4, 23, 3)),
}
"""Whether the blocks are bottlenecks, and the number of blocks of each layer."""


class ResNetEncoder(nn.Module):
    """A ResNet that returns its feature maps.

    Args:
        name: A key of `RESNETS`.
        in_channels: Channels of the images.
        output_stride: 32, 16 or 8: below 32 the last layers have dilated convolutions in place of strides (Chen et al.,
            Rethinking atrous convolution, 2017).

    Attributes:
        channels: Channels of the five feature maps.

    Raises:
        ValueError: Unknown name or output stride.

    Example:
        >>> import torch
        >>> encoder = ResNetEncoder("resnet18", in_channels=1, output_stride=8).eval()
        >>> [tuple(features.shape[1:]) for features in encoder(torch.zeros(1, 1, 32, 64))]
        [(64, 16, 32), (64, 8, 16), (128, 4, 8), (256, 4, 8), (512, 4, 8)]
        >>> next(iter(encoder.state_dict()))
        'conv1.weight'
    """

    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"),)

    def __init__(self, name: str, in_channels: int, output_stride: int = 32) -> None:
        super().__init__()
        if name not in RESNETS:
            raise ValueError(f"encoder {name!r} is unknown; known are {', '.join(RESNETS)}")
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride {output_stride} is not possible; possible are 8, 16, 32")
        deep, counts = RESNETS[name]
        block = _Bottleneck if deep else _Basic
        self.channels = [64, *(width * block.expansion for width in (64, 128, 256, 512))]
        self.conv1 = nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        before, reached, dilation = 64, 4, 1
        layers: list[nn.Sequential] = []
        for width, count, wanted in zip((64, 128, 256, 512), counts, (1, 2, 2, 2), strict=True):
            stride, first = wanted, dilation
            if reached * wanted > output_stride:
                stride, dilation = 1, dilation * wanted
            reached *= stride
            # As in torchvision, the first block keeps the previous dilation.
            blocks: list[nn.Module] = [block(before, width, stride, (first, dilation))]
            before = width * block.expansion
            blocks += [block(before, width, 1, (dilation, dilation)) for _ in range(count - 1)]
            layers.append(nn.Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = layers
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> list[Tensor]:
        """Five feature maps of a batch (n, in_channels, y, x), the first of half the side, the last of 1/output_stride."""
        features = [self.relu(self.bn1(self.conv1(images)))]
        features.append(self.layer1(self.maxpool(features[0])))
        for layer in (self.layer2, self.layer3, self.layer4):
            features.append(layer(features[-1]))
        return features

    def stage_of(self, name: str) -> int:
        """The index of the first feature map that a parameter or buffer of this encoder has an effect on.

        Args:
            name: As in `state_dict`.

        Example:
            >>> encoder = ResNetEncoder("resnet18", in_channels=1)
            >>> encoder.stage_of("bn1.weight"), encoder.stage_of("layer3.0.conv1.weight")
            (0, 3)
        """
        return int(name[len("layer")]) if name.startswith("layer") else 0


def _shortcut(before: int, after: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, kernel_size=1, stride=stride, bias=False), nn.BatchNorm2d(after))


class _Basic(nn.Module):
    """Two 3x3 convolutions with a shortcut."""

    expansion: ClassVar[int] = 1
    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"), ("conv2", "bn2"))

    def __init__(self, before: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        first, second = dilations
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=first, dilation=first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(width, width, 3, padding=second, dilation=second, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = _shortcut(before, width, stride)

    def forward(self, features: Tensor) -> Tensor:
        beside = features if self.downsample is None else self.downsample(features)
        inner = self.relu(self.bn1(self.conv1(features)))
        total: Tensor = self.relu(self.bn2(self.conv2(inner)) + beside)
        return total


class _Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution with a shortcut."""

    expansion: ClassVar[int] = 4
    folds: ClassVar[tuple[tuple[str, str], ...]] = (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3"))

    def __init__(self, before: int, width: int, stride: int, dilations: tuple[int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # The only convolution with a spatial extent; it carries the stride.
        dilation = dilations[0]
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, width * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(before, width * self.expansion, stride)

    def forward(self, features: Tensor) -> Tensor:
        beside = features if self.downsample is None else self.downsample(features)
        inner = self.relu(self.bn1(self.conv1(features)))
        inner = self.relu(self.bn2(self.conv2(inner)))
        total: Tensor = self.relu(self.bn3(self.conv3(inner)) + beside)
        return total
