"""Cores that are written straight into an array in memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray import Box, Tile, TileGrid, stitch
from microseg_ray.errors import CoverageError
from microseg_ray.stitching.joining import check_cores


def tile(y0, x0, y1, x1):
    box = Box(y0, x0, y1, x1)
    return Tile(box, box, box)


def test_equal_areas_do_not_hide_that_cores_overlap():
    """Two cores overlap by as many pixels as no core covers, so that the sum of areas is right."""
    parts = [(tile(0, 0, 4, 3), 1), (tile(0, 2, 4, 4), 2), (tile(0, 5, 4, 6), 3)]
    tiles = [(where, np.full(where.box.shape, value, np.uint8)) for where, value in parts]
    with pytest.raises(ValueError, match="overlaps another tile's"):
        stitch(tiles, (4, 6))


def test_a_missing_core_is_named():
    with pytest.raises(CoverageError, match=r"no tile covers 4 of 16 pixels, the first at y=0, x=3"):
        stitch([(tile(0, 0, 4, 3), np.zeros((4, 3), np.uint8))], (4, 4))


@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    size=st.integers(3, 16),
    halo=st.integers(0, 1),
    order=st.randoms(use_true_random=False),
)
def test_in_memory_equals_the_array_in_any_order(shape, size, halo, order):
    pixels = np.arange(shape[0] * shape[1], dtype=np.int32).reshape(shape)
    tiles = [(each, pixels[each.visible.slices]) for each in TileGrid(shape, size, halo)]
    order.shuffle(tiles)
    np.testing.assert_array_equal(stitch(tiles, shape), pixels)


@given(
    cores=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=9
    )
)
def test_cores_are_a_partition_or_refused(cores):
    """The naive oracle counts how many cores cover each pixel."""
    frame = Box(0, 0, 9, 9)
    corners = np.array([(y, x, y + height, x + width) for y, x, height, width in cores])
    covered = np.zeros(frame.shape, int)
    for y0, x0, y1, x1 in corners:
        covered[y0:y1, x0:x1] += 1
    if covered.max() > 1:
        with pytest.raises(ValueError, match="overlaps another tile's"):
            check_cores(corners, frame)
    elif covered.min() == 0:
        with pytest.raises(CoverageError):
            check_cores(corners, frame)
    else:
        check_cores(corners, frame)
