"""The specification of a tile store: grid, types, classes, and the place of each tile in the arrays."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec, Scaling
    from microseg_ray.sources import IntensityProfile

__all__ = ["TileSpec"]

TARGET_SHARD_BYTES = 32 * 1024**2
MAX_TILES_PER_SHARD = 256


@dataclass(frozen=True)
class TileSpec:
    """The specification of a tile store.

    Attributes:
        tiles: Number of tiles.
        side: Height and width of a tile in pixels.
        overlap: Pixels that neighbouring tiles share, at least.
        channels: Channels of the images.
        dtype: numpy name of the images' type.
        classes: Names and colours, in the order of the class index.
        scaling: How intensities become what a model sees.
        pixel_size_um: Median (y, x) of the micrographs, None where unknown or too different.
        intensities: Distribution of the training micrographs after scaling, None where it was not measured.
        parts: Tiles of each writing, where there was more than one; each starts a shard.
    """

    tiles: int
    side: int
    overlap: int
    channels: int
    dtype: str
    classes: tuple[ClassSpec, ...]
    scaling: Scaling
    pixel_size_um: tuple[float, float] | None = None
    intensities: IntensityProfile | None = None
    parts: tuple[int, ...] = ()

    @property
    def tiles_per_shard(self) -> int:
        """Tiles that one task writes in one go.

        Example:
            >>> from microseg_ray.settings import Scaling
            >>> TileSpec(10, 256, 32, 1, "uint8", (), Scaling()).tiles_per_shard
            256
        """
        tile_bytes = self.channels * self.side**2 * np.dtype(self.dtype).itemsize
        return max(1, min(MAX_TILES_PER_SHARD, TARGET_SHARD_BYTES // tile_bytes))

    def shard_range(self, shard: int) -> range:
        """The tile indices of one shard.

        Example:
            >>> from microseg_ray.settings import Scaling
            >>> spec = TileSpec(310, 256, 32, 1, "uint8", (), Scaling(), parts=(300, 10))
            >>> spec.shards, [spec.shard_range(shard) for shard in range(3)]
            (3, [range(0, 256), range(256, 300), range(300, 310)])
        """
        start = 0
        for part in self.parts or (self.tiles,):
            shards = -(-part // self.tiles_per_shard)
            if shard < shards:
                first = start + shard * self.tiles_per_shard
                return range(first, min(first + self.tiles_per_shard, start + part))
            start, shard = start + part, shard - shards
        return range(self.tiles, self.tiles)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return sum(-(-part // self.tiles_per_shard) for part in self.parts or (self.tiles,))

    @property
    def slots(self) -> NDArray[np.int64]:
        """(tile,) int64: where each tile lies in the arrays; the last shard of a writing may have room left."""
        slots = np.arange(self.tiles, dtype=np.int64)
        for shard in range(self.shards) if len(self.parts) > 1 else ():
            tiles = self.shard_range(shard)
            slots[tiles.start : tiles.stop] = shard * self.tiles_per_shard + np.arange(len(tiles))
        return slots

    @property
    def length(self) -> int:
        """Length of the arrays: up to the last tile."""
        return int(self.slots[-1]) + 1 if self.tiles else 0

    def grown(self, tiles: int) -> TileSpec:
        """This with another writing of so many tiles."""
        return replace(self, tiles=self.tiles + tiles, parts=(*(self.parts or (self.tiles,)), tiles))
