"""From a module to the list of its operations, in the order in which they are computed."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from microseg_ray.models.architectures import blocks
from microseg_ray.models.architectures.defectsegnet import SymmetricPad
from microseg_ray.models.strips.layers import Operation, Slot, operation_of, rowwise
from microseg_ray.models.strips.reason import NotStreamableError
from microseg_ray.models.strips.rows import Range

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Node", "traced"]

# Their checks and paddings concern sides that are no multiples of the stride, which strips always are.
_FIRST_ARGUMENT = (blocks.padded_sides, blocks.cut_to)
_ROWWISE: tuple[Callable[..., Any], ...] = (
    operator.add,
    operator.sub,
    operator.mul,
    operator.truediv,
    torch.add,
    torch.sub,
    torch.mul,
    torch.div,
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    F.relu,
    F.elu,
    F.silu,
    F.gelu,
)
_METHODS: dict[str, Callable[..., Any]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "flip": torch.Tensor.flip,
    "contiguous": torch.Tensor.contiguous,
    "float": torch.Tensor.float,
}
_PROBE = 4


@dataclass(frozen=True, eq=False)
class Node:
    """One operation and where its inputs come from.

    Attributes:
        name: For messages.
        operation: None for the image.
        inputs: Indices of earlier nodes.
        row_numbers: Numbers in one row of its output, per pixel of an image row.
        row_work: Multiplications for them.
        channels: Of its output.
        width: Of its output, as share of the image's.
    """

    name: str
    operation: Operation | None
    inputs: tuple[int, ...]
    row_numbers: float = 0.0
    row_work: float = 0.0
    channels: int = 0
    width: Fraction = Fraction(1)


class _Tracer(fx.Tracer):
    def __init__(self) -> None:
        super().__init__(autowrap_functions=(blocks.check_sides, blocks.full_precision, *_FIRST_ARGUMENT))

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, SymmetricPad) or super().is_leaf_module(m, module_qualified_name)

    def create_arg(self, a: Any) -> Any:
        # The head that `full_precision` is given.
        if isinstance(a, nn.Module):
            return self.create_node("get_attr", self.path_of_module(a), (), {})
        return super().create_arg(a)


def traced(model: nn.Module, in_channels: int, stride: int) -> list[Node]:
    """The operations of a model, the image first and the logits last; what the logits do not need is left out.

    Args:
        model: In evaluation mode; its weights are shared, not copied.
        in_channels: Channels of the image.
        stride: The model's stride.

    Raises:
        NotStreamableError: The model cannot be traced, or has a layer that cannot be streamed.

    Example:
        >>> [node.name for node in traced(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU()).eval(), 1, 1)]
        ['image', '0', '1']
    """
    try:
        graph = _Tracer().trace(model)
    except Exception as error:
        # Whatever a foreign model does with a proxy.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotStreamableError(f"its forward cannot be traced ({reason})") from error
    return _measured(_needed(_Reader(model).nodes(graph)), in_channels, stride)


class _Reader:
    """Turns an fx graph into nodes."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._nodes: list[Node] = []
        self._places: dict[fx.Node, int] = {}
        self._values: dict[fx.Node, Any] = {}

    def nodes(self, graph: fx.Graph) -> list[Node]:
        for node in graph.nodes:
            if node.op == "output":
                return self._ended(node.args[0])
            self._read(node)
        raise NotStreamableError("it returns nothing")

    def _ended(self, result: Any) -> list[Node]:
        if not isinstance(result, fx.Node) or result not in self._places:
            raise NotStreamableError("it returns something else than one tensor")
        return self._nodes[: self._places[result] + 1]

    def _read(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self._nodes:
                raise NotStreamableError("it takes more than one tensor")
            self._add(node, Node("image", None, ()))
        elif node.op == "get_attr":
            self._values[node] = self._attribute(str(node.target))
        elif node.op == "call_module":
            layer = self._attribute(str(node.target))
            self._add(node, Node(str(node.target), operation_of(layer, str(node.target)), self._inputs(node)))
        elif node.target is blocks.check_sides:
            return
        elif node.target in _FIRST_ARGUMENT:
            self._places[node] = self._places[node.args[0]]  # type: ignore[index]
        elif node.target is blocks.full_precision:
            self._head(node)
        else:
            self._add(node, self._function(node))

    def _attribute(self, path: str) -> Any:
        return operator.attrgetter(path)(self._model)

    def _add(self, node: fx.Node, made: Node) -> None:
        self._places[node] = len(self._nodes)
        self._nodes.append(made)

    def _inputs(self, node: fx.Node) -> tuple[int, ...]:
        try:
            return tuple(self._places[each] for each in node.all_input_nodes if each not in self._values)
        except KeyError as error:
            raise NotStreamableError(f"step {node.name} uses {error.args[0]}, which is no image") from error

    def _head(self, node: fx.Node) -> None:
        head, features = node.args
        place = self._places[features]  # type: ignore[index]
        for name, layer in _leaves(self._values[head], str(head)):  # type: ignore[index]
            self._nodes.append(Node(name, operation_of(layer, name, exact=True), (place,)))
            place = len(self._nodes) - 1
        self._places[node] = place

    def _function(self, node: fx.Node) -> Node:
        call = _METHODS.get(str(node.target)) if node.op == "call_method" else node.target
        if not callable(call) or not _rowwise(node, call):
            raise NotStreamableError(f"step {node.name} ({node.target}) needs the whole image or is not known")
        inputs = self._inputs(node)

        def argument(value: fx.Node) -> Any:
            if value not in self._values:
                return Slot(inputs.index(self._places[value]))
            constant = self._values[value]
            if not isinstance(constant, torch.Tensor) or (constant.ndim and constant.shape[-2:] != (1, 1)):
                raise NotStreamableError(f"step {node.name} uses a constant {value} that has places in the image")
            return constant

        args, kwargs = fx.node.map_arg(node.args, argument), fx.node.map_arg(node.kwargs, argument)
        return Node(node.name, rowwise(call, args, kwargs), inputs)


def _rowwise(node: fx.Node, call: Callable[..., Any]) -> bool:
    """Whether a function treats all rows alike, with these arguments."""
    if call is torch.cat:
        return node.kwargs.get("dim", (*node.args, 0)[1]) in {1, -3}
    if call in (torch.flip, torch.Tensor.flip):
        return node.args[1:] in {(1,), (-3,), ((1,),), ((-3,),)}
    return call in _ROWWISE or call in _METHODS.values()


def _leaves(module: nn.Module, name: str) -> list[tuple[str, nn.Module]]:
    if not isinstance(module, nn.Sequential):
        return [(name, module)]
    return [leaf for key, child in module.named_children() for leaf in _leaves(child, f"{name}.{key}")]


def _needed(nodes: list[Node]) -> list[Node]:
    """Without the operations whose results nothing uses."""
    used = {len(nodes) - 1, 0}
    for index in reversed(range(len(nodes))):
        if index in used:
            used.update(nodes[index].inputs)
    order = sorted(used)
    places = {index: place for place, index in enumerate(order)}
    return [
        Node(nodes[index].name, nodes[index].operation, tuple(places[each] for each in nodes[index].inputs))
        for index in order
    ]


def _measured(nodes: list[Node], in_channels: int, stride: int) -> list[Node]:
    """With the size of each result, from a pass over a small image: pretending to compute takes torch longer than computing."""
    side = _PROBE * max(stride, 16)
    weights = (value for node in nodes if node.operation is not None for value in node.operation.parameters())
    like = next(weights, torch.zeros(()))
    found: list[torch.Tensor] = []
    measured: list[Node] = []
    with torch.no_grad():
        for node in nodes:
            if node.operation is None:
                result = torch.zeros(1, in_channels, side, side, dtype=like.dtype, device=like.device)
            else:
                given = [found[index] for index in node.inputs]
                height = given[0].shape[2]
                if any(each.shape[2] != height for each in given):
                    raise NotStreamableError(f"step {node.name} joins images of different heights")
                wanted = Range(0, node.operation.rows.height(height))
                result = node.operation(given, node.operation.rows.cut(wanted, Range(0, height), height))
            if result.ndim != 4:
                raise NotStreamableError(f"step {node.name} gives no image")
            found.append(result)
            measured.append(_sized(node, result, side))
    if found[-1].shape[2:] != (side, side):
        raise NotStreamableError(f"it gives {tuple(found[-1].shape[2:])} for an image of {(side, side)}")
    return measured


def _sized(node: Node, result: torch.Tensor, side: int) -> Node:
    width = Fraction(result.shape[3], side)
    numbers = float(result.shape[1] * width)
    work = 0.0
    for layer in () if node.operation is None else node.operation.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            taps = layer.weight.numel() / layer.out_channels
            spread = layer.stride[0] * layer.stride[1] if isinstance(layer, nn.ConvTranspose2d) else 1
            work = numbers * taps / spread
    return Node(node.name, node.operation, node.inputs, numbers, work, result.shape[1], width)
