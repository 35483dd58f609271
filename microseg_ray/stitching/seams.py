"""How large the seams of a run are: measured on sampled neighbouring tiles, in what the run really stitches.

For a sampled border between two tiles, a third tile of the same shape is laid over it, centred, so that the border lies
deep inside. The stitched scores near the border (cropped or blended, and averaged over symmetries where the run does so)
are compared with that tile's. Where the halo covers the receptive field they are equal up to rounding; elsewhere
the difference is what a reader of the mask would see as a seam. The idea of comparing tiles where they overlap is that of the
"tile mismatch" test in arXiv 2503.19545.

A kernel may round in another way for another shape of tile. So the same pixels are compared with a tile of a second, smaller
shape, too. That difference is what `exact` holds up to; `promise` puts it into words.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box, Tile, TileGrid, ceil_to, floor_to
from microseg_ray.stitching.shards import EnginePlan, stitched_scores, tile_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from microseg_ray.stitching.scoring import Predictor

__all__ = ["SeamAudit", "audit_mask", "audit_seam", "audit_seams", "promise", "sampled_seams"]

BAND = 16
MANY_TILES = 128
"""From this size of a grid on two seams are compared: each costs 3.6 tiles, 22 % of the work of a grid of 16."""
Limits = tuple[float, float]


@dataclass(frozen=True)
class SeamAudit:
    """The largest differences along sampled seams.

    Attributes:
        pixels: Pixels compared; 0 where the micrograph has no seam.
        seam_max_abs: Largest difference of a probability between the stitched scores and those of a centred tile.
        seam_argmax_flips: Pixels whose class differs between the two.
        shape_pixels: Pixels compared with a tile of a second shape; 0 where the grid's tiles are too small to have one.
        shape_max_abs: Largest difference of a probability between the two tile shapes.
        shape_argmax_flips: Pixels whose class differs between the two tile shapes.
    """

    pixels: int
    seam_max_abs: float
    seam_argmax_flips: int
    shape_pixels: int = 0
    shape_max_abs: float = 0.0
    shape_argmax_flips: int = 0

    def plus(self, other: SeamAudit) -> SeamAudit:
        """Both together: pixels and flips added up, the larger difference.

        Example:
            >>> SeamAudit(64, 0.25, 1).plus(SeamAudit(32, 0.5, 0))
            SeamAudit(pixels=96, seam_max_abs=0.5, seam_argmax_flips=1, shape_pixels=0, shape_max_abs=0.0, shape_argmax_flips=0)
        """
        return SeamAudit(
            self.pixels + other.pixels,
            max(self.seam_max_abs, other.seam_max_abs),
            self.seam_argmax_flips + other.seam_argmax_flips,
            self.shape_pixels + other.shape_pixels,
            max(self.shape_max_abs, other.shape_max_abs),
            self.shape_argmax_flips + other.shape_argmax_flips,
        )


def promise(verdict: str, reason: str, seams: Mapping[str, Any]) -> str:
    """The verdict on a run in words, with what the audit measured.

    Args:
        verdict: `exact`, `bounded` or `unsafe`.
        reason: Why not `exact`; "" otherwise.
        seams: Fields of a `SeamAudit`; those that a run of an older version lacks count as not measured.

    Example:
        >>> promise("exact", "", {"pixels": 64, "seam_max_abs": 2e-7, "seam_argmax_flips": 0})
        'exact up to kernel rounding; measured along seams: largest difference 2e-07, 0 of 64 pixels change class'
        >>> promise("exact", "", {})
        'exact up to kernel rounding; no micrograph has a seam'
        >>> promise("unsafe", "CLAHE equalises each tile by itself", {})
        'unsafe (CLAHE equalises each tile by itself); no micrograph has a seam'
    """
    said = "exact up to kernel rounding" if verdict == "exact" else f"{verdict} ({reason})" if reason else verdict
    if not seams.get("pixels"):
        return f"{said}; no micrograph has a seam"
    said += f"; measured along seams: {_measured(seams, 'seam', 'pixels')}"
    if seams.get("shape_pixels"):
        said += f"; in tiles of a second shape: {_measured(seams, 'shape', 'shape_pixels')}"
    return said


def _measured(seams: Mapping[str, Any], kind: str, pixels: str) -> str:
    return (
        f"largest difference {seams[f'{kind}_max_abs']:.2g}, {seams[f'{kind}_argmax_flips']} of {seams[pixels]} pixels "
        "change class"
    )


@dataclass
class _Difference:
    """A running comparison of scores."""

    pixels: int = 0
    largest: float = 0.0
    flips: int = 0

    def add(self, here: NDArray[np.float32], there: NDArray[np.float32]) -> None:
        """Compare (class, y, x) with (class, y, x)."""
        self.pixels += here[0].size
        self.largest = max(self.largest, float(np.abs(here - there).max()))
        self.flips += int(np.count_nonzero(here.argmax(axis=0) != there.argmax(axis=0)))


def sampled_seams(grid: TileGrid, samples: int | None = None) -> list[tuple[Tile, Tile]]:
    """The seams that are compared: pairs of neighbours, spread evenly and always the same ones.

    Args:
        grid: The tiles that were used.
        samples: How many; None: 2, or 1 in a small grid.

    Returns:
        As many as there are, at most `samples`.

    Example:
        >>> grid = TileGrid((400, 400), 64, 8, 8)
        >>> [(upper.core.y1, lower.core.y0) for upper, lower in sampled_seams(grid, 1)]
        [(56, 56)]
    """
    rows, columns = grid.counts
    across, down = rows * (columns - 1), (rows - 1) * columns
    count = across + down
    if not count:
        return []
    if samples is None:
        samples = 2 if len(grid) >= MANY_TILES else 1
    spread = np.linspace(0, count - 1, min(samples, count)) if samples > 1 else [count // 2]
    return [_seam(grid, round(index)) for index in spread]


def _seam(grid: TileGrid, index: int) -> tuple[Tile, Tile]:
    """Neighbours in a row come first, then those in a column, both in row-major order."""
    rows, columns = grid.counts
    across = rows * (columns - 1)
    if index < across:
        row, column = divmod(index, columns - 1)
        return grid.at(row, column), grid.at(row, column + 1)
    row, column = divmod(index - across, columns)
    return grid.at(row, column), grid.at(row + 1, column)


def audit_seams(
    read: Callable[[Box], NDArray[Any]],
    predictor: Predictor,
    grid: TileGrid,
    limits: Limits,
    *,
    plan: EnginePlan | None = None,
    samples: int | None = None,
) -> SeamAudit:
    """Compare stitched scores with those of tiles centred on the seams.

    Args:
        read: Gives pixels (channel, y, x) of a box inside the micrograph.
        predictor: The model.
        grid: The tiles that were used.
        limits: Intensities (low, high) of the scaling.
        plan: How the run joins tiles; None: cores are cropped.
        samples: As for `sampled_seams`.

    Returns:
        The largest differences found.
    """
    plan = plan or EnginePlan(tile=max(grid.tile_shape), halo=0, stride=grid.stride, shard=max(grid.shape))
    found = (audit_seam(read, predictor, grid, limits, seam, plan) for seam in sampled_seams(grid, samples))
    return reduce(SeamAudit.plus, found, SeamAudit(0, 0.0, 0))


def audit_seam(
    read: Callable[[Box], NDArray[Any]],
    predictor: Predictor,
    grid: TileGrid,
    limits: Limits,
    seam: tuple[Tile, Tile],
    plan: EnginePlan,
) -> SeamAudit:
    """`audit_seams` of one of them; it takes a few tiles, however large the micrograph is.

    Args:
        read: Gives pixels (channel, y, x) of a box inside the micrograph.
        predictor: The model.
        grid: The tiles that were used.
        limits: Intensities (low, high) of the scaling.
        seam: One of `sampled_seams`.
        plan: How the run joins tiles.
    """
    seams, shapes = _Difference(), _Difference()
    box, middle = _band(*seam, plan)
    centred = _centred(middle, grid.tile_shape, grid)
    shared = box.intersection(_trusted(centred, grid, plan))
    if shared.area:
        expected = _cut(tile_scores(read(centred.visible), predictor, centred, plan, limits), centred, shared)
        seams.add(stitched_scores(read, predictor, grid, shared, plan, limits), expected)
        other = _centred(middle, _second_shape(grid, plan), grid)
        also = shared.intersection(_trusted(other, grid, plan))
        if other.box.shape != centred.box.shape and also.area:
            found = _cut(tile_scores(read(other.visible), predictor, other, plan, limits), other, also)
            shapes.add(found, expected[(..., *also.relative_to(shared).slices)])
    return SeamAudit(seams.pixels, seams.largest, seams.flips, shapes.pixels, shapes.largest, shapes.flips)


def audit_mask(
    read: Callable[[Box], NDArray[Any]],
    mask: Callable[[Box], NDArray[np.uint8]],
    predictor: Predictor,
    shape: tuple[int, int],
    plan: EnginePlan,
    limits: Limits,
) -> SeamAudit:
    """Compare a mask that was made in strips with a tile that has its halo all around, in the micrograph's middle.

    Args:
        read: Gives pixels (channel, y, x) of a box inside the micrograph.
        mask: Gives the mask of a box.
        predictor: The model.
        shape: (height, width) of what was segmented, each larger than two halos.
        plan: How the mask was made.
        limits: Intensities (low, high) of the scaling.

    Returns:
        Pixels that differ, and the largest probability by which the tile's class exceeds the mask's there.
    """
    side = 2 * plan.halo + ceil_to(4 * BAND, plan.stride)
    y0, x0 = (floor_to(max(0, (length - side) // 2), plan.stride) for length in shape)
    height, width = (min(side, floor_to(length, plan.stride)) for length in shape)
    box = Box(y0, x0, y0 + height, x0 + width)
    # Only there does the tile see all that a pass over the whole micrograph sees.
    top, left = (start + plan.halo if start else 0 for start in (box.y0, box.x0))
    bottom, right = (
        stop if stop == length else stop - plan.halo for stop, length in zip((box.y1, box.x1), shape, strict=True)
    )
    own = Box(top, left, max(top, bottom), max(left, right))
    if not own.area:
        return SeamAudit(0, 0.0, 0)
    tile = Tile(box, own, box)
    scores = _cut(tile_scores(read(box), predictor, tile, plan, limits), tile, own)
    found = mask(own)
    flips = scores.argmax(axis=0) != found
    chosen = np.take_along_axis(scores, np.minimum(found, len(scores) - 1)[None].astype(np.intp), axis=0)[0]
    lacking = np.where(flips, scores.max(axis=0) - chosen, 0)
    return SeamAudit(own.area, float(lacking.max()), int(np.count_nonzero(flips)))


def _cut(scores: NDArray[np.float32], tile: Tile, box: Box) -> NDArray[np.float32]:
    return scores[(..., *box.relative_to(tile.box).slices)]


def _band(left: Tile, right: Tile, plan: EnginePlan) -> tuple[Box, tuple[int, int]]:
    """The pixels near the border of two neighbours, and its middle (y, x).

    Cropped tiles meet at the border of their cores. Blended ones meet twice: where the second begins and where the first ends.
    """
    vertical = left.core.x0 != right.core.x0
    if plan.blend == "crop":
        before = after = right.core.x0 if vertical else right.core.y0
    elif vertical:
        before, after = right.box.x0, left.box.x1
    else:
        before, after = right.box.y0, left.box.y1
    core, middle = right.core, (before + after) // 2
    if vertical:
        return Box(core.y0, before - BAND, core.y1, after + BAND), ((core.y0 + core.y1) // 2, middle)
    return Box(before - BAND, core.x0, after + BAND, core.x1), (middle, (core.x0 + core.x1) // 2)


def _centred(middle: tuple[int, int], shape: tuple[int, int], grid: TileGrid) -> Tile:
    """A tile of this shape with a point in its middle, as far as the micrograph's border allows."""
    y0, x0 = (
        min(max(0, floor_to(point - side // 2, grid.stride)), limit - side)
        for point, side, limit in zip(middle, shape, grid.padded_shape, strict=True)
    )
    box = Box(y0, x0, y0 + shape[0], x0 + shape[1])
    visible = box.intersection(Box.of_shape(grid.shape))
    return Tile(box, visible, visible)


def _second_shape(grid: TileGrid, plan: EnginePlan) -> tuple[int, int]:
    """Three quarters of each side, in whole strides, or what the halos need; the grid's own side where that is no less."""
    least = 2 * max(plan.halo, *_halos(grid)) + 2 * grid.stride
    height, width = (
        min(side, max(ceil_to(3 * side // 4, grid.stride), ceil_to(least, grid.stride))) for side in grid.tile_shape
    )
    return height, width


def _halos(grid: TileGrid) -> tuple[int, int]:
    return (grid.halo, grid.halo) if isinstance(grid.halo, int) else grid.halo


def _trusted(tile: Tile, grid: TileGrid, plan: EnginePlan) -> Box:
    """The part of a centred tile that its own border does not reach: a halo, or at least a quarter of the tile."""
    # A halo always leaves a core, so that the middle row and column are inside.
    margin_y, margin_x = (
        min(max(own if plan.blend == "crop" else 0, plan.halo, side // 4), (side - 1) // 2)
        for own, side in zip(_halos(grid), tile.box.shape, strict=True)
    )
    box, (height, width) = tile.box, grid.shape
    inner = Box(
        box.y0 if box.y0 == 0 else box.y0 + margin_y,
        box.x0 if box.x0 == 0 else box.x0 + margin_x,
        box.y1 if box.y1 >= height else box.y1 - margin_y,
        box.x1 if box.x1 >= width else box.x1 - margin_x,
    )
    return inner.intersection(Box.of_shape(grid.shape))
