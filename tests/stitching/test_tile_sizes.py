"""The tile of the least tax: no other tile of the area computes fewer pixels, and stitching is what it was."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.geometry import Box, TileGrid
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window
from microseg_ray.stitching.tile_sizes import TileRule, least_tax_tile


@st.composite
def rules(draw) -> TileRule:
    stride = draw(st.sampled_from([1, 2, 4]))
    halo, shard = stride * draw(st.integers(0, 4)), stride * draw(st.integers(1, 10))
    least, largest = 2 * halo + stride, shard + 2 * halo
    return TileRule(draw(st.integers(least**2, largest**2)), largest, halo, stride, shard)


SHAPES = st.tuples(st.integers(1, 47), st.integers(1, 47))


def computed(shape: tuple[int, int], tile: tuple[int, int], rule: TileRule) -> int:
    """Pixels that a model sees, of the tiles as they are."""
    return sum(each.box.area for each in TileGrid(shape, tile, rule.halo, rule.stride, shard=rule.shard))


@given(shape=SHAPES, rule=rules())
def test_no_other_tile_of_the_area_computes_fewer_pixels(shape, rule):
    tile = least_tax_tile(shape, rule)
    assert tile[0] * tile[1] <= rule.area
    assert max(tile) <= rule.largest
    assert tile == TileGrid(shape, tile, rule.halo, rule.stride, shard=rule.shard).tile_shape, "smaller would do"
    sides = range(2 * rule.halo + rule.stride, rule.largest + 1, rule.stride)
    others = (
        computed(shape, (height, width), rule) for height in sides for width in sides if height * width <= rule.area
    )
    assert computed(shape, tile, rule) <= min(others)


class Sums:
    """A model that sees `REACH` pixels: the class of a pixel is the sum around it, modulo 7."""

    classes = 7

    def masks(self, batch, _limits):
        padded = np.pad(batch[:, 0].astype(np.int64), ((0, 0), (REACH, REACH), (REACH, REACH)))
        height, width = batch.shape[2:]
        offsets = [(y, x) for y in range(2 * REACH + 1) for x in range(2 * REACH + 1)]
        return (sum(padded[:, y : y + height, x : x + width] for y, x in offsets) % 7).astype(np.uint8)


REACH = 2


@given(sides=SHAPES, rule=rules(), seed=st.integers(0, 9))
def test_tiles_of_any_shape_stitch_to_the_whole(sides, rule, seed):
    height, width = (rule.stride * -(-side // rule.stride) for side in sides)
    halo = max(rule.halo, -(-REACH // rule.stride) * rule.stride)
    area = max(rule.area, (2 * halo + rule.stride) ** 2)
    plan = EnginePlan(rule.shard + 2 * halo, halo, rule.stride, rule.shard, batch=2, tile_area=area)
    image = np.random.default_rng(seed).integers(0, 256, (1, height, width), np.uint8)
    grid, mask = engine_grid((height, width), plan), np.empty((height, width), np.uint8)
    assert grid.tile_shape[0] * grid.tile_shape[1] <= plan.tile_pixels
    for y0 in range(0, height, plan.shard):
        for x0 in range(0, width, plan.shard):
            box = Box(y0, x0, min(y0 + plan.shard, height), min(x0 + plan.shard, width))
            region, _ = shard_window(grid, box, plan)
            mask[box.slices] = predict_shard(image[(..., *region.slices)], Sums(), grid, box, plan, (0, 255)).mask
    np.testing.assert_array_equal(mask, Sums().masks(image[None], (0, 255))[0])
