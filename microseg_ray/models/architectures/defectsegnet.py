"""DefectSegNet for dislocations, precipitates and voids in steel, and any network described by its text files.

Roberts et al.: Deep learning for semantic segmentation of defects in advanced STEM images of steels (2019). Every layer
reads the concatenated maps of any earlier layers; `layer_text` documents the file format.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from microseg_ray.models.architectures.blocks import check_sides, full_precision
from microseg_ray.models.architectures.layer_text import LayerSpec, read_layers, reference_layers, stride_of_layers

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["DefectSegNet", "NormPlace"]

NormPlace = Literal["after", "before", "none"]

_NORM_EPS, _NORM_MOMENTUM = 1e-3, 1e-3


class DefectSegNet(nn.Module):
    """The network of an architecture file.

    The reference file has 20 layers: 349,342 parameters in convolutions for one channel and one output, and 1,088 in
    norms, which follow the activations of all layers, poolings included.

    Args:
        in_channels: Channels of the images.
        classes: Number of classes and of logits, which overrides `filters` of the file's last layer.
        layers: Text of an architecture file; empty for the reference.
        norm_place: Batch norms after the activations (the original), before them, or none.
        dropout: Rate of dropout layers without a rate in the file.
        original_head: Keep the last layer of the file, with its activation (a sigmoid) and norm, instead of logits; then
            `classes` must equal its filters.

    Raises:
        InputError: The text is not a valid architecture; the message names the line.
        ValueError: Unknown `norm_place`, or the head has other classes; on call, sides that are not multiples of the
            stride.

    Example:
        >>> model = DefectSegNet(1, 2).eval()
        >>> model.stride, model(torch.zeros(1, 1, 16, 24)).shape
        (8, torch.Size([1, 2, 16, 24]))
        >>> sum(parameter.numel() for parameter in DefectSegNet(1, 1, original_head=True).parameters()) - 1088
        349342
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        layers: str = "",
        norm_place: NormPlace = "after",
        dropout: float = 0.0,
        *,
        original_head: bool = False,
    ) -> None:
        super().__init__()
        if norm_place not in ("after", "before", "none"):
            raise ValueError(f"norm_place {norm_place!r} is unknown; known are after, before, none")
        specs = read_layers(layers or reference_layers())
        if original_head and specs[-1].filters != classes:
            raise ValueError(f"{classes} classes: the architecture's own head has {specs[-1].filters}")
        self.in_channels = in_channels
        self.classes = classes
        self.stride = stride_of_layers(specs)
        self._inputs = tuple(spec.inputs for spec in specs)
        channels = [in_channels]
        built: list[nn.Module] = []
        for spec in specs[:-1]:
            before = sum(channels[index] for index in spec.inputs)
            after = spec.filters or before
            built.append(nn.Sequential(*_layer(spec, before, after, norm_place, dropout)))
            channels.append(after)
        before = sum(channels[index] for index in specs[-1].inputs)
        last = _layer(specs[-1], before, classes, norm_place, dropout)
        if not original_head:
            last = [layer for layer in last if isinstance(layer, nn.Conv2d | nn.ReplicationPad2d | SymmetricPad)]
        self.layers = nn.ModuleList(built)
        self.head = nn.Sequential(*last)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, in_channels, y, x), sides multiples of `stride`, to float32 logits (n, classes, y, x)."""
        check_sides(images, self.stride)
        maps = [images]
        for layer, inputs in zip(self.layers, self._inputs, strict=False):
            maps.append(layer(_joined(maps, inputs)))
        return full_precision(self.head, _joined(maps, self._inputs[-1]))


class SymmetricPad(nn.Module):
    """Symmetric padding: mirrors the borders including the border pixels. torch supports this for one pixel only.

    Example:
        >>> SymmetricPad(0, 0, 2, 2)(torch.tensor([[[[1, 2, 3]]]])).tolist()
        [[[[2, 1, 1, 2, 3, 3, 2]]]]
    """

    def __init__(self, top: int, bottom: int, left: int, right: int) -> None:
        super().__init__()
        self.padding = (top, bottom, left, right)

    def forward(self, features: Tensor) -> Tensor:
        """(n, c, y, x) to (n, c, top + y + bottom, left + x + right); y and x must be at least as large as the padding."""
        top, bottom, left, right = self.padding
        rows = [features[:, :, :top].flip(2), features, features[:, :, features.shape[2] - bottom :].flip(2)]
        tall = torch.cat(rows, dim=2)
        return torch.cat([tall[..., :left].flip(3), tall, tall[..., tall.shape[3] - right :].flip(3)], dim=3)


def _joined(maps: list[Tensor], inputs: tuple[int, ...]) -> Tensor:
    return maps[inputs[0]] if len(inputs) == 1 else torch.cat([maps[index] for index in inputs], dim=1)


def _layer(spec: LayerSpec, before: int, after: int, norm_place: NormPlace, dropout: float) -> list[nn.Module]:
    """The modules of one line."""
    layers: list[nn.Module] = []
    match spec.kind:
        case "convolution":
            layers = _convolution(spec, before, after)
        case "convolution transpose":
            layers = [nn.ConvTranspose2d(before, after, spec.kernel, stride=spec.strides)]
        case "max pool":
            layers = [nn.MaxPool2d(spec.kernel, stride=spec.strides)]
        case "dense":
            # A dense layer over the channels of each pixel is a 1x1 convolution.
            layers = [nn.Conv2d(before, after, kernel_size=1)]
        case "dropout":
            return [nn.Dropout(dropout if spec.rate is None else spec.rate)]
    activation = _activation(spec.activation)
    norm: list[nn.Module] = (
        [] if norm_place == "none" else [nn.BatchNorm2d(after, eps=_NORM_EPS, momentum=_NORM_MOMENTUM)]
    )
    return [*layers, *norm, *activation] if norm_place == "before" else [*layers, *activation, *norm]


def _convolution(spec: LayerSpec, before: int, after: int) -> list[nn.Module]:
    height, width = spec.kernel
    # As in the original: for an even kernel one more pixel at the top and the left.
    top, left = height // 2, width // 2
    bottom, right = (height - 1) // 2, (width - 1) // 2
    convolution = nn.Conv2d(before, after, spec.kernel, stride=spec.strides)
    if (height, width) == (1, 1):
        return [convolution]
    if max(top, left) == 1:
        return [nn.ReplicationPad2d((left, right, top, bottom)), convolution]
    return [SymmetricPad(top, bottom, left, right), convolution]


def _activation(name: str) -> list[nn.Module]:
    match name:
        case "relu":
            return [nn.ReLU()]
        case "tanh":
            return [nn.Tanh()]
        case "sigmoid":
            return [nn.Sigmoid()]
        case _:
            return []
