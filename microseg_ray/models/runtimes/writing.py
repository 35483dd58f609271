"""How a network is written down once for two kinds of values: torch tensors, and the outputs of nodes of a runtime's graph.

torch.export and OpenVINO's converter need seconds for a strip of the default network, and a micrograph of a new size needs three
strips. A module that is `Writable` is built as OpenVINO's graph without them, in milliseconds.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from microseg_ray.models.architectures.blocks import full_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

__all__ = ["TensorWriter", "Writable", "Writer"]

V = TypeVar("V")
"""A value: a torch tensor, or the output of a node in a graph."""


class Writer(Protocol[V]):
    """What a network is made of. Values have four axes."""

    def layer(self, layer: nn.Module, value: V, *, exact: bool = False) -> V:
        """A torch layer of one input; `exact`: in float32, also where the rest is computed in bf16."""

    def layer_rows(self, layer: nn.Module, value: V, offset: int, length: int, *, exact: bool = False) -> V:
        """`length` rows of what a layer gives, from `offset` on."""

    def function(self, call: Callable[..., Any], args: Any, kwargs: Any, *, exact: bool = False) -> V:
        """A torch function; its arguments are values, tensors and numbers, also inside lists and tuples."""

    def padded(self, value: V, above: int, below: int, fill: float) -> V:
        """Rows of one number above and below an image (1, c, y, x)."""

    def cut(self, value: V, axis: int, offset: int, length: int) -> V:
        """`length` places of an axis, from `offset` on."""

    def joined(self, values: Sequence[V], axis: int) -> V:
        """One after the other along an axis."""

    def channels_first(self, value: V) -> V:
        """(1, y, x, c) as (1, c, y, x)."""

    def handed(self, value: V, offset: int, length: int, kind: torch.dtype | None) -> V:
        """A copy of some rows of an image (1, c, y, x) as (1, y, x, c), of this type if one is given, contiguous."""

    def length(self, value: V, axis: int) -> int:
        """Places along an axis."""


@runtime_checkable
class Writable(Protocol):
    """A module that can be written with any `Writer`."""

    def write(self, writer: Writer[V], *inputs: V) -> tuple[V, ...]:
        """What the module returns for these inputs."""


class TensorWriter:
    """Computes at once, with torch.

    Example:
        >>> TensorWriter().padded(torch.ones(1, 1, 1, 2), 1, 0, 0.0).tolist()
        [[[[0.0, 0.0], [1.0, 1.0]]]]
    """

    def layer(self, layer: nn.Module, value: Tensor, *, exact: bool = False) -> Tensor:
        """As `Writer.layer`."""
        # Tensors without values, on the device meta, are used to learn shapes; it has no autocast.
        result: Tensor = full_precision(layer, value) if exact and value.device.type != "meta" else layer(value)
        return result

    def layer_rows(self, layer: nn.Module, value: Tensor, offset: int, length: int, *, exact: bool = False) -> Tensor:
        """As `Writer.layer_rows`; a view."""
        return self.layer(layer, value, exact=exact).narrow(2, offset, length)

    def function(self, call: Callable[..., Any], args: Any, kwargs: Any, *, exact: bool = False) -> Tensor:
        """As `Writer.function`."""
        precision = torch.autocast(device_type=args[0].device.type, enabled=False) if exact else nullcontext()
        with precision:
            result: Tensor = call(*args, **kwargs)
        return result

    def padded(self, value: Tensor, above: int, below: int, fill: float) -> Tensor:
        """As `Writer.padded`."""
        return F.pad(value, (0, 0, above, below), value=fill)

    def cut(self, value: Tensor, axis: int, offset: int, length: int) -> Tensor:
        """As `Writer.cut`; a view."""
        return value.narrow(axis, offset, length)

    def joined(self, values: Sequence[Tensor], axis: int) -> Tensor:
        """As `Writer.joined`."""
        return torch.cat(list(values), dim=axis)

    def channels_first(self, value: Tensor) -> Tensor:
        """As `Writer.channels_first`; a view."""
        return value.permute(0, 3, 1, 2)

    def handed(self, value: Tensor, offset: int, length: int, kind: torch.dtype | None) -> Tensor:
        """As `Writer.handed`: a view would keep the whole result alive."""
        rows = value.narrow(2, offset, length).permute(0, 2, 3, 1)
        return rows.to(kind or value.dtype, copy=True, memory_format=torch.contiguous_format)

    def length(self, value: Tensor, axis: int) -> int:
        """As `Writer.length`."""
        return value.shape[axis]
