"""The engine's step: the pixels of one mask shard from a micrograph, through a model, to class indices.

The model is a callable object given from outside (`Predictor`); nothing here knows torch or Ray. What is computed for
a shard depends on the grid alone: never on which worker does it, in which order, or what was done before.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import MicrosegError
from microseg_ray.geometry import Box, Tile, TileGrid, ceil_to
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.stitching.extra import Extra, extra_output
from microseg_ray.stitching.scoring import Predictor, judged, symmetric_scores
from microseg_ray.stitching.spread import SpreadTally
from microseg_ray.stitching.tile_sizes import TileRule, least_tax_tile
from microseg_ray.stitching.windows import Blend, argmax_first, window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from microseg_ray.statistics.counts import Spreads

__all__ = ["EnginePlan", "Extra", "Predictor", "ShardPixels", "engine_grid", "predict_shard", "shard_window"]

Limits = tuple[float, float]


@dataclass(frozen=True)
class EnginePlan:
    """Everything besides model and micrograph that decides the pixels.

    Attributes:
        tile: Largest tile side in pixels.
        halo: Halo in pixels, used with `blend="crop"`; rounded up to the stride here and nowhere else.
        stride: The model's stride.
        shard: Side of a mask shard in pixels.
        batch: Tiles per forward pass, at most.
        blend: How overlapping tiles are joined.
        overlap: Share of a tile that neighbours share, for blends other than `crop`.
        tta: Average over the 8 symmetries of the square.
        extra: Per-pixel output beside the class.
        strip: Rows of a strip, where the micrograph is computed as a stream of strips; 0: in tiles.
        strip_width: Widest piece of a micrograph that is computed as one stream, in pixels.
        tile_area: Largest area of a tile in pixels, where its sides are chosen for each micrograph (`least_tax_tile`); 0: a
            tile is as large as `tile` allows.
    """

    tile: int
    halo: int
    stride: int
    shard: int
    batch: int = 4
    blend: Blend = "crop"
    overlap: float = 0.5
    tta: bool = False
    extra: Extra = "none"
    strip: int = 0
    strip_width: int = 0
    tile_area: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "halo", ceil_to(self.halo, self.stride))

    @property
    def used(self) -> dict[str, Any]:
        """The values that decide pixels with this blend, by name: what a run is bound to.

        Example:
            >>> plan = EnginePlan(tile=64, halo=10, stride=4, shard=64)
            >>> plan.used["halo"], "overlap" in plan.used
            (12, False)
            >>> blended = EnginePlan(tile=64, halo=10, stride=4, shard=64, blend="hann", overlap=0.25)
            >>> blended.used["overlap"], "halo" in blended.used
            (0.25, False)
        """
        unused = {"overlap" if self.blend == "crop" else "halo"}
        unused |= {"tile", "batch", "tile_area"} if self.strip else {"strip", "strip_width"}
        # A run of a version without it is gone on with.
        unused |= set() if self.tile_area else {"tile_area"}
        return {key: value for key, value in asdict(self).items() if key not in unused}

    @property
    def tile_pixels(self) -> int:
        """Pixels of a tile, at most.

        Example:
            >>> EnginePlan(tile=64, halo=8, stride=4, shard=64).tile_pixels
            4096
        """
        return self.tile_area or self.tile**2

    @property
    def needs_scores(self) -> bool:
        """Whether class indices straight from the model are not enough."""
        return self.blend != "crop" or self.tta or self.extra != "none"


@dataclass(frozen=True)
class ShardPixels:
    """The result of one shard.

    Attributes:
        mask: (y, x) uint8 class indices.
        extra: (y, x) uint8 margin or entropy, or (class, y, x) float16 probabilities, or None.
        spreads: Pixels of each class by each member of an ensemble, and by each symmetry; empty where there is one prediction.
    """

    mask: NDArray[np.uint8]
    extra: NDArray[Any] | None
    spreads: Spreads = field(default_factory=dict)


@lru_cache(maxsize=8)
def engine_grid(shape: tuple[int, int], plan: EnginePlan) -> TileGrid:
    """The tiles of one micrograph: cores nest in shards for `crop`, one global overlapping grid for the blends.

    Example:
        >>> grid = engine_grid((3000, 3000), EnginePlan(tile=1024, halo=96, stride=16, shard=2048))
        >>> len(grid), grid.tile_shape
        (25, (848, 848))
    """
    if plan.blend == "crop":
        rule = TileRule(plan.tile_area, plan.tile, plan.halo, plan.stride, plan.shard)
        tile = least_tax_tile(shape, rule) if plan.tile_area else plan.tile
        return TileGrid(shape, tile, plan.halo, plan.stride, shard=plan.shard)
    half = min(int(plan.tile * plan.overlap / 2), (plan.tile - plan.stride) // 2)
    return TileGrid(shape, plan.tile, half, plan.stride)


def shard_window(grid: TileGrid, box: Box, plan: EnginePlan) -> tuple[Box, list[Tile]]:
    """What a shard needs: the box of real pixels to read in one go, and its tiles in row-major order."""
    tiles = grid.tiles_owning(box) if plan.blend == "crop" else grid.tiles_touching(box)
    region = tiles[0].visible
    for tile in tiles[1:]:
        region = region.union(tile.visible)
    return region, tiles


def predict_shard(
    pixels: NDArray[Any], predictor: Predictor, grid: TileGrid, box: Box, plan: EnginePlan, limits: Limits
) -> ShardPixels:
    """Segment one shard.

    Args:
        pixels: (channel, y, x) of the region that `shard_window` names, in the source's dtype.
        predictor: The model.
        grid: `engine_grid` of the micrograph.
        box: The shard.
        plan: Everything else that decides the pixels.
        limits: Intensities (low, high) of the micrograph's scaling.

    Returns:
        The shard's mask and, where asked for, its extra output.

    Example:
        >>> class Threshold:
        ...     classes = 2
        ...     def masks(self, batch, limits):
        ...         return (batch[:, 0] > 127).astype(np.uint8)
        >>> image = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
        >>> plan = EnginePlan(tile=8, halo=2, stride=1, shard=16)
        >>> grid, box = engine_grid((16, 16), plan), Box(0, 0, 16, 16)
        >>> region, tiles = shard_window(grid, box, plan)
        >>> result = predict_shard(image[(..., *region.slices)], Threshold(), grid, box, plan, (0, 255))
        >>> bool((result.mask == (image[0] > 127)).all())
        True
    """
    region, tiles = shard_window(grid, box, plan)
    if plan.blend == "crop" and not plan.tta:
        return _cropped(pixels, region, predictor, tiles, box, plan, limits)
    tally = SpreadTally(predictor.classes)
    scores = _blended(pixels, region, predictor, tiles, box, plan, limits, tally)
    return ShardPixels(argmax_first(scores), extra_output(scores, plan.extra), tally.found)


def _cropped(
    pixels: NDArray[Any],
    region: Box,
    predictor: Predictor,
    tiles: list[Tile],
    box: Box,
    plan: EnginePlan,
    limits: Limits,
) -> ShardPixels:
    """The mask, and the extra output where there is one.

    The class comes from the logits, with `extra` as without: rounded to probabilities, two close logits can be equal, and the
    first class would win.
    """
    mask = np.empty(box.shape, np.uint8)
    scores = np.empty((predictor.classes, *box.shape), np.float32) if plan.needs_scores else None
    tally = SpreadTally(predictor.classes)
    for batch, members in _batches(pixels, region, tiles, plan.batch):
        found = judged(predictor, batch, limits, scores=plan.needs_scores)
        for slot, tile in enumerate(members):
            here, there = tile.core.relative_to(box).slices, tile.core_in_tile.slices
            mask[here] = found.masks[(slot, *there)]  # type: ignore[index]
            if scores is not None and found.scores is not None:
                scores[(..., *here)] = found.scores[(slot, ..., *there)]
            if found.members is not None:
                tally.add_members(found.members[(slot, ..., *there)])
        del found  # before the next batch is computed: one result is held, not two
    if scores is None:
        return ShardPixels(mask, None, tally.found)
    _require_finite(scores)
    return ShardPixels(mask, extra_output(scores, plan.extra), tally.found)


def _batches(
    pixels: NDArray[Any], region: Box, tiles: list[Tile], size: int
) -> Iterator[tuple[NDArray[Any], list[Tile]]]:
    """Tiles in batches whose composition depends on the grid alone; one buffer serves them all."""
    height, width = tiles[0].box.shape
    buffer = np.empty((min(size, len(tiles)), pixels.shape[0], height, width), pixels.dtype)
    for start in range(0, len(tiles), size):
        members = tiles[start : start + size]
        for slot, tile in enumerate(members):
            buffer[slot] = padded_tile(pixels[(..., *tile.visible.relative_to(region).slices)], (height, width))
        yield buffer[: len(members)], members


def padded_tile(pixels: NDArray[Any], shape: tuple[int, int]) -> NDArray[Any]:
    """Reflect at the bottom and right up to the tile's shape; at most one stride is missing."""
    below, right = shape[0] - pixels.shape[-2], shape[1] - pixels.shape[-1]
    if below == 0 and right == 0:
        return pixels
    return np.pad(pixels, ((0, 0), (0, below), (0, right)), mode="reflect")


def _blended(
    pixels: NDArray[Any],
    region: Box,
    predictor: Predictor,
    tiles: list[Tile],
    box: Box,
    plan: EnginePlan,
    limits: Limits,
    tally: SpreadTally | None = None,
) -> NDArray[np.float32]:
    """(class, y, x) scores of the shard: cropped, or averaged over the tiles in row-major order."""
    scores = np.zeros((predictor.classes, *box.shape), np.float32)
    total = np.zeros(box.shape, np.float32)
    for batch, members in _batches(pixels, region, tiles, plan.batch):
        predicted = _scores(predictor, batch, plan, limits, None if tally is None else _Cores(tally, members, box))
        for slot, tile in enumerate(members):
            if plan.blend == "crop":
                own = tile.core.intersection(box)
                scores[(..., *own.relative_to(box).slices)] = predicted[(slot, ..., *own.relative_to(tile.box).slices)]
                continue
            shared = tile.visible.intersection(box)
            here, there = shared.relative_to(box).slices, shared.relative_to(tile.box).slices
            weights = window(plan.blend, tile.box.shape)[there]
            scores[(..., *here)] += predicted[(slot, ..., *there)] * weights
            total[here] += weights
        del predicted
    if plan.blend != "crop":
        scores /= total
    _require_finite(scores)
    return scores


def _require_finite(scores: NDArray[np.float32]) -> None:
    # A finite sum has finite terms only, and costs no array.
    if not np.isfinite(scores.sum(dtype=np.float64)):
        bad = int(np.count_nonzero(~np.isfinite(scores).all(axis=0)))
        raise MicrosegError(f"the scores are NaN or infinite in {bad} pixels, which belong to no class")


def stitched_scores(
    read: Callable[[Box], NDArray[Any]],
    predictor: Predictor,
    grid: TileGrid,
    box: Box,
    plan: EnginePlan,
    limits: Limits,
) -> NDArray[np.float32]:
    """The scores that `predict_shard` takes the largest of, (class, y, x) float32, for any box of the micrograph.

    Args:
        read: Gives pixels (channel, y, x) of a box inside the micrograph.
        predictor: The model.
        grid: `engine_grid` of the micrograph.
        box: Inside the micrograph; need not be a shard.
        plan: How tiles are joined.
        limits: Intensities (low, high) of the micrograph's scaling.
    """
    region, tiles = shard_window(grid, box, plan)
    return _blended(read(region), region, predictor, tiles, box, plan, limits)


def tile_scores(
    pixels: NDArray[Any], predictor: Predictor, tile: Tile, plan: EnginePlan, limits: Limits
) -> NDArray[np.float32]:
    """The scores of one tile by itself, (class, y, x) float32.

    Args:
        pixels: (channel, y, x) of `tile.visible`.
        predictor: The model.
        tile: Where it lies.
        plan: Says whether scores are averaged over the symmetries.
        limits: Intensities (low, high) of the micrograph's scaling.
    """
    batch = np.ascontiguousarray(padded_tile(pixels, tile.box.shape)[None])
    scores: NDArray[np.float32] = _scores(predictor, batch, plan, limits)[0]
    return scores


def _scores(
    predictor: Predictor, batch: NDArray[Any], plan: EnginePlan, limits: Limits, seen: _Cores | None = None
) -> NDArray[np.float32]:
    if plan.tta:
        return symmetric_scores(predictor, batch, limits, seen)
    if seen is None:
        return predictor.scores(batch, limits)
    found = judged(predictor, batch, limits, masks=False, scores=True)
    seen.count_members(found.members)
    return found.scores  # type: ignore[return-value]


@dataclass(frozen=True)
class _Cores:
    """Counts what each member and each symmetry says of the cores of some tiles that lie in a shard."""

    tally: SpreadTally
    tiles: list[Tile]
    box: Box

    def __call__(self, number: int, scores: NDArray[np.float32], members: NDArray[np.uint8] | None) -> None:
        for slot, part in self._parts():
            self.tally.add_scores(number, scores[(slot, ..., *part)])
        self.count_members(members)

    def count_members(self, members: NDArray[np.uint8] | None) -> None:
        for slot, part in self._parts() if members is not None else ():
            self.tally.add_members(members[(slot, ..., *part)])  # type: ignore[index]

    def _parts(self) -> Iterator[tuple[int, tuple[slice, slice]]]:
        for slot, tile in enumerate(self.tiles):
            own = tile.core.intersection(self.box)
            if own.area:
                yield slot, own.relative_to(tile.box).slices


def unmeasured(shape: tuple[int, int], extra: Extra, classes: int) -> ShardPixels:
    """A shard in which nothing is measured: `IGNORE_INDEX`, and 255 or NaN in its extra output.

    Example:
        >>> unmeasured((1, 2), "margin", classes=3).extra.tolist()
        [[255, 255]]
    """
    mask = np.full(shape, IGNORE_INDEX, np.uint8)
    if extra == "probabilities":
        return ShardPixels(mask, np.full((classes, *shape), np.nan, np.float16))
    return ShardPixels(mask, None if extra == "none" else np.full(shape, IGNORE_INDEX, np.uint8))


def extended(result: ShardPixels, height: int) -> ShardPixels:
    """A shard whose lowest rows are not measured, made as high as it is to be.

    Example:
        >>> extended(ShardPixels(np.zeros((1, 2), np.uint8), None), 2).mask.tolist()
        [[0, 0], [255, 255]]
    """
    missing = height - result.mask.shape[0]
    mask = np.pad(result.mask, ((0, missing), (0, 0)), constant_values=IGNORE_INDEX)
    if result.extra is None:
        return replace(result, mask=mask)
    fill = np.nan if result.extra.dtype.kind == "f" else IGNORE_INDEX
    margins = (*((0, 0),) * (result.extra.ndim - 2), (0, missing), (0, 0))
    return replace(result, mask=mask, extra=np.pad(result.extra, margins, constant_values=fill))
