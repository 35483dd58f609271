"""Seams are measured: none where the halo covers the receptive field, some where it does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from microseg_ray.geometry import Box, TileGrid
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window
from microseg_ray.stitching.seams import MANY_TILES, SeamAudit, audit_seams
from microseg_ray.stitching.shards import padded_tile, stitched_scores
from tests.strategies import grids, shapes

RADIUS = 2
LIMITS = (0.0, 255.0)


class BoxFilter:
    """Two scores from the sum over a 5 x 5 square, zeros beyond the tile: radius 2, exact in float32."""

    classes = 2

    def __init__(self) -> None:
        self.tiles = 0

    def masks(self, batch: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
        return self.scores(batch, limits).argmax(axis=1).astype(np.uint8)

    def scores(self, batch: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
        self.tiles += len(batch)
        padded = np.pad(batch[:, 0].astype(np.int64), ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)))
        height, width = batch.shape[-2:]
        total = sum(padded[:, y : y + height, x : x + width] for y in range(5) for x in range(5))
        share = (total / (25 * limits[1])).astype(np.float32)
        return np.stack([share, 1 - share], axis=1)


def reader(image: np.ndarray) -> Any:
    frame = Box.of_shape(image.shape[-2:])

    def read(box: Box) -> np.ndarray:
        assert frame.contains(box), "real pixels only"
        return image[(..., *box.slices)]

    return read


def bright(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).integers(100, 255, (1, *shape)).astype(np.uint8)


CROP = EnginePlan(tile=1, halo=0, stride=1, shard=1)


def whole(grid: TileGrid) -> np.ndarray:
    """One pass over the whole micrograph, padded to the stride as tiles are."""
    padded = padded_tile(bright(grid.shape), grid.padded_shape)
    return BoxFilter().scores(padded[None], LIMITS)[0][:, : grid.shape[0], : grid.shape[1]]


def stitched(grid: TileGrid, plan: EnginePlan) -> np.ndarray:
    """The scores of the whole micrograph, as the run joins them."""
    return stitched_scores(reader(bright(grid.shape)), BoxFilter(), grid, Box.of_shape(grid.shape), plan, LIMITS)


BLENDED = {
    "crop": {"blend": "crop"},
    "crop with symmetries": {"blend": "crop", "tta": True},
    "hann": {"blend": "hann", "overlap": 0.25},
    "gaussian": {"blend": "gaussian", "overlap": 0.25},
    "mean": {"blend": "mean", "overlap": 0.25},
    "mean with symmetries": {"blend": "mean", "overlap": 0.25, "tta": True},
}


@pytest.mark.parametrize("options", BLENDED.values(), ids=BLENDED)
def test_the_audit_finds_the_seams_of_what_the_run_joins(options: dict[str, Any]) -> None:
    plan = EnginePlan(**{"tile": 32, "halo": 0, "stride": 1, "shard": 32, **options})
    grid = engine_grid((100, 90), plan)
    largest = float(np.abs(stitched(grid, plan) - whole(grid)).max())
    audit = audit_seams(reader(bright(grid.shape)), BoxFilter(), grid, LIMITS, plan=plan, samples=1000)
    assert largest / 2 < audit.seam_max_abs <= largest + 1e-6
    assert audit.seam_max_abs > 0.004


@pytest.mark.parametrize("options", BLENDED.values(), ids=BLENDED)
def test_the_audit_compares_the_masks_that_the_run_writes(options: dict[str, Any]) -> None:
    plan = EnginePlan(**{"tile": 32, "halo": 4, "stride": 2, "shard": 48, **options})
    grid, image = engine_grid((100, 90), plan), bright((100, 90))
    scores = stitched(grid, plan)
    for box in (Box(0, 0, 48, 48), Box(48, 48, 96, 90)):
        region, _ = shard_window(grid, box, plan)
        kept = replace(plan, extra="margin")
        mask = predict_shard(image[(..., *region.slices)], BoxFilter(), grid, box, kept, LIMITS).mask
        assert np.array_equal(scores[(..., *box.slices)].argmax(axis=0), mask)


class ShapeDependent(BoxFilter):
    """Rounds in another way where the tile is narrower, as a kernel may."""

    def scores(self, batch: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
        return super().scores(batch, limits) + np.float32(batch.shape[-1]) * np.float32([[[1e-3]], [[0]]])


def test_a_second_tile_shape_shows_what_depends_on_the_shape() -> None:
    grid = engine_grid((400, 400), EnginePlan(tile=64, halo=2, stride=1, shard=128))
    audit = audit_seams(reader(bright((400, 400))), ShapeDependent(), grid, LIMITS)
    assert audit.seam_max_abs == 0, "tiles of one shape agree"
    assert audit.shape_max_abs == pytest.approx(1e-3 * (64 - 48), rel=0.3)
    assert audit.shape_pixels > 0
    same = audit_seams(reader(bright((400, 400))), BoxFilter(), grid, LIMITS)
    assert (same.shape_max_abs, same.shape_argmax_flips) == (0, 0)


@given(grids(least_halo=RADIUS), st.integers(1, 5))
@example(TileGrid((40, 40), 5, 2), 50)  # a core of one pixel
@example(TileGrid((3000, 40), (1024, 64), (96, 16), 16, shard=2048), 3)
def test_no_seams_where_the_halo_covers_the_receptive_field(grid: TileGrid, samples: int) -> None:
    audit = audit_seams(reader(bright(grid.shape)), BoxFilter(), grid, LIMITS, samples=samples)
    assert audit.seam_max_abs == 0
    assert audit.seam_argmax_flips == 0
    assert (audit.pixels > 0) == (len(grid) > 1)


@settings(max_examples=60)
@given(grids(least_halo=0), st.integers(1, 5))
@example(TileGrid((17, 40), 16, 0, 16), 50)  # the last tile holds one row of real pixels
def test_any_grid_can_be_audited(grid: TileGrid, samples: int) -> None:
    audit = audit_seams(reader(bright(grid.shape)), BoxFilter(), grid, LIMITS, samples=samples)
    assert 0 <= audit.seam_argmax_flips <= audit.pixels
    assert (audit.pixels > 0) == (len(grid) > 1)


@st.composite
def wide_grids(draw: st.DrawFn) -> TileGrid:
    """Tiles so wide that a centred one is as good as one pass, and has the border in its middle."""
    stride = draw(st.sampled_from((1, 2, 3, 4)))
    sides = [stride * draw(st.integers(-(-4 * RADIUS // stride), 12)) for _ in range(2)]
    halos = [draw(st.integers(0, RADIUS + 1).filter(lambda halo, side=side: halo <= side // 4)) for side in sides]
    return TileGrid(draw(shapes()), (sides[0], sides[1]), (halos[0], halos[1]), stride)


@settings(max_examples=60)
@given(wide_grids())
def test_the_audit_of_all_seams_finds_each_of_them(grid: TileGrid) -> None:
    """The middle pixels of all borders are compared: what differs there from one pass over the whole is found."""
    scores, expected = stitched(grid, CROP), whole(grid)
    flips = scores.argmax(axis=0) != expected.argmax(axis=0)
    off = np.abs(scores - expected).max(axis=0)
    rows, columns = grid.counts
    cores = [grid.at(row, column).core for row in range(rows) for column in range(columns)]
    middles = [((core.y0 + core.y1) // 2, core.x0) for core in cores if core.x0] + [
        (core.y0, (core.x0 + core.x1) // 2) for core in cores if core.y0
    ]
    audit = audit_seams(reader(bright(grid.shape)), BoxFilter(), grid, LIMITS, samples=max(2, len(middles)))
    assert max((float(off[middle]) for middle in middles), default=0.0) <= audit.seam_max_abs <= float(off.max())
    assert sum(bool(flips[middle]) for middle in middles) <= audit.seam_argmax_flips


@pytest.mark.parametrize("shard", [None, 32])
@pytest.mark.parametrize("shape", [(100, 30), (30, 100), (100, 100)])
def test_seams_show_without_a_halo(shape: tuple[int, int], shard: int | None) -> None:
    grid = TileGrid(shape, 32, 0, 1, shard)
    audit = audit_seams(reader(bright(shape)), BoxFilter(), grid, LIMITS)
    assert audit.seam_max_abs > 0.05
    assert audit.seam_argmax_flips > 0
    assert audit.pixels > 0


def test_a_micrograph_in_one_tile_has_no_seam_and_costs_nothing() -> None:
    predictor = BoxFilter()
    assert audit_seams(reader(bright((30, 30))), predictor, TileGrid((30, 30), 32, 4), LIMITS) == SeamAudit(0, 0.0, 0)
    assert predictor.tiles == 0


def test_the_audit_costs_four_tiles_a_seam_and_is_repeatable() -> None:
    grid = engine_grid((400, 400), EnginePlan(tile=64, halo=1, stride=1, shard=128))
    predictor = BoxFilter()
    first = audit_seams(reader(bright((400, 400))), predictor, grid, LIMITS, samples=4)
    assert predictor.tiles == 16
    assert audit_seams(reader(bright((400, 400))), BoxFilter(), grid, LIMITS, samples=4) == first
    assert first.seam_max_abs > 0


@pytest.mark.parametrize(("side", "seams"), [(400, 1), (1600, 2)])
def test_the_audit_of_a_small_grid_costs_few_tiles(side, seams):
    predictor, grid = BoxFilter(), TileGrid((side, side), 100, 4)
    assert (len(grid) >= MANY_TILES) == (seams == 2)
    assert audit_seams(reader(bright((side, side))), predictor, grid, LIMITS).pixels
    # For each seam its two tiles, a centred one, and one of the second shape; a band may touch two more.
    assert predictor.tiles <= 6 * seams
