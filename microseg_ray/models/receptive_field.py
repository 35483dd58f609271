"""The receptive field of a model, measured from its structure.

Trained weights can hide a part of the receptive field. It is therefore measured on a copy with positive weights and
linear layers in place of non-linear ones, in float64. Then nothing cancels, and the gradient of a block of outputs is
non-zero exactly in the receptive field.

A model can depend on the tile in ways that no radius covers: statistics of the whole tile, or places within it. Layers that do
so are found by their type. Steps inside `forward` (`F.interpolate(align_corners=True)`, coordinates as channels) are found by
comparison: the same pixels in a larger and in a smaller tile must give the same output where no border is in reach.
"""

from __future__ import annotations

import copy
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.modules.pooling import _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd

from microseg_ray.models.card import ReceptiveField

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

__all__ = ["measure_receptive_field"]

MAX_SIDE = 1 << 15
"""Side of the largest probe in pixels; a receptive field beyond half of it is treated as the whole tile."""

_STRIDE_PROBE = 512
_UNEQUAL = 1e-4
"""Difference of outputs, relative to their deviation, that is no rounding: of float32, the model's own type."""
_MOVED = "model (the same pixels give another output in a tile of another size: align_corners, coordinates or the like)"
_ACTIVATIONS = "torch.nn.modules.activation"
# Pointwise layers, and layers with statistics of the whole tile, which are listed instead of measured.
_LOCAL_AT_MOST = (
    _BatchNorm,
    _InstanceNorm,
    nn.GroupNorm,
    nn.LayerNorm,
    _DropoutNd,
    _AdaptiveAvgPoolNd,
    _AdaptiveMaxPoolNd,
)


def measure_receptive_field(model: nn.Module, in_channels: int) -> ReceptiveField:
    """Measure the receptive field of a model from its structure, independent of its weights.

    The current mode of the model is used. Call `model.eval()` first: in training mode, batch norms use batch statistics
    and are listed as tile-dependent.

    A model that depends on the whole image although its layers do not show it has an attribute `sees_all`. A model with an
    attribute `foreign` (from another package) that cannot be measured is listed as tile-dependent as a whole.

    Args:
        model: Any module of standard layers from (n, in_channels, y, x) to (n, classes, y, x). Non-linear steps must be
            layers (`nn.MaxPool2d`), not function calls (`F.max_pool2d`). An integer attribute `stride` is used if
            there is one; otherwise the stride is derived from the sizes of the layers' outputs.
        in_channels: Channels of the images.

    Returns:
        Radius in pixels beyond a block of stride x stride outputs on the stride's grid (the largest of the four sides),
        the stride, and the layers that depend on the whole tile as `qualified.name (Type)`, which the radius excludes.

    Raises:
        ValueError: Output and input differ in size, the receptive field exceeds 16384 px, or there is a non-linear
            operation outside a layer.

    Example:
        >>> measure_receptive_field(nn.Conv2d(1, 2, kernel_size=5, padding=2), in_channels=1)
        ReceptiveField(radius=2, stride=1, tile_dependent=())
    """
    sees_all = getattr(model, "sees_all", "")
    if sees_all:
        return ReceptiveField(radius=0, stride=int(model.stride), tile_dependent=(str(sees_all),))  # type: ignore[arg-type]
    if getattr(model, "foreign", False):
        return _of_foreign(model, in_channels)
    return _measured(model, in_channels)


def _of_foreign(model: nn.Module, in_channels: int) -> ReceptiveField:
    """Receptive field of a model from another package; tile-dependent if it cannot be measured."""
    try:
        return _measured(model, in_channels)
    except (ValueError, RuntimeError, TypeError) as error:
        stride = int(model.stride)  # type: ignore[arg-type]
        reason = str(error).strip().splitlines()[0]
        return ReceptiveField(radius=0, stride=stride, tile_dependent=(f"model (not measurable: {reason})",))


def _measured(model: nn.Module, in_channels: int) -> ReceptiveField:
    tile_dependent = tuple(_tile_dependent(model))
    probe = _probe_of(model)
    stride = getattr(model, "stride", None)
    if not isinstance(stride, int):
        stride = _measured_stride(probe, in_channels)
    if not tile_dependent:
        _require_linear(probe, in_channels, stride)
    radius = max(_reach(probe, in_channels, stride, axis) for axis in (0, 1))
    if not tile_dependent and any(
        _moves(tried, in_channels, stride, radius, axis) for tried in (probe, model) for axis in (0, 1)
    ):
        tile_dependent = (_MOVED,)
    return ReceptiveField(radius=radius, stride=stride, tile_dependent=tile_dependent)


def _tile_dependent(model: nn.Module) -> Iterator[str]:
    always = (nn.GroupNorm, nn.LayerNorm, nn.MultiheadAttention, _AdaptiveAvgPoolNd, _AdaptiveMaxPoolNd)
    for name, module in model.named_modules():
        by_batch = isinstance(module, _BatchNorm | _InstanceNorm) and (module.training or module.running_mean is None)
        # An instance norm with `track_running_stats` has a running mean and is constant in eval mode.
        aligned = isinstance(module, nn.Upsample) and bool(module.align_corners)
        # Over y or x of (n, c, y, x): the exponentials of the whole tile are summed.
        summed = isinstance(module, nn.Softmax | nn.LogSoftmax | nn.Softmin) and module.dim in {2, 3, -1, -2}
        if by_batch or aligned or summed or isinstance(module, always):
            yield f"{name or 'model'} ({type(module).__name__})"


class _Spread(nn.Module):
    """A convolution whose weights all equal 1 / fan-in: the kernel's shape applied to the mean of the channels.

    It always pads with zeros; away from the border this makes no difference. With `solid` the output channels are copies
    instead of views, for models that modify their features in place.
    """

    def __init__(self, layer: nn.Conv2d | nn.ConvTranspose2d, *, solid: bool) -> None:
        super().__init__()
        self.channels = layer.out_channels
        self.solid = solid
        shape: dict[str, Any] = {
            "kernel_size": layer.kernel_size,
            "stride": layer.stride,
            "padding": layer.padding,
            "dilation": layer.dilation,
            "bias": False,
        }
        if isinstance(layer, nn.ConvTranspose2d):
            shape["output_padding"] = layer.output_padding
        self.kernel = (nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d)(1, 1, **shape)
        nn.init.constant_(self.kernel.weight, 1 / self.kernel.weight.numel())

    def forward(self, features: Tensor) -> Tensor:
        spread: Tensor = self.kernel(features.mean(dim=1, keepdim=True))
        wide = spread.expand(-1, self.channels, -1, -1)
        return wide.clone() if self.solid else wide


class _SpreadLinear(nn.Module):
    """A linear layer whose weights all equal 1 / fan-in."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.features = layer.out_features

    def forward(self, features: Tensor) -> Tensor:
        return features.mean(dim=-1, keepdim=True).expand(*features.shape[:-1], self.features)


class _Query(nn.Module):
    """Attention that returns its query."""

    def forward(self, query: Tensor, *_rest: object, **_options: object) -> tuple[Tensor, None]:
        return query, None


def _linear_twin(layer: nn.Module, *, solid: bool) -> nn.Module | None:
    """The replacement of a layer in the probe, or None to keep the layer (or container)."""
    match layer:
        case nn.Conv2d() | nn.ConvTranspose2d():
            return _Spread(layer, solid=solid)
        case nn.Linear():
            return _SpreadLinear(layer)
        case nn.MultiheadAttention():
            return _Query()
        case nn.ReflectionPad2d() | nn.ReplicationPad2d() | nn.CircularPad2d():
            return nn.ZeroPad2d(layer.padding)
        case nn.MaxPool2d():
            if layer.return_indices or layer.dilation not in (1, (1, 1)):
                raise ValueError("MaxPool2d with return_indices or dilation: its receptive field cannot be measured")
            return nn.AvgPool2d(layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode)
    activation = type(layer).__module__ == _ACTIVATIONS and not isinstance(layer, nn.GLU)
    return nn.Identity() if activation or isinstance(layer, _LOCAL_AT_MOST) else None


def _probe_of(model: nn.Module) -> nn.Module:
    solid = bool(getattr(model, "foreign", False))
    # A wrapper, so that a model that is a single layer can be replaced as well.
    probe = nn.Sequential(copy.deepcopy(model)).cpu()
    stack: list[nn.Module] = [probe]
    while stack:
        parent = stack.pop()
        for name, child in parent.named_children():
            twin = _linear_twin(child, solid=solid)
            if twin is None:
                stack.append(child)
            else:
                setattr(parent, name, twin)
    spread = {id(p) for module in probe.modules() if isinstance(module, _Spread) for p in module.parameters()}
    for name, parameter in probe.named_parameters():
        parameter.requires_grad_(False)
        if id(parameter) not in spread:
            nn.init.constant_(parameter, 0.0 if name.endswith("bias") else 1.0)
    return probe.double().eval()


def _measured_stride(probe: nn.Module, in_channels: int) -> int:
    """The least common multiple of the reductions of the layers' outputs."""
    stride = 1

    def note(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal stride
        if isinstance(output, torch.Tensor) and output.ndim == 4:
            for side in output.shape[2:]:
                ratio = _STRIDE_PROBE // side if side and _STRIDE_PROBE % side == 0 else 1
                stride = stride * ratio // gcd(stride, ratio)

    hooks = [module.register_forward_hook(note) for module in probe.modules()]
    with torch.no_grad():
        probe(torch.ones(1, in_channels, _STRIDE_PROBE, _STRIDE_PROBE, dtype=torch.float64))
    for hook in hooks:
        hook.remove()
    return stride


def _run(probe: nn.Module, images: Tensor) -> Tensor:
    output = probe(images)
    if not isinstance(output, torch.Tensor) or output.shape[2:] != images.shape[2:]:
        got = tuple(output.shape[2:]) if isinstance(output, torch.Tensor) else type(output).__name__
        raise ValueError(f"the model must return one tensor as large as its input {tuple(images.shape[2:])}, not {got}")
    return output


def _require_linear(probe: nn.Module, in_channels: int, stride: int) -> None:
    """Refuse a model with other non-linear operations: its gradient may not show the whole receptive field."""
    generator = torch.Generator().manual_seed(0)
    thin = _thickness(stride)
    shape = (1, in_channels, thin, 2 * thin)
    first, second = (torch.rand(shape, dtype=torch.float64, generator=generator) for _ in range(2))
    with torch.no_grad():
        constant = _run(probe, torch.zeros(shape, dtype=torch.float64))
        together = _run(probe, first + second)
        apart = _run(probe, first) + _run(probe, second) - constant
    if not torch.allclose(together, apart, rtol=1e-6, atol=1e-9):
        raise ValueError(
            "the model does something non-linear that is not a layer, so its receptive field cannot be measured; "
            "use modules (nn.MaxPool2d, nn.GELU) in place of functions (F.max_pool2d, F.gelu)"
        )


def _moves(model: nn.Module, in_channels: int, stride: int, radius: int, axis: int) -> bool:
    """Whether the same pixels give other outputs in a smaller tile, where neither border is within the radius."""
    thin, halo = _thickness(stride), -(-radius // stride) * stride
    length = 2 * halo + thin
    extent = [thin, thin]
    extent[axis] = length + 3 * thin
    first = next((value for value in model.parameters() if value.is_floating_point()), torch.zeros(()))
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(1, in_channels, *extent, generator=generator).to(first.device, first.dtype)
    with torch.no_grad():
        whole = _run(model, images).narrow(2 + axis, thin + halo, thin)
        part = _run(model, images.narrow(2 + axis, thin, length)).narrow(2 + axis, halo, thin)
    return float((whole - part).abs().max()) > _UNEQUAL * float(whole.std())


def _thickness(stride: int) -> int:
    """Height of the probe in pixels: larger than common kernels, and a multiple of the stride."""
    return max(2, -(-32 // stride)) * stride


def _reach(probe: nn.Module, in_channels: int, stride: int, axis: int) -> int:
    """Extent of the receptive field of a block of outputs along one axis, in pixels beyond the block.

    A strip is enough: every kernel has a row inside the strip, so the extent along the strip is the full one.
    """
    thin = _thickness(stride)
    side = 2 * thin
    while side <= max(MAX_SIDE, 4 * thin):
        extent = [thin, thin]
        extent[axis] = side
        images = torch.ones(1, in_channels, *extent, dtype=torch.float64, requires_grad=True)
        start = side // 2 // stride * stride
        block = _run(probe, images).narrow(2 + axis, start, stride)
        (gradient,) = torch.autograd.grad(block.sum(), images)
        seen = gradient.abs().amax(dim=(0, 1, 3 - axis)).nonzero().flatten()
        if seen.numel() == 0:
            return 0
        first, last = int(seen[0]), int(seen[-1])
        if first > 0 and last < side - 1:
            return max(start - first, last - (start + stride - 1), 0)
        side *= 2
    raise ValueError(f"the model sees further than {MAX_SIDE // 2} px, so no halo makes its tiles exact")
