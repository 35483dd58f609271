"""Some of the shards of a micrograph, in memory that does not grow with their number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["ShardSet"]


@dataclass(frozen=True)
class ShardSet:
    """All shards of a micrograph, or those whose bit is set.

    Attributes:
        grid: Shards along (y, x).
        bits: A bit for each shard in row-major order, as `numpy.packbits` packs them; None is all of them.

    Example:
        >>> ShardSet.of((2, 3), [(1, 2), (0, 1)])
        ShardSet(grid=(2, 3), bits=b'D')
        >>> list(ShardSet.of((2, 3), [(1, 2), (0, 1)])), len(ShardSet((1000, 1000)))
        ([(0, 1), (1, 2)], 1000000)
    """

    grid: tuple[int, int]
    bits: bytes | None = None

    @classmethod
    def of(cls, grid: tuple[int, int], shards: Iterable[tuple[int, int]]) -> ShardSet:
        """The set of these shards.

        Args:
            grid: Shards along (y, x).
            shards: (y, x) of each, in any order.
        """
        chosen = np.zeros(grid, bool)
        for shard in shards:
            chosen[shard] = True
        return cls(grid, None if chosen.all() else np.packbits(chosen).tobytes())

    def __len__(self) -> int:
        if self.bits is None:
            return self.grid[0] * self.grid[1]
        return int.from_bytes(self.bits, "big").bit_count()

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """(y, x) of each, in row-major order."""
        rows, columns = self.grid
        for row in range(rows):
            here = range(columns) if self.bits is None else self._columns(row)
            yield from ((row, column) for column in here)

    def _columns(self, row: int) -> list[int]:
        """The columns of one row."""
        columns = self.grid[1]
        first = row * columns
        part = np.frombuffer(self.bits or b"", np.uint8)[first // 8 : -(-(first + columns) // 8)]
        found: list[int] = np.flatnonzero(np.unpackbits(part)[first % 8 :][:columns]).tolist()
        return found
