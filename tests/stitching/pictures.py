"""Pictures, tiles cut from them, and shards to stitch into."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import zarr

if TYPE_CHECKING:
    from microseg_ray import Tile

PADDED_VALUE = 9


def cut(image: np.ndarray, tile: Tile) -> np.ndarray:
    """The tile's array; what leaves the micrograph is junk that must not come back."""
    array = np.full((*image.shape[:-2], *tile.box.shape), PADDED_VALUE, image.dtype)
    array[..., : tile.visible.height, : tile.visible.width] = image[(..., *tile.visible.slices)]
    return array


def picture(shape: tuple[int, int], classes: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, classes, shape).astype(np.uint8)


def sharded(shape: tuple[int, ...], dtype: str, shard: int = 32, chunk: int = 16) -> zarr.Array:
    lead = shape[:-2]
    return zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=shape,
        chunks=(*lead, chunk, chunk),
        shards=(*lead, shard, shard),
        dtype=dtype,
        fill_value=77,
    )
