"""The layers of a network as operations on a range of rows: padding along y is taken out of them and given by the `Cut`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from microseg_ray.models.architectures.defectsegnet import SymmetricPad
from microseg_ray.models.architectures.ensemble import MeanProbabilities
from microseg_ray.models.runtimes.writing import TensorWriter, Writer
from microseg_ray.models.strips.reason import NotStreamableError
from microseg_ray.models.strips.rows import Bordered, Cut, Resampled, Rows, Same, Transposed, Window

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Operation", "operation_of"]

V = TypeVar("V")

_ACTIVATIONS = "torch.nn.modules.activation"
_NOT_ROWWISE = (nn.GLU, nn.MultiheadAttention, nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Softmax2d)


class Operation(nn.Module):
    """One layer, applied to some of its rows.

    Args:
        rows: How its rows depend on those of its inputs.
        exact: Computed in float32, also under bf16 autocast.
    """

    def __init__(self, rows: Rows, *, exact: bool = False) -> None:
        super().__init__()
        self.rows = rows
        self.exact = exact

    def forward(self, tensors: Sequence[Tensor], cut: Cut) -> Tensor:
        """The rows that `cut` asks for, from tensors that hold exactly the rows needed."""
        return self.write(TensorWriter(), tensors, cut)

    def write(self, writer: Writer[V], values: Sequence[V], cut: Cut) -> V:
        """`forward` with any writer."""
        raise NotImplementedError


class _Rowwise(Operation):
    """A function or method that treats all pixels alike."""

    def __init__(self, call: Any, args: Any, kwargs: Any) -> None:
        super().__init__(Same())
        self.call = call
        self.args = args
        self.kwargs = kwargs

    def write(self, writer: Writer[V], values: Sequence[V], cut: Cut) -> V:  # noqa: ARG002 - no padding, no surplus rows
        def filled(value: Any) -> Any:
            return fx.node.map_aggregate(value, lambda each: values[each.place] if isinstance(each, Slot) else each)

        return writer.function(self.call, filled(self.args), filled(self.kwargs), exact=self.exact)


class Slot:
    """Where a tensor goes in the arguments of a call.

    Args:
        place: Index in the operation's inputs.
    """

    def __init__(self, place: int) -> None:
        self.place = place


class _Windowed(Operation):
    """A layer of which each row comes from one or several rows, some of which may be padding."""

    def __init__(self, rows: Rows, layer: nn.Module, fill: float, *, exact: bool) -> None:
        super().__init__(rows, exact=exact)
        self.layer = layer
        self.fill = fill

    def write(self, writer: Writer[V], values: Sequence[V], cut: Cut) -> V:
        features = values[0]
        if cut.above or cut.below:
            features = writer.padded(features, cut.above, cut.below, self.fill)
        return writer.layer(self.layer, features, exact=self.exact)


class _Enlarging(Operation):
    """Transposed convolution or resampling: surplus rows come out at both ends."""

    def __init__(self, rows: Rows, layer: nn.Module, *, exact: bool) -> None:
        super().__init__(rows, exact=exact)
        self.layer = layer

    def write(self, writer: Writer[V], values: Sequence[V], cut: Cut) -> V:
        return writer.layer_rows(self.layer, values[0], cut.skip, cut.length, exact=self.exact)


class _Border(Operation):
    """Padding as a layer: `kind` is constant, replicate, reflect or symmetric."""

    def __init__(self, kind: str, padding: tuple[int, int, int, int], value: float, *, exact: bool) -> None:
        left, right, top, bottom = padding
        side = max(top, bottom)
        source = {"constant": 0, "replicate": 1, "symmetric": side, "reflect": side + 1}[kind] if side else 0
        super().__init__(Bordered(top, bottom, source), exact=exact)
        self.kind = kind
        self.value = value
        self.sides = (left, right)

    def write(self, writer: Writer[V], values: Sequence[V], cut: Cut) -> V:
        return writer.function(self._bordered, (values[0], cut), {}, exact=self.exact)

    def _bordered(self, given: Tensor, cut: Cut) -> Tensor:
        middle = given[:, :, cut.skip : cut.skip + cut.length - cut.above - cut.below]
        parts = [middle]
        if cut.above:
            parts.insert(0, self._rows(given, cut.above, top=True))
        if cut.below:
            parts.append(self._rows(given, cut.below, top=False))
        tall = torch.cat(parts, dim=2) if len(parts) > 1 else middle
        left, right = self.sides
        if not left and not right:
            return tall
        if self.kind == "symmetric":
            width = tall.shape[3]
            return torch.cat([tall[..., :left].flip(3), tall, tall[..., width - right :].flip(3)], dim=3)
        if self.kind == "constant":
            return F.pad(tall, (left, right, 0, 0), value=self.value)
        return F.pad(tall, (left, right, 0, 0), mode=self.kind)

    def _rows(self, given: Tensor, count: int, *, top: bool) -> Tensor:
        height = given.shape[2]
        if self.kind == "constant":
            return torch.full_like(given[:, :, :1], self.value).expand(-1, -1, count, -1)
        if self.kind == "replicate":
            return (given[:, :, :1] if top else given[:, :, height - 1 :]).expand(-1, -1, count, -1)
        near = 1 if self.kind == "reflect" else 0
        if top:
            return given[:, :, near : near + count].flip(2)
        return given[:, :, height - near - count : height - near].flip(2)


def rowwise(call: Any, args: Any, kwargs: Any) -> Operation:
    """An operation for a function that treats all pixels alike; `Slot`s in the arguments stand for its inputs."""
    return _Rowwise(call, args, kwargs)


def operation_of(layer: nn.Module, name: str, *, exact: bool = False) -> Operation:
    """The operation of a layer.

    Args:
        layer: In evaluation mode; it is not changed, its weights are shared.
        name: Of the layer, for messages.
        exact: Whether it is computed in float32 in any case.

    Raises:
        NotStreamableError: A row of its output may depend on all rows of its input, or the layer is not known.

    Example:
        >>> operation_of(nn.Conv2d(1, 2, 3, padding=1), "stem").rows
        Window(kernel=3, stride=1, padding=1, dilation=1)
        >>> operation_of(nn.AdaptiveAvgPool2d(1), "pool")
        Traceback (most recent call last):
            ...
        microseg_ray.models.strips.reason.NotStreamableError: layer pool (AdaptiveAvgPool2d) needs the whole image or ...
    """
    made = _sampled(layer, name, exact=exact) or _padded(layer, exact=exact)
    if made is None and _treats_pixels_alike(layer):
        made = _Windowed(Same(), _fresh(layer), 0.0, exact=exact)
    if made is None:
        raise NotStreamableError(f"layer {name} ({type(layer).__name__}) needs the whole image or is not known")
    return made


def _sampled(layer: nn.Module, name: str, *, exact: bool) -> Operation | None:
    """The operation of a layer that reads several rows or gives another number of them."""
    match layer:
        case nn.Conv2d():
            return _convolution(layer, name, exact=exact)
        case nn.ConvTranspose2d():
            return _transposed(layer, name, exact=exact)
        case nn.MaxPool2d() if not layer.return_indices and not layer.ceil_mode:
            return _pooling(layer, -float("inf"), _along_y(layer.dilation), exact=exact)
        case nn.AvgPool2d() if not layer.ceil_mode and layer.divisor_override is None:
            if _along_y(layer.padding) and not layer.count_include_pad:
                raise NotStreamableError(f"layer {name} (AvgPool2d) counts its padding in another way at the border")
            return _pooling(layer, 0.0, 1, exact=exact)
        case nn.Upsample():
            return _enlarging(layer, name, exact=exact)
    return None


def _padded(layer: nn.Module, *, exact: bool) -> Operation | None:
    """The operation of a layer that pads."""
    match layer:
        case nn.ZeroPad2d() | nn.ConstantPad2d():
            return _Border("constant", _four(layer.padding), float(getattr(layer, "value", 0.0)), exact=exact)
        case nn.ReplicationPad2d():
            return _Border("replicate", _four(layer.padding), 0.0, exact=exact)
        case nn.ReflectionPad2d():
            return _Border("reflect", _four(layer.padding), 0.0, exact=exact)
        case SymmetricPad():
            top, bottom, left, right = layer.padding
            return _Border("symmetric", (left, right, top, bottom), 0.0, exact=exact)
    return None


def _treats_pixels_alike(layer: nn.Module) -> bool:
    if isinstance(layer, _BatchNorm):
        return not layer.training and layer.running_mean is not None
    if isinstance(layer, nn.Identity | _DropoutNd):
        return not layer.training or isinstance(layer, nn.Identity)
    if isinstance(layer, MeanProbabilities):
        return True
    return type(layer).__module__ == _ACTIVATIONS and not isinstance(layer, _NOT_ROWWISE)


def _fresh(layer: nn.Module) -> nn.Module:
    """An activation that writes into a new tensor: rows that are kept must not change when the next strip reads them."""
    if not getattr(layer, "inplace", False):
        return layer
    twin = copy.copy(layer)
    twin.inplace = False  # type: ignore[assignment]
    return twin


def _along_y(value: Any) -> int:
    return int(value[0] if isinstance(value, (tuple, list)) else value)


def _four(padding: Any) -> tuple[int, int, int, int]:
    left, right, top, bottom = (padding,) * 4 if isinstance(padding, int) else padding
    if min(left, right, top, bottom) < 0:
        raise NotStreamableError(f"a padding of {padding} px crops")
    return int(left), int(right), int(top), int(bottom)


def _without_y(layer: Any) -> Any:
    """A twin with the same weights that does not pad along y."""
    twin = copy.copy(layer)
    beside = layer.padding[1] if isinstance(layer.padding, (tuple, list)) else layer.padding
    twin.padding = (0, int(beside))
    return twin


def _convolution(layer: nn.Conv2d, name: str, *, exact: bool) -> Operation:
    if isinstance(layer.padding, str) or layer.padding_mode != "zeros":
        raise NotStreamableError(f"layer {name} (Conv2d) pads by {layer.padding!r}, {layer.padding_mode}")
    rows = Window(layer.kernel_size[0], layer.stride[0], layer.padding[0], layer.dilation[0])
    return _Windowed(rows, _without_y(layer), 0.0, exact=exact)


def _transposed(layer: nn.ConvTranspose2d, name: str, *, exact: bool) -> Operation:
    if layer.output_padding[0]:
        raise NotStreamableError(f"layer {name} (ConvTranspose2d) has output_padding {layer.output_padding}")
    rows = Transposed(layer.kernel_size[0], layer.stride[0], int(layer.padding[0]), layer.dilation[0])
    return _Enlarging(rows, _without_y(layer), exact=exact)


def _pooling(layer: Any, fill: float, dilation: int, *, exact: bool) -> Operation:
    stride = layer.kernel_size if layer.stride is None else layer.stride
    rows = Window(_along_y(layer.kernel_size), _along_y(stride), _along_y(layer.padding), dilation)
    return _Windowed(rows, _without_y(layer), fill, exact=exact)


def _enlarging(layer: nn.Upsample, name: str, *, exact: bool) -> Operation:
    scale = layer.scale_factor
    factors = set(scale) if isinstance(scale, tuple) else {scale}
    factor = int(factors.pop() or 0)
    # Other factors than powers of two are not exact in float32, so that a row's weights would depend on its number.
    whole = factor > 0 and factor & (factor - 1) == 0 and not factors and scale in {factor, (factor, factor)}
    if not whole or layer.mode not in {"nearest", "bilinear"} or layer.align_corners or layer.recompute_scale_factor:
        raise NotStreamableError(
            f"layer {name} (Upsample) enlarges to {layer.size or scale}, mode {layer.mode}: strips know factors of 2, 4, 8 ..., "
            "nearest or bilinear without align_corners"
        )
    return _Enlarging(Resampled(factor, layer.mode == "bilinear"), layer, exact=exact)
