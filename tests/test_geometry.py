"""The laws of the grid, against oracles that mark pixels one by one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from microseg_ray.geometry import Box, Tile, TileGrid, ceil_to, floor_to
from tests.strategies import grids, shapes

LONGEST = 90


@st.composite
def boxes(draw: st.DrawFn, limit: int = 60) -> Box:
    y0, x0 = draw(st.integers(-5, limit)), draw(st.integers(-5, limit))
    return Box(y0, x0, y0 + draw(st.integers(0, limit)), x0 + draw(st.integers(0, limit)))


def mark(shape: tuple[int, int], parts: list[Box]) -> np.ndarray:
    hits = np.zeros(shape, int)
    for part in parts:
        assert Box.of_shape(shape).contains(part)
        hits[part.slices] += 1
    return hits


@given(grids(longest=LONGEST))
@example(TileGrid((1, 5000), 512, 96, 16, shard=2048))
@example(TileGrid((1, 5000), 512, 96, 16))
@example(TileGrid((1, 1), 4096, 1000, 16, shard=64))
@example(TileGrid((513, 511), 512, 0, 1, shard=512))
@example(TileGrid((3000, 40), (1024, 64), (96, 16), 16, shard=2048))
def test_cores_partition_the_micrograph(grid: TileGrid) -> None:
    assert (mark(grid.shape, [tile.core for tile in grid]) == 1).all()


@given(grids(longest=LONGEST))
def test_core_lies_in_tile_and_tile_in_padded_micrograph(grid: TileGrid) -> None:
    padded = Box.of_shape(grid.padded_shape)
    frame = Box.of_shape(grid.shape)
    tiles = list(grid)
    assert len(tiles) == len(grid) == grid.counts[0] * grid.counts[1]
    for tile in tiles:
        assert tile.box.contains(tile.core)
        assert padded.contains(tile.box)
        assert tile.visible == tile.box.intersection(frame)
        assert tile.core.area > 0
    assert all(0 <= padding < grid.stride for padding in np.subtract(grid.padded_shape, grid.shape))


@given(grids(longest=LONGEST))
def test_all_tiles_have_one_shape_no_larger_than_asked_for(grid: TileGrid) -> None:
    assert {tile.box.shape for tile in grid} == {grid.tile_shape}
    assert all(side <= asked for side, asked in zip(grid.tile_shape, grid.tile, strict=True))


@given(grids(longest=LONGEST))
def test_origins_and_sides_are_multiples_of_the_stride(grid: TileGrid) -> None:
    for tile in grid:
        assert all(value % grid.stride == 0 for value in (*tile.origin, *tile.box.shape))


@given(grids(longest=LONGEST))
def test_core_pixels_have_the_halo_or_the_micrographs_border(grid: TileGrid) -> None:
    halo_y, halo_x = grid.halo
    frame = Box.of_shape(grid.shape)
    for tile in grid:
        core = tile.core
        needed = Box(core.y0 - halo_y, core.x0 - halo_x, core.y1 + halo_y, core.x1 + halo_x).intersection(frame)
        assert tile.visible.contains(needed)


@given(grids(longest=LONGEST, sharded=True))
def test_cores_nest_in_shards(grid: TileGrid) -> None:
    height, width = grid.shard
    for tile in grid:
        assert tile.core.y0 // height == (tile.core.y1 - 1) // height
        assert tile.core.x0 // width == (tile.core.x1 - 1) // width


@given(grids(longest=LONGEST, sharded=True))
def test_a_shard_reads_no_more_than_its_halo_or_one_tile(grid: TileGrid) -> None:
    for tile in grid:
        for axis in (0, 1):
            shard, halo = grid.shard[axis], ceil_to(grid.halo[axis], grid.stride)
            begin = (tile.core.y0, tile.core.x0)[axis] // shard * shard
            start = tile.origin[axis]
            stop = start + grid.tile_shape[axis]
            window = max(0, begin - halo), min(begin + shard + halo, grid.padded_shape[axis])
            assert stop <= max(window[1], grid.tile_shape[axis])
            assert start >= min(window[0], max(0, window[1] - grid.tile_shape[axis]))


@given(grids(longest=LONGEST, sharded=True))
def test_a_sharded_tile_is_the_smallest_that_needs_no_more_tiles(grid: TileGrid) -> None:
    for axis in (0, 1):
        smaller = grid.tile_shape[axis] - grid.stride
        sides = [smaller if axis == other else grid.tile[other] for other in (0, 1)]
        try:
            tighter = TileGrid(grid.shape, tuple(sides), grid.halo, grid.stride, grid.shard)
        except ValueError:
            continue  # a smaller tile leaves no core at all
        assert tighter.counts[axis] > grid.counts[axis]


@given(grids(longest=LONGEST), boxes())
def test_tiles_touching_equals_brute_force(grid: TileGrid, box: Box) -> None:
    seen = np.zeros(grid.shape, bool)
    clipped = box.intersection(Box.of_shape(grid.shape))
    seen[clipped.slices] = clipped.area > 0
    assert grid.tiles_touching(box) == [tile for tile in grid if seen[tile.visible.slices].any()]


@given(grids(longest=LONGEST), boxes())
def test_tiles_owning_equals_brute_force(grid: TileGrid, box: Box) -> None:
    seen = np.zeros(grid.shape, bool)
    clipped = box.intersection(Box.of_shape(grid.shape))
    seen[clipped.slices] = clipped.area > 0
    assert grid.tiles_owning(box) == [tile for tile in grid if seen[tile.core.slices].any()]


@given(shapes(LONGEST), st.integers(1, 40), st.floats(0, 0.9), st.sampled_from([1, 2, 3]))
def test_regular_grids_overlap_as_asked(shape: tuple[int, int], steps: int, overlap: float, stride: int) -> None:
    side = steps * stride
    halo = min(int(side * overlap / 2), (side - stride) // 2)
    grid = TileGrid(shape, side, halo, stride)
    starts = sorted({tile.box.y0 for tile in grid})
    assert all(before + side - after >= 2 * halo for before, after in pairwise(starts))
    assert (mark(grid.shape, [tile.core for tile in grid]) == 1).all()
    pitches = np.diff(starts)
    assert len(set(pitches[:-1].tolist())) <= 1  # one pitch, but for the last tile


@given(grids(longest=LONGEST))
def test_order_is_row_major(grid: TileGrid) -> None:
    cores = [(tile.core.y0, tile.core.x0) for tile in grid]
    assert cores == sorted(cores)
    assert [grid.at(row, column) for row in range(grid.counts[0]) for column in range(grid.counts[1])] == list(grid)


@given(grids(longest=LONGEST))
def test_halo_tax_is_pixels_computed_per_pixel_kept(grid: TileGrid) -> None:
    computed = sum(tile.box.area for tile in grid)
    assert grid.halo_tax == pytest.approx(computed / (grid.shape[0] * grid.shape[1]))
    assert grid.halo_tax >= 1


def test_grids_are_values() -> None:
    assert TileGrid((10, 20), 8, 2) == TileGrid((10, 20), 8, 2)
    assert hash(TileGrid((10, 20), 8, 2)) == hash(TileGrid((10, 20), 8, 2))
    assert TileGrid((10, 20), 8, 2) != TileGrid((10, 20), 8, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (0, 5), "tile": 4}, "shape"),
        ({"shape": (3, 100, 70), "tile": 4}, r"shape .*height, width"),
        ({"shape": (9, 9), "tile": 0}, "tile"),
        ({"shape": (9, 9), "tile": 6, "stride": 4}, r"tile .* multiple of the stride 4"),
        ({"shape": (9, 9), "tile": 4, "stride": 0}, "stride 0"),
        ({"shape": (9, 9), "tile": 4, "halo": -1}, "halo"),
        ({"shape": (9, 9), "tile": 4, "halo": 2}, "leaves no core"),
        ({"shape": (9, 9), "tile": 4, "halo": 2, "shard": 8}, "leaves no core"),
        ({"shape": (40, 40), "tile": 16, "halo": 5, "stride": 4, "shard": 16}, "leaves no core"),
        ({"shape": (9, 9), "tile": 4, "shard": 0}, "shard"),
        ({"shape": (9, 9), "tile": 4, "stride": 4, "shard": 6}, r"shard .* multiple of the stride 4"),
    ],
)
def test_impossible_grids_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TileGrid(**arguments)


@given(boxes(), boxes())
def test_box_algebra_equals_sets_of_pixels(one: Box, two: Box) -> None:
    def pixels(box: Box) -> set[tuple[int, int]]:
        return {(y, x) for y in range(box.y0, box.y1) for x in range(box.x0, box.x1)}

    assert pixels(one.intersection(two)) == pixels(one) & pixels(two)
    assert one.union(two).contains(one)
    assert one.union(two).contains(two)
    assert one.area == len(pixels(one)) == one.shape[0] * one.shape[1]
    if one.area:
        assert two.contains(one) == (pixels(one) <= pixels(two))
    assert one.grow(3).grow(-3) == one
    assert one.relative_to(two).shape == one.shape
    assert one.relative_to(Box(one.y0, one.x0, one.y1, one.x1)).y0 == 0


def test_a_box_cannot_end_before_it_starts() -> None:
    with pytest.raises(ValueError, match="ends before it starts"):
        Box(5, 0, 4, 1)


def test_a_core_cannot_leave_its_tile() -> None:
    with pytest.raises(ValueError, match="leaves its tile"):
        Tile(Box(0, 0, 4, 4), Box(0, 0, 5, 4), Box(0, 0, 4, 4))


def test_core_in_tile_cuts_the_core_out_of_the_tiles_array() -> None:
    image = np.arange(50 * 40).reshape(50, 40)
    for tile in TileGrid((50, 40), 16, 3):
        array = image[tile.box.slices]
        assert (array[tile.core_in_tile.slices] == image[tile.core.slices]).all()


@given(st.integers(0, 10_000), st.integers(1, 300))
def test_rounding(value: int, multiple: int) -> None:
    assert floor_to(value, multiple) <= value <= ceil_to(value, multiple)
    assert floor_to(value, multiple) % multiple == ceil_to(value, multiple) % multiple == 0
    assert ceil_to(value, multiple) - floor_to(value, multiple) in {0, multiple}
