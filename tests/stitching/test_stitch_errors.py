"""Tiles that are missing, do not fit or contradict each other."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray import Box, Tile, TileGrid, stitch
from microseg_ray.errors import CoverageError
from tests.stitching.pictures import cut, picture, sharded
from tests.strategies import grids


# --- holes ----------------------------------------------------------------------------------------------------------
@given(grids(), st.data())
def test_a_missing_tile_is_found_or_made_up_for_by_others(grid: TileGrid, data: Any) -> None:
    lost = data.draw(st.integers(0, len(grid) - 1))
    image = picture(grid.shape)
    rest = [tile for index, tile in enumerate(grid) if index != lost]
    covered = np.zeros(grid.shape, bool)
    for tile in rest:
        covered[tile.core.slices] = True
    y, x = np.argwhere(~covered)[0]
    with pytest.raises(CoverageError, match=f"the first .*y={y}, x={x}"):
        stitch([(tile, cut(image, tile)) for tile in rest], grid.shape)
    for tile in rest:
        covered[tile.visible.slices] = True
    pairs = [(tile.origin, cut(image, tile)) for tile in rest]
    if covered.all():
        assert np.array_equal(stitch(pairs, grid.shape), image)
        return
    y, x = np.argwhere(~covered)[0]
    with pytest.raises(CoverageError, match=f"the first .*y={y}, x={x}"):
        stitch(pairs, grid.shape)


def test_a_hole_in_a_late_shard_is_named_by_its_place_in_the_micrograph() -> None:
    into = sharded((64, 64), "uint8")
    tiles = [((y, x), np.ones((32, 32), np.uint8)) for y in (0, 32) for x in (0, 32)]
    tiles[3] = ((40, 37), np.ones((24, 27), np.uint8))
    with pytest.raises(CoverageError, match=r"no tile covers \d+ of 1024 pixels, the first at y=32, x=32"):
        stitch(tiles, (64, 64), into=into)


def test_no_tiles_at_all() -> None:
    with pytest.raises(CoverageError, match="no tiles were given"):
        stitch([], (5, 5))


# --- what does not fit is refused -----------------------------------------------------------------------------------
MASK, SCORES = np.zeros((4, 4), np.uint8), np.zeros((2, 4, 4), np.float32)


@pytest.mark.parametrize(
    ("tiles", "options", "message"),
    [
        ([((0, 0), MASK)], {"shape": (0, 4)}, "at least 1 x 1"),
        ([((0, 0), np.zeros(4))], {}, r"mask \(y, x\) or scores"),
        ([((0, 0), np.zeros((0, 4, 4)))], {}, r"mask \(y, x\) or scores"),
        ([((0, 0), np.zeros((4, 4), object))], {}, "holds numbers"),
        ([((0, 0), MASK)], {"blend": "hann"}, "class indices cannot be averaged"),
        ([((0, 0), MASK)], {"blend": np.ones((4, 4))}, "class indices cannot be averaged"),
        ([((0, 0), SCORES)], {"blend": "cosine"}, "choose hann, gaussian or mean"),
        ([((0, 0), SCORES)], {"blend": np.zeros((4, 4))}, "positive"),
        ([((0, 0), SCORES)], {"blend": np.full((4, 4), np.nan)}, "finite"),
        ([((0, 0), SCORES)], {"blend": np.ones(4)}, "blend"),
        ([((0, 0), SCORES)], {"blend": np.ones((3, 4))}, r"shape \(3, 4\) do not fit a tile of shape \(4, 4\)"),
        ([((0, 0), np.zeros((256, 4, 4)))], {}, "256 classes do not fit"),
        ([((0, 0), MASK), ((0, 0), SCORES)], {}, "all masks, or all scores"),
        ([((0, 0), SCORES), ((0, 0), SCORES[:1])], {}, "all masks, or all scores"),
        ([((0, 0), MASK), ((0, 0), MASK.astype(np.int64))], {}, "type int64 is not the first tile's uint8"),
        ([((0, 0), MASK), ((-1, 0), MASK)], {}, "lies outside"),
        ([((0, 0), MASK), ((4, 0), MASK)], {}, "lies outside"),
        ([((0, 0), MASK)], {"into": np.zeros((4, 5), np.uint8)}, r"into: has shape \(4, 5\)"),
        ([((0, 0), SCORES)], {"argmax": False, "into": np.zeros((4, 4))}, "into: has shape"),
        ([((0, 0), SCORES)], {"argmax": False, "into": np.zeros((2, 4, 4), np.uint8)}, "does not hold"),
        ([((0, 0), MASK + 0.5)], {"into": np.zeros((4, 4), np.uint8)}, "does not hold"),
        ([((0, 0), np.full((4, 4), 300))], {"into": np.zeros((4, 4), np.uint8)}, "cannot hold the values 300 to 300"),
        ([((0, 0), np.full((4, 4), -1))], {"into": np.zeros((4, 4), np.uint8)}, "cannot hold"),
        ([((0, 0), np.full((2, 4, 4), np.nan))], {}, "y=0, x=0 are NaN"),
        ([((0, 0), np.full((2, 4, 4), np.nan))], {"blend": "crop"}, "y=0, x=0 are NaN"),
        ([((0, 0), MASK)], {"origins": [(0, 0), (0, 1)]}, "did not come, the first at y0=0, x0=1"),
        ([((0, 1), MASK)], {"origins": [(0, 0), (0, 1)]}, "did not come, the first at y0=0, x0=0"),
        ([((0, 0), MASK), ((0, 1), MASK)], {"origins": [(0, 0)]}, r"\(0, 1\) is not in origins"),
        ([((0, 0), MASK), ((0, 0), MASK)], {"origins": [(0, 0), (0, 1)]}, "given twice"),
        ([((0, 0), MASK), ((0, 1), MASK[:3])], {"origins": [(0, 0), (0, 1)]}, "all tiles have one shape"),
    ],
)
def test_what_does_not_fit_is_refused(tiles: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stitch(tiles, **{"shape": (4, 4), **options})


def tile_of(y0: int, x0: int, y1: int, x1: int, core: Box | None = None) -> Tile:
    box = Box(y0, x0, y1, x1)
    return Tile(box, core or box, box)


def test_tiles_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="it must be"):
        stitch([(tile_of(0, 0, 4, 5), MASK)], (4, 4))
    with pytest.raises(ValueError, match="another micrograph's"):
        stitch([(tile_of(0, 0, 4, 4), MASK)], (4, 3))
    with pytest.raises(ValueError, match="or none"):
        stitch([(tile_of(0, 0, 4, 4), MASK), ((0, 4), MASK)], (4, 8))
    with pytest.raises(ValueError, match="or none"):
        stitch([((0, 4), MASK), (tile_of(0, 0, 4, 4), MASK)], (4, 8))


@given(st.permutations(range(3)), st.booleans(), st.booleans(), st.booleans())
def test_cores_that_overlap_are_an_error_in_every_order(
    order: list[int], known: bool, twice: bool, stored: bool
) -> None:
    cores = [Box(0, 0, 1, 6), Box(0, 4, 1, 8), Box(0, 8, 1, 10)]
    tiles = [(Tile(Box(0, 0, 1, 10), cores[index], Box(0, 0, 1, 10)), np.zeros((1, 10), np.uint8)) for index in order]
    origins = [tile for tile, _ in tiles] if known else None
    tiles = [tiles[0], *tiles] if twice else tiles
    area, covered, error = 0, set(), ""
    for count, (tile, _) in enumerate(tiles, 1):
        area += tile.core.area
        covered |= set(range(tile.core.x0, tile.core.x1))
        if known and count > 3:
            error = "a tile at (0, 0) is not in origins, or was given twice"
        elif area > 10:
            error = f"the core {tile.core} overlaps another tile's, or the tile was given twice"
        elif stored and (area == 10 or (known and count == 3)):
            # As many pixels or tiles as the shard waits for: it is written before the overlap shows as such.
            error = (
                f"no tile covers {10 - len(covered)} of 10 pixels, the first at y=0, x={min({*range(10)} - covered)}"
            )
        if error:
            break
    with pytest.raises(ValueError, match=f"^{re.escape(error)}"):
        stitch(tiles, (1, 10), into=sharded((1, 10), "uint8") if stored else None, origins=origins)
