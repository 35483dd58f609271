"""Memory for what graphs put out."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Buffers"]

_Kind = tuple[tuple[int, ...], torch.dtype]
"""Shape and type."""


class Buffers:
    """Output buffers that graphs share which are called one after the other.

    Args:
        sets: How many sets take turns: what a call returns keeps its values for so many calls less one.

    Example:
        >>> buffers = Buffers(2)
        >>> first, second, third = (buffers.take([((2,), torch.float32)])[0] for _ in range(3))
        >>> first is third, first is second
        (True, False)
    """

    def __init__(self, sets: int) -> None:
        self._sets: list[dict[tuple[int, _Kind], Tensor]] = [{} for _ in range(sets)]
        self._turn = 0

    def take(self, kinds: Sequence[_Kind]) -> list[Tensor]:
        """A tensor for each shape and type, of the set whose turn it is."""
        self._turn = (self._turn + 1) % len(self._sets)
        held = self._sets[self._turn]
        numbers: Counter[_Kind] = Counter()
        taken = []
        for kind in kinds:
            key = numbers[kind], kind
            numbers[kind] += 1
            if key not in held:
                held[key] = torch.empty(kind[0], dtype=kind[1])
            taken.append(held[key])
        return taken

    def forget(self) -> None:
        """Hold none any more, because other shapes are coming."""
        for held in self._sets:
            held.clear()
