"""EfficientNet-Lite encoders with the state-dict names of the published weights.

Tan, Le: EfficientNet, rethinking model scaling for convolutional neural networks (ICML 2019); the Lite variants (2020) have
ReLU6 in place of swish and no squeeze-and-excite, and they scale neither the stem nor the number of blocks of the first and
last stage. Nothing in them sees the whole tile, so stitching is exact.

The published weights come from TensorFlow, whose strided convolutions pad an even side at the bottom and right only. Here
they pad all sides alike, so that each layer reads one row and column earlier: away from the border the features are those of
the published network for an image that is moved by `stride - 1` pixels (docs/decisions/0130).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["EFFICIENTNETS", "REDUCTIONS", "EfficientNetEncoder"]

EFFICIENTNETS: dict[str, tuple[float, float]] = {
    "efficientnet_lite0": (1.0, 1.0),
    "efficientnet_lite1": (1.0, 1.1),
    "efficientnet_lite2": (1.1, 1.2),
}
"""Factors of the channels and of the number of blocks."""

REDUCTIONS = (2, 4, 8, 16, 32)
"""Side of the image divided by that of each feature map."""

# Kernel, stride, expansion, channels and number of blocks, as in the paper's table 1.
_BLOCKS = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
_STEM = 32
_EPS = 1e-3
# The published weights were trained on (value - 127) / 128 of 0 to 255.
_MEAN, _DEVIATION = 127 / 255, 128 / 255


class EfficientNetEncoder(nn.Module):
    """An EfficientNet-Lite that returns its feature maps.

    Args:
        name: A key of `EFFICIENTNETS`.
        in_channels: Channels of the images.
        stages: Number of feature maps, 1 to 5; later blocks are left out, which makes the receptive field smaller.

    Attributes:
        name: As given.
        channels: Channels of the feature maps.
        unused: Beginnings of the names of the published tensors that this encoder lacks: classifier and later blocks.

    Raises:
        ValueError: Unknown name or number of stages.

    Example:
        >>> import torch
        >>> encoder = EfficientNetEncoder("efficientnet_lite0", in_channels=1, stages=4).eval()
        >>> [tuple(features.shape[1:]) for features in encoder(torch.zeros(1, 1, 32, 64))]
        [(16, 16, 32), (24, 8, 16), (40, 4, 8), (112, 2, 4)]
        >>> next(iter(encoder.state_dict())), encoder.stage_of("_blocks.3._bn1.bias")
        ('_conv_stem.weight', 2)
    """

    folds: ClassVar[tuple[tuple[str, str], ...]] = (("_conv_stem", "_bn0"),)

    def __init__(self, name: str, in_channels: int, stages: int = 5) -> None:
        super().__init__()
        if name not in EFFICIENTNETS:
            raise ValueError(f"encoder {name!r} is unknown; known are {', '.join(EFFICIENTNETS)}")
        if not 1 <= stages <= len(REDUCTIONS):
            raise ValueError(f"stages {stages} is not possible; possible are 1 to {len(REDUCTIONS)}")
        self.name = name
        self._conv_stem = nn.Conv2d(in_channels, _STEM, 3, stride=2, padding=1, bias=False)
        self._bn0 = nn.BatchNorm2d(_STEM, eps=_EPS)
        self._relu = nn.ReLU6(inplace=True)
        planned = _plan(*EFFICIENTNETS[name])
        # A feature map is what the last block before a stride gives.
        ends = [index for index in range(len(planned) - 1) if planned[index + 1].stride == 2] + [len(planned) - 1]
        self._ends = tuple(ends[:stages])
        self._blocks = nn.ModuleList(_Block(plan) for plan in planned[: self._ends[-1] + 1])
        self.channels = [planned[end].after for end in self._ends]
        left_out = tuple(f"_blocks.{index}." for index in range(len(self._blocks), len(planned)))
        self.unused = (*left_out, "_conv_head.", "_bn1.", "_fc.")
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # The fan out of one group: a depthwise convolution has one output channel for each input channel.
                fan = module.weight[0, 0].numel() * module.out_channels // module.groups
                nn.init.normal_(module.weight, std=math.sqrt(2 / fan))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps of a batch (n, in_channels, y, x) of scaled intensities, 0 to 1; each of half the side of the last.

        The images are centred before the stem and not by its bias: its padding then is the mean, as in pre-training.
        """
        features = self._relu(self._bn0(self._conv_stem((images - _MEAN) / _DEVIATION)))
        maps: list[Tensor] = []
        for index, block in enumerate(self._blocks):
            features = block(features)
            if index in self._ends:
                maps.append(features)
        return maps

    def stage_of(self, name: str) -> int:
        """The index of the first feature map that a parameter or buffer of this encoder has an effect on.

        Args:
            name: As in `state_dict`.
        """
        if not name.startswith("_blocks."):
            return 0
        block = int(name.split(".")[1])
        return next(stage for stage, end in enumerate(self._ends) if block <= end)


class _Plan:
    """Shape of a block."""

    def __init__(self, kernel: int, stride: int, expansion: int, before: int, after: int) -> None:
        self.kernel = kernel
        self.stride = stride
        self.expansion = expansion
        self.before = before
        self.after = after


def _plan(wider: float, deeper: float) -> list[_Plan]:
    """All blocks of a network."""
    plans: list[_Plan] = []
    before = _STEM
    for place, (kernel, stride, expansion, channels, count) in enumerate(_BLOCKS):
        after = _multiple_of_eight(channels * wider)
        inner = 0 < place < len(_BLOCKS) - 1
        for index in range(math.ceil(count * deeper) if inner else count):
            plans.append(_Plan(kernel, stride if index == 0 else 1, expansion, before, after))
            before = after
    return plans


def _multiple_of_eight(channels: float) -> int:
    """The nearest multiple of 8 that is no less than nine tenths."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8


class _Block(nn.Module):
    """Inverted residual: a 1x1 convolution to more channels, a depthwise one, and a linear 1x1 back; a shortcut around."""

    folds: ClassVar[tuple[tuple[str, str], ...]] = (
        ("_expand_conv", "_bn0"),
        ("_depthwise_conv", "_bn1"),
        ("_project_conv", "_bn2"),
    )

    def __init__(self, plan: _Plan) -> None:
        super().__init__()
        wide = plan.before * plan.expansion
        # A block without expansion has neither, in the published weights too.
        self._expand_conv = nn.Conv2d(plan.before, wide, 1, bias=False) if plan.expansion > 1 else nn.Identity()
        self._bn0 = nn.BatchNorm2d(wide, eps=_EPS) if plan.expansion > 1 else nn.Identity()
        self._depthwise_conv = nn.Conv2d(
            wide, wide, plan.kernel, stride=plan.stride, padding=plan.kernel // 2, groups=wide, bias=False
        )
        self._bn1 = nn.BatchNorm2d(wide, eps=_EPS)
        self._project_conv = nn.Conv2d(wide, plan.after, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(plan.after, eps=_EPS)
        self._relu = nn.ReLU6(inplace=True)
        self._expands = plan.expansion > 1
        self._adds = plan.stride == 1 and plan.before == plan.after

    def forward(self, features: Tensor) -> Tensor:
        inner = features
        if self._expands:
            inner = self._relu(self._bn0(self._expand_conv(inner)))
        inner = self._relu(self._bn1(self._depthwise_conv(inner)))
        made: Tensor = self._bn2(self._project_conv(inner))
        return made + features if self._adds else made
