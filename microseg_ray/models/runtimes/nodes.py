"""Writes a `Writable` module as an OpenVINO model, node by node; a layer that is not known here is converted from torch alone.

The nodes are those that OpenVINO's own converter makes of the same layers, so that both give the same compiled graph.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it
from torch.nn.modules.dropout import _DropoutNd

from microseg_ray.models.architectures.ensemble import MeanProbabilities
from microseg_ray.models.largest import LARGEST_FLOAT, NOT_FINITE
from microseg_ray.models.runtimes.package import openvino_package

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from microseg_ray.models.runtimes.writing import Writable

__all__ = ["NodeWriter", "largest_class", "written"]

Node = Any
"""An output of an OpenVINO node; the package has no types."""

_BINARY: dict[Callable[..., Any], str] = {
    operator.add: "add",
    torch.add: "add",
    operator.sub: "subtract",
    torch.sub: "subtract",
    operator.mul: "multiply",
    torch.mul: "multiply",
    operator.truediv: "divide",
    torch.div: "divide",
}
_UNARY: dict[Callable[..., Any], str] = {
    torch.relu: "relu",
    F.relu: "relu",
    torch.sigmoid: "sigmoid",
    torch.tanh: "tanh",
}
_ACTIVATIONS: dict[type[nn.Module], tuple[str, Callable[[Any], tuple[Any, ...]]]] = {
    nn.ReLU: ("relu", lambda _: ()),
    # ReLU6 is one.
    nn.Hardtanh: ("clamp", lambda layer: (float(layer.min_val), float(layer.max_val))),
    nn.ELU: ("elu", lambda layer: (float(layer.alpha),)),
    nn.SiLU: ("swish", lambda _: ()),
    nn.GELU: ("gelu", lambda layer: ("erf" if layer.approximate == "none" else "tanh",)),
    nn.Hardswish: ("hswish", lambda _: ()),
    nn.Sigmoid: ("sigmoid", lambda _: ()),
    nn.Tanh: ("tanh", lambda _: ()),
}
_UNCHANGED = (torch.Tensor.contiguous, torch.Tensor.float)


def written(module: Writable, examples: Sequence[Tensor], convert: Callable[[nn.Module, Sequence[Tensor]], Any]) -> Any:
    """The OpenVINO model of a module.

    Args:
        module: Its weights are shared with the model.
        examples: A float32 or bfloat16 tensor for each input, of its shape.
        convert: From a torch module and examples to an OpenVINO model, for layers that are not known here.
    """
    openvino = openvino_package()
    import openvino.opset15 as ops

    kinds = {torch.float32: openvino.Type.f32, torch.bfloat16: openvino.Type.bf16}
    parameters = [ops.parameter(list(example.shape), kinds[example.dtype]) for example in examples]
    results = module.write(NodeWriter(convert), *[parameter.output(0) for parameter in parameters])
    return openvino.Model([ops.result(result) for result in results], parameters)


def largest_class(shape: Sequence[int]) -> Any:
    """`LargestClass` as an OpenVINO model.

    Args:
        shape: (n, K, y, x) of the logits.
    """
    openvino = openvino_package()
    import openvino.opset15 as ops

    logits = ops.parameter(list(shape), openvino.Type.f32)
    first, *others = ops.split(logits, ops.constant(np.int64(1)), shape[1]).outputs()
    best, chosen, total = first, _one(ops, 0), ops.abs(first)
    for index, other in enumerate(others, 1):
        chosen = ops.select(ops.greater(other, best), _one(ops, index), chosen)
        best = ops.maximum(best, other)
        total = ops.add(total, ops.abs(other))
    # A comparison with NaN is false.
    classes = ops.select(ops.less_equal(total, _one(ops, LARGEST_FLOAT)), chosen, _one(ops, NOT_FINITE))
    mask = ops.squeeze(ops.convert(classes, "u8"), ops.constant(np.array([1], np.int64)))
    return openvino.Model([ops.result(mask)], [logits])


def _one(ops: Any, value: float) -> Any:
    return ops.constant(np.full((1, 1, 1, 1), value, np.float32))


class NodeWriter:
    """A `Writer` whose values are outputs of OpenVINO nodes.

    Args:
        convert: As in `written`.
    """

    def __init__(self, convert: Callable[[nn.Module, Sequence[Tensor]], Any]) -> None:
        self._convert = convert
        self._openvino = openvino_package()
        import openvino.opset15 as ops

        self._ops = ops

    def layer(self, layer: nn.Module, value: Node, *, exact: bool = False) -> Node:  # noqa: ARG002 - the graph decides
        """As `Writer.layer`."""
        value = self._float(value)
        made = self._sampled(layer, value)
        made = self._activation(layer, value) if made is None else made
        return self._foreign(layer, [value]) if made is None else made

    def layer_rows(self, layer: nn.Module, value: Node, offset: int, length: int, *, exact: bool = False) -> Node:
        """As `Writer.layer_rows`. A transposed convolution leaves few rows out itself, so that the others are not copied."""
        if isinstance(layer, nn.ConvTranspose2d) and layer.groups == 1:
            last = (self.length(value, 2) - 1) * layer.stride[0] + layer.dilation[0] * (layer.kernel_size[0] - 1)
            whole = last + 1 + int(layer.output_padding[0]) - 2 * int(layer.padding[0])
            cropped = offset, whole - offset - length
            # A padding as high as the kernel is not known to all of OpenVINO's kernels.
            if max(cropped) + int(layer.padding[0]) < layer.kernel_size[0]:
                return self._transposed(layer, self._float(value), cropped)
        result = self.layer(layer, value, exact=exact)
        return result if length == self.length(result, 2) else self.cut(result, 2, offset, length)

    def function(self, call: Callable[..., Any], args: Any, kwargs: Any, *, exact: bool = False) -> Node:  # noqa: ARG002
        """As `Writer.function`."""
        options = {key: value for key, value in kwargs.items() if key != "inplace"}
        if call in _BINARY and len(args) == 2 and not options:
            return self._both(_BINARY[call], *args)
        if call in _UNARY and not options:
            return self._made(_UNARY[call], self._float(args[0]))
        if call in _UNCHANGED and len(args) == 1 and not options:
            return args[0]
        if call is torch.cat and isinstance(args[0], (list, tuple)):
            return self.joined(args[0], options.get("dim", (*args, 0)[1]))
        return self._called(call, args, kwargs)

    def padded(self, value: Node, above: int, below: int, fill: float) -> Node:
        """As `Writer.padded`."""
        begin, end = np.array([0, 0, above, 0], np.int64), np.array([0, 0, below, 0], np.int64)
        number = self._ops.constant(np.float32(fill))
        return self._made("pad", self._float(value), begin, end, "constant", number)

    def cut(self, value: Node, axis: int, offset: int, length: int) -> Node:
        """As `Writer.cut`."""
        places = (offset, offset + length, 1, axis)
        return self._made("slice", value, *(self._ops.constant(np.array([place], np.int64)) for place in places))

    def joined(self, values: Sequence[Node], axis: int) -> Node:
        """As `Writer.joined`; of two types, all become float32."""
        kinds = {value.get_element_type().get_type_name() for value in values}
        return self._made("concat", values if len(kinds) == 1 else [self._float(value) for value in values], axis)

    def channels_first(self, value: Node) -> Node:
        """As `Writer.channels_first`."""
        return self._made("transpose", value, self._ops.constant(np.array([0, 3, 1, 2], np.int64)))

    def handed(self, value: Node, offset: int, length: int, kind: torch.dtype | None) -> Node:
        """As `Writer.handed`: what leaves a graph is a copy already.

        One row too many is cut out first. Two cuts that share a result out would become one layer, and OpenVINO could not add
        a shortcut inside the convolution before it, and would round the sum in another way. Where nothing is cut, a pooling of
        single pixels stands between: a change of axes behind a convolution with a shortcut copies all rows twice, behind any
        other layer it costs nothing.
        """
        surplus, rows = min(offset, 1), self.length(value, 2)
        if (offset, length) == (0, rows):
            value = self._made("max_pool", value, [1, 1], [1, 1], [0, 0], [0, 0], [1, 1]) if _is_sum(value) else value
        else:
            value = self.cut(value, 2, offset - surplus, length + surplus)
            value = self.cut(value, 2, surplus, length) if surplus else value
        name = {None: None, torch.float32: "f32", torch.bfloat16: "bf16"}[kind]
        if name not in {None, value.get_element_type().get_type_name()}:
            value = self._made("convert", value, name)
        return self._made("transpose", value, self._ops.constant(np.array([0, 2, 3, 1], np.int64)))

    def length(self, value: Node, axis: int) -> int:
        """As `Writer.length`."""
        return int(value.get_shape()[axis])

    def _made(self, name: str, *args: Any, **kwargs: Any) -> Node:
        return getattr(self._ops, name)(*args, **kwargs).output(0)

    def _float(self, value: Node) -> Node:
        return value if value.get_element_type().get_type_name() == "f32" else self._made("convert", value, "f32")

    def _weights(self, weights: Tensor, shape: Sequence[int] = ()) -> Node:
        array = weights.detach().float().contiguous().numpy()
        return self._ops.constant(array.reshape(shape) if shape else array, shared_memory=True).output(0)

    def _sampled(self, layer: nn.Module, value: Node) -> Node | None:
        match layer:
            case nn.Conv2d() if layer.padding_mode == "zeros" and not isinstance(layer.padding, str):
                return self._convolution(layer, value)
            case nn.ConvTranspose2d() if layer.groups == 1:
                return self._transposed(layer, value)
            case nn.MaxPool2d() if not layer.return_indices and not layer.ceil_mode:
                stride = _pair(layer.kernel_size if layer.stride is None else layer.stride)
                pads = _pair(layer.padding)
                return self._made(
                    "max_pool", value, stride, _pair(layer.dilation), pads, pads, _pair(layer.kernel_size)
                )
            case nn.AvgPool2d() if not layer.ceil_mode and layer.divisor_override is None:
                stride, pads = _pair(layer.kernel_size if layer.stride is None else layer.stride), _pair(layer.padding)
                leave_out = not layer.count_include_pad or not any(pads)
                return self._made("avg_pool", value, stride, pads, pads, _pair(layer.kernel_size), leave_out)
            case nn.Upsample() if layer.mode in {"nearest", "bilinear"} and not layer.align_corners and not layer.size:
                return self._enlarged(layer, value)
        return None

    def _convolution(self, layer: nn.Conv2d, value: Node) -> Node:
        pads = [int(pad) for pad in layer.padding]
        places = (list(layer.stride), pads, pads, list(layer.dilation))
        groups, (out, per_group, *sides) = layer.groups, layer.weight.shape
        if groups == 1:
            result = self._made("convolution", value, self._weights(layer.weight), *places)
        else:
            shape = (groups, out // groups, per_group, *sides)
            result = self._made("group_convolution", value, self._weights(layer.weight, shape), *places)
        return self._biased(result, layer.bias)

    def _transposed(self, layer: nn.ConvTranspose2d, value: Node, cropped: tuple[int, int] = (0, 0)) -> Node:
        """The layer, without some rows at the top and at the bottom."""
        above, beside = (int(pad) for pad in layer.padding)
        result = self._made(
            "convolution_backprop_data",
            value,
            self._weights(layer.weight),
            strides=list(layer.stride),
            pads_begin=[above + cropped[0], beside],
            pads_end=[above + cropped[1], beside],
            dilations=list(layer.dilation),
            output_padding=[int(pad) for pad in layer.output_padding],
        )
        return self._biased(result, layer.bias)

    def _biased(self, value: Node, bias: Tensor | None) -> Node:
        return value if bias is None else self._made("add", value, self._weights(bias, (1, -1, 1, 1)))

    def _enlarged(self, layer: nn.Upsample, value: Node) -> Node:
        scale = layer.scale_factor
        factors = np.array(scale if isinstance(scale, tuple) else (scale, scale), np.float32)
        nearest = layer.mode == "nearest"
        return self._made(
            "interpolate",
            value,
            self._ops.constant(factors),
            mode="nearest" if nearest else "linear_onnx",
            shape_calculation_mode="scales",
            pads_begin=[0, 0, 0, 0],
            pads_end=[0, 0, 0, 0],
            coordinate_transformation_mode="asymmetric" if nearest else "pytorch_half_pixel",
            nearest_mode="floor",
            axes=self._ops.constant(np.array([2, 3], np.int32)),
        )

    def _activation(self, layer: nn.Module, value: Node) -> Node | None:
        if isinstance(layer, nn.Identity | _DropoutNd):
            return value
        if isinstance(layer, MeanProbabilities):
            mean = self._mean_probabilities(layer.members, value)
            return self.joined([mean, value], 1) if layer.kept else mean
        if isinstance(layer, nn.LeakyReLU):
            return self._made("prelu", value, self._ops.constant(np.float32(layer.negative_slope)))
        for kind, (name, arguments) in _ACTIVATIONS.items():
            if isinstance(layer, kind):
                return self._made(name, value, *arguments(layer))
        return None

    def _mean_probabilities(self, members: int, value: Node) -> Node:
        """`MeanProbabilities.forward`, step by step."""
        split = self._ops.split(value, self._ops.constant(np.int64(1)), members).outputs()
        parts = [self._made("log_softmax", part, 1) for part in split]
        most = parts[0]
        for part in parts[1:]:
            most = self._made("maximum", most, part)
        powers = [self._made("exp", self._made("subtract", part, most)) for part in parts]
        total = powers[0]
        for power in powers[1:]:
            total = self._made("add", total, power)
        summed = self._made("add", most, self._made("log", total))
        return self._made("subtract", summed, _one(self._ops, math.log(members)))

    def _both(self, name: str, first: Any, second: Any) -> Node:
        return self._made(name, self._number(first), self._number(second))

    def _number(self, value: Any) -> Node:
        if isinstance(value, Tensor):
            return self._weights(value)
        if isinstance(value, (int, float)):
            return _one(self._ops, value).output(0)
        return self._float(value)

    def _called(self, call: Callable[..., Any], args: Any, kwargs: Any) -> Node:
        """A function that is not known here, converted from torch with its constants."""
        values: list[Node] = []

        def place(value: Any) -> Any:
            if not isinstance(value, self._openvino.Output):
                return value
            values.append(self._float(value))
            return _Place(len(values) - 1)

        module = _Called(call, fx.node.map_aggregate(args, place), fx.node.map_aggregate(kwargs, place))
        return self._foreign(module, values)

    def _foreign(self, module: nn.Module, values: Sequence[Node]) -> Node:
        model = self._convert(module, [torch.zeros(list(value.get_shape())) for value in values])
        for parameter, value in zip(model.get_parameters(), values, strict=True):
            for target in parameter.output(0).get_target_inputs():
                target.replace_source_output(value)
        return model.get_results()[0].input_value(0)


class _Place:
    def __init__(self, number: int) -> None:
        self.number = number


class _Called(nn.Module):
    """A function as a module of its tensors."""

    def __init__(self, call: Callable[..., Any], args: Any, kwargs: Any) -> None:
        super().__init__()
        self._call, self._args, self._kwargs = call, args, kwargs

    def forward(self, *tensors: Tensor) -> Tensor:
        def filled(value: Any) -> Any:
            return fx.node.map_aggregate(value, lambda each: tensors[each.number] if isinstance(each, _Place) else each)

        result: Tensor = self._call(*filled(self._args), **filled(self._kwargs))
        return result


def _pair(value: Any) -> list[int]:
    return [int(each) for each in (value if isinstance(value, (tuple, list)) else (value, value))]


def _is_sum(value: Node) -> bool:
    """Whether a value is a sum of two results, or an activation of one."""
    node = value.get_node()
    if len(node.inputs()) == 1:
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Add" and all(
        part.get_node().get_type_name() != "Constant" for part in node.input_values()
    )
