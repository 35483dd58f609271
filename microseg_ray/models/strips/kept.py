"""The rows of a layer that the next strips need: a window that moves down through one buffer, so that few rows are copied."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["KeptRows"]


class KeptRows:
    """The kept rows of one layer.

    A strip reads some of them where they lie, and the rows that it hands on are written behind them. The window is moved to the
    buffer's begin when the end is reached.

    Args:
        most: Rows that are kept at most.
        added: Rows that one strip hands on at most.

    Example:
        >>> kept = KeptRows(most=2, added=2)
        >>> kept.add(torch.tensor([1.0, 2.0]).reshape(1, 2, 1, 1), left=0)
        >>> kept.rows(1, 1).item()
        2.0
        >>> kept.add(torch.tensor([3.0]).reshape(1, 1, 1, 1), left=1)
        >>> kept.rows(0, 2).flatten().tolist()
        [2.0, 3.0]
    """

    def __init__(self, most: int, added: int) -> None:
        # So that the window never overlaps the place that it is moved to.
        self._capacity = 2 * most + added
        self._begin = self._end = 0
        self._buffer: Tensor | None = None

    def rows(self, skip: int, length: int) -> Tensor:
        """Some rows (1, y, x, c), a view that lasts until the next `place`."""
        if self._buffer is None:
            raise ValueError("no rows are kept yet")
        return self._buffer[:, self._begin + skip : self._begin + skip + length]

    def place(self, length: int) -> Tensor | None:
        """Where so many rows can be written that are added next; None before the first, whose type and width are not known."""
        if self._buffer is None:
            return None
        held = self._end - self._begin
        if self._end + length > self._capacity:
            self._buffer[:, :held] = self._buffer[:, self._begin : self._end]
            self._begin, self._end = 0, held
        return self._buffer[:, self._end : self._end + length]

    def add(self, rows: Tensor, left: int) -> None:
        """Keep these rows, which may lie in `place` already, and of the older ones the last `left`."""
        if self._buffer is None:
            shape = (1, self._capacity, *rows.shape[2:])
            self._buffer = torch.empty(shape, dtype=rows.dtype, device=rows.device)
        target = self.place(rows.shape[1])
        if target is not None and target.data_ptr() != rows.data_ptr():
            target.copy_(rows)
        self._begin, self._end = self._end - left, self._end + rows.shape[1]

    def leave(self, left: int) -> None:
        """Keep the last `left` rows only."""
        self._begin = self._end - left
