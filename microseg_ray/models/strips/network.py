"""One strip of a network as an ordinary feed-forward module of fixed shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from torch import Tensor, nn

from microseg_ray.models.runtimes.writing import TensorWriter, Writer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from microseg_ray.models.strips.schedule import Program
    from microseg_ray.models.strips.trace import Node

__all__ = ["StripModule"]

V = TypeVar("V")


class StripModule(nn.Module):
    """The graph of one program.

    It takes the image rows (1, c, y, x) and the kept rows of the last strip, and gives the logits (1, K, y, x) of the
    finished rows, if there are any, and the rows to keep. Kept rows are (1, y, x, c), so that they lie in memory as
    channels_last results do.

    Args:
        nodes: The network's operations; their weights are shared.
        program: What the strip does.
        kept_type: Type of the kept rows that come out, for a runtime that computes in another than torch's; None: as computed.
    """

    def __init__(self, nodes: Sequence[Node], program: Program, kept_type: torch.dtype | None = None) -> None:
        super().__init__()
        self.program = program
        self.kept_type = kept_type
        self.operations = nn.ModuleList(nn.Identity() if node.operation is None else node.operation for node in nodes)

    def forward(self, image: Tensor, *kept: Tensor) -> tuple[Tensor, ...]:
        """Compute one strip."""
        return self.write(TensorWriter(), image, *kept)

    def write(self, writer: Writer[V], *inputs: V) -> tuple[V, ...]:
        """The same with any writer: the image rows first, then the kept rows."""
        coming = iter(inputs[1:])
        held: dict[int, _Held[V]] = {0: _Held(writer, None, inputs[0], joined=None)}
        leaving: list[V] = []
        for step in self.program.steps[1:]:
            old = next(coming) if step.before else None
            new = None
            if step.takes:
                given = [held[take.node].rows(take.offset, take.length) for take in step.takes]
                new = self.operations[step.node].write(writer, given, step.cut)  # type: ignore[operator]
                del given
            joined = (
                writer.joined([writer.channels_first(old), new], 2)
                if step.joined and old is not None and new is not None
                else None
            )
            held[step.node] = _Held(writer, old, new, joined)
            del old, new, joined
            if step.after.length:
                leaving.append(held[step.node].handed(step.after.offset, step.after.length, self.kept_type))
            for node in step.last:
                del held[node]
        if not self.program.finished:
            return tuple(leaving)
        finished = held[len(self.program.steps) - 1].rows(0, self.program.finished)
        return (finished, *leaving)


@dataclass(frozen=True)
class _Held(Generic[V]):
    """The rows of a node that a strip has.

    Attributes:
        writer: What they are written with.
        old: Those taken over, (1, y, x, c).
        new: Those computed, (1, c, y, x), which lie below.
        joined: Both, where that is needed.
    """

    writer: Writer[V]
    old: V | None
    new: V | None
    joined: V | None

    def rows(self, offset: int, length: int) -> V:
        """Some of them as an image, from a single part where possible, so that nothing is copied twice."""
        above = self._above()
        if self.joined is not None and offset < above < offset + length:
            return self._cut(self.joined, offset, length, 2)
        parts: list[V] = []
        if self.old is not None and offset < above:
            # Cut before the axes change places: OpenVINO would otherwise lay the rows out anew.
            parts.append(self.writer.channels_first(self._cut(self.old, offset, min(length, above - offset), 1)))
        if self.new is not None and offset + length > above:
            begin = max(offset - above, 0)
            parts.append(self._cut(self.new, begin, offset + length - above - begin, 2))
        return parts[0] if len(parts) == 1 else self.writer.joined(parts, 2)

    def handed(self, offset: int, length: int, kind: torch.dtype | None) -> V:
        """Some of the rows computed as (1, y, x, c)."""
        if self.new is None:
            raise ValueError("a layer hands on rows that it does not compute")
        return self.writer.handed(self.new, offset, length, kind)

    def _above(self) -> int:
        return 0 if self.old is None else self.writer.length(self.old, 1)

    def _cut(self, value: V, offset: int, length: int, axis: int) -> V:
        whole = offset == 0 and length == self.writer.length(value, axis)
        return value if whole else self.writer.cut(value, axis, offset, length)
