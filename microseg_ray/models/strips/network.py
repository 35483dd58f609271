"""One strip of a network as an ordinary feed-forward module of fixed shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from microseg_ray.models.strips.schedule import Program
    from microseg_ray.models.strips.trace import Node

__all__ = ["StripModule"]


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
        coming = iter(kept)
        held: dict[int, _Held] = {0: _Held(None, image, joined=None)}
        leaving: list[Tensor] = []
        for step in self.program.steps[1:]:
            old = next(coming) if step.before else None
            new = None
            if step.takes:
                given = [held[take.node].rows(take.offset, take.length) for take in step.takes]
                new = self.operations[step.node](given, step.cut)
                del given
            joined = (
                torch.cat([_image(old), new], dim=2) if step.joined and old is not None and new is not None else None
            )
            held[step.node] = _Held(old, new, joined)
            del old, new, joined
            if step.after.length:
                rows = held[step.node].leaving(step.after.offset, step.after.length)
                # A copy: a view would keep the whole result alive.
                leaving.append(rows.to(self.kept_type or rows.dtype, copy=True, memory_format=torch.contiguous_format))
                del rows
            for node in step.last:
                del held[node]
        if not self.program.finished:
            return tuple(leaving)
        finished = held[len(self.program.steps) - 1].rows(0, self.program.finished)
        return (finished, *leaving)


class _Held(NamedTuple):
    """The rows of a node that a strip has.

    Attributes:
        old: Those taken over, (1, y, x, c).
        new: Those computed, (1, c, y, x), which lie below.
        joined: Both, where that is needed.
    """

    old: Tensor | None
    new: Tensor | None
    joined: Tensor | None

    def rows(self, offset: int, length: int) -> Tensor:
        """Some of them as an image, from a single part where possible, so that nothing is copied twice."""
        above = 0 if self.old is None else self.old.shape[1]
        if self.joined is not None and offset < above < offset + length:
            return _narrowed(self.joined, offset, length, 2)
        parts: list[Tensor] = []
        if self.old is not None and offset < above:
            # Cut before the axes change places: OpenVINO would otherwise lay the rows out anew.
            parts.append(_image(_narrowed(self.old, offset, min(length, above - offset), 1)))
        if self.new is not None and offset + length > above:
            begin = max(offset - above, 0)
            parts.append(_narrowed(self.new, begin, offset + length - above - begin, 2))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    def leaving(self, offset: int, length: int) -> Tensor:
        """Some of them as (1, y, x, c).

        One row too many is cut out first. Two cuts that share a result out would become one layer in OpenVINO, which then
        cannot add a shortcut inside a convolution, and rounds it in another way.
        """
        above = 0 if self.old is None else self.old.shape[1]
        parts: list[Tensor] = []
        if self.old is not None and offset < above:
            parts.append(_narrowed(self.old, offset, min(length, above - offset), 1))
        if self.new is not None and offset + length > above:
            begin = max(offset - above, 0)
            surplus = min(begin, 1)
            count = offset + length - above - begin
            rows = _narrowed(self.new, begin - surplus, count + surplus, 2).permute(0, 2, 3, 1)
            parts.append(_narrowed(rows, surplus, count, 1))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _image(rows: Tensor) -> Tensor:
    return rows.permute(0, 3, 1, 2)


def _narrowed(tensor: Tensor, offset: int, length: int, axis: int) -> Tensor:
    return tensor if offset == 0 and length == tensor.shape[axis] else tensor.narrow(axis, offset, length)
