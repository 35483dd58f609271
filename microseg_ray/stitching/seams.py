"""How large the seams of a run are: measured on sampled neighbouring tiles, not promised.

For a sampled border between two cores, a third tile of the same shape is laid over it, centred, so that the border lies
deep inside. Where the halo covers the receptive field the stitched scores equal that tile's along the border; elsewhere
the difference is what a reader of the mask would see as a seam. The idea of comparing tiles where they overlap is that of the
"tile mismatch" test in arXiv 2503.19545.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box, Tile, TileGrid, ceil_to, floor_to
from microseg_ray.stitching.shards import Predictor, padded_tile

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["SeamAudit", "audit_seams"]

BAND = 16


@dataclass(frozen=True)
class SeamAudit:
    """What was found along sampled seams.

    Attributes:
        pixels: Pixels compared; 0 where the micrograph has no seam.
        seam_max_abs: Largest difference of a probability.
        seam_argmax_flips: Pixels whose class differs.
    """

    pixels: int
    seam_max_abs: float
    seam_argmax_flips: int


def audit_seams(
    read: Callable[[Box], NDArray[Any]],
    predictor: Predictor,
    grid: TileGrid,
    limits: tuple[float, float],
    *,
    samples: int = 2,
) -> SeamAudit:
    """Compare stitched scores with those of tiles centred on the seams.

    Args:
        read: Gives pixels (channel, y, x) of a box inside the micrograph.
        predictor: The model.
        grid: The tiles that were used.
        limits: Intensities (low, high) of the scaling.
        samples: Seams looked at, spread evenly and always the same ones.

    Returns:
        The largest differences found.
    """
    pairs = _seams(grid)
    if not pairs:
        return SeamAudit(0, 0.0, 0)
    chosen = [pairs[round(index)] for index in np.linspace(0, len(pairs) - 1, min(samples, len(pairs)))]
    pixels, largest, flips = 0, 0.0, 0
    for left, right in chosen:
        centred = _centred(left, right, grid)
        reference = _scores(read, predictor, centred, limits)
        for tile in (left, right):
            shared = tile.core.intersection(_band(left, right)).intersection(_trusted(centred, grid))
            if shared.area == 0:
                continue
            here = _scores(read, predictor, tile, limits)[(..., *shared.relative_to(tile.box).slices)]
            there = reference[(..., *shared.relative_to(centred.box).slices)]
            pixels += shared.area
            largest = max(largest, float(np.abs(here - there).max()))
            flips += int(np.count_nonzero(here.argmax(axis=0) != there.argmax(axis=0)))
    return SeamAudit(pixels, largest, flips)


def _seams(grid: TileGrid) -> list[tuple[Tile, Tile]]:
    rows, columns = grid.counts
    across = [(grid.at(row, column), grid.at(row, column + 1)) for row in range(rows) for column in range(columns - 1)]
    down = [(grid.at(row, column), grid.at(row + 1, column)) for row in range(rows - 1) for column in range(columns)]
    return across + down


def _centred(left: Tile, right: Tile, grid: TileGrid) -> Tile:
    """A tile of the grid's shape with the seam between two tiles in its middle."""
    height, width = grid.tile_shape
    limit = grid.padded_shape
    vertical = left.core.x0 != right.core.x0
    middle_y = (right.core.y0 + right.core.y1) // 2 if vertical else right.core.y0
    middle_x = right.core.x0 if vertical else (right.core.x0 + right.core.x1) // 2
    y0 = min(max(0, floor_to(middle_y - height // 2, grid.stride)), limit[0] - height)
    x0 = min(max(0, floor_to(middle_x - width // 2, grid.stride)), limit[1] - width)
    box = Box(y0, x0, y0 + height, x0 + width)
    visible = box.intersection(Box.of_shape(grid.shape))
    return Tile(box, visible, visible)


def _band(left: Tile, right: Tile) -> Box:
    if left.core.x0 != right.core.x0:
        return Box(right.core.y0, right.core.x0 - BAND, right.core.y1, right.core.x0 + BAND)
    return Box(right.core.y0 - BAND, right.core.x0, right.core.y0 + BAND, right.core.x1)


def _trusted(tile: Tile, grid: TileGrid) -> Box:
    """The part of the centred tile that its own border does not reach: a halo, or at least a quarter of the tile."""
    halo = (grid.halo, grid.halo) if isinstance(grid.halo, int) else grid.halo
    # A halo always leaves a core, so that the middle row and column are inside.
    margin_y, margin_x = (
        min(max(ceil_to(own, grid.stride), side // 4), (side - 1) // 2)
        for own, side in zip(halo, tile.box.shape, strict=True)
    )
    box, (height, width) = tile.box, grid.shape
    inner = Box(
        box.y0 if box.y0 == 0 else box.y0 + margin_y,
        box.x0 if box.x0 == 0 else box.x0 + margin_x,
        box.y1 if box.y1 >= height else box.y1 - margin_y,
        box.x1 if box.x1 >= width else box.x1 - margin_x,
    )
    return inner.intersection(Box.of_shape(grid.shape))


def _scores(
    read: Callable[[Box], NDArray[Any]], predictor: Predictor, tile: Tile, limits: tuple[float, float]
) -> NDArray[np.float32]:
    batch = padded_tile(read(tile.visible), tile.box.shape)[None]
    scores: NDArray[np.float32] = predictor.scores(np.ascontiguousarray(batch), limits)[0]
    return scores
