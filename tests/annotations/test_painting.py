"""Shapes and rasterise against a naive look at every pixel, and the rule for overlaps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.draw import polygon as skimage_polygon

from microseg_ray.annotations import Bitmap, Ellipse, Line, Polygon, Rectangle, Region, Union, rasterise, shapes
from microseg_ray.geometry import Box

SHAPE = (14, 17)
CODES = {"a": 1, "b": 2, "c": 3}

corner = st.tuples(st.integers(-6, 22), st.integers(-6, 22))
rings = st.lists(corner, min_size=3, max_size=7).map(lambda points: np.array(points, float))
polygons = rings.map(lambda ring: Polygon((ring,)))
halves = st.integers(-20, 60).map(lambda number: number / 4)
rectangles = st.tuples(halves, halves, st.integers(0, 40), st.integers(0, 40)).map(
    lambda values: Rectangle(values[0], values[1], values[0] + values[2] / 4, values[1] + values[3] / 4)
)
bitmaps = st.tuples(
    st.integers(-4, 16), st.integers(-4, 16), st.integers(1, 6), st.integers(1, 6), st.integers(0, 99)
).map(lambda values: Bitmap(values[0], values[1], np.random.default_rng(values[4]).random(values[2:4]) < 0.5))
drawn = st.lists(st.tuples(st.sampled_from("abc"), polygons | rectangles | bitmaps), max_size=6).map(
    lambda pairs: [Region(value, shape) for value, shape in pairs]
)
boxes = st.tuples(st.integers(0, 13), st.integers(0, 16), st.integers(0, 14), st.integers(0, 17)).map(
    lambda values: Box(values[0], values[1], max(values[0], values[2]), max(values[1], values[3]))
)


def in_ring(ring: np.ndarray, y: int, x: int) -> bool:
    """Inside or on the outline, in whole numbers: corners, then crossings of the ray to the right and to the left."""
    corners = [(int(v) - y, int(u) - x) for v, u in ring]
    if (0, 0) in corners:
        return True
    right = left = 0
    for (y0, x0), (y1, x1) in zip(corners, corners[1:] + corners[:1], strict=True):
        # Where the edge meets the row of the pixel, times its height.
        meets, height = x0 * y1 - x1 * y0, y1 - y0
        meets = meets if height > 0 else -meets
        right += ((y0 > 0) != (y1 > 0)) and meets > 0
        left += ((y0 < 0) != (y1 < 0)) and meets < 0
    return right % 2 == 1 or right % 2 != left % 2


def has(shape: object, y: int, x: int) -> bool:
    match shape:
        case Polygon():
            return sum(in_ring(ring, y, x) for ring in shape.rings) % 2 == 1
        case Rectangle():
            return shape.y0 <= y < shape.y1 and shape.x0 <= x < shape.x1
        case Bitmap():
            row, column = y - shape.y0, x - shape.x0
            height, width = shape.mask.shape
            return 0 <= row < height and 0 <= column < width and bool(shape.mask[row, column])
    raise AssertionError(shape)


def oracle(regions: list[Region], priority: tuple[str, ...] = (), fill: int = 0) -> np.ndarray:
    mask = np.full(SHAPE, fill, np.uint8)
    for y, x in np.ndindex(*SHAPE):
        here = [region.value for region in regions if has(region.shape, y, x)]
        ranked = [name for name in priority if name in here]
        if here:
            mask[y, x] = CODES[ranked[0] if ranked else here[-1]]
    return mask


@settings(max_examples=40)
@given(drawn)
def test_the_later_region_wins(regions: list[Region]) -> None:
    assert (rasterise(regions, SHAPE, CODES) == oracle(regions)).all()


@settings(max_examples=40)
@given(drawn, st.permutations("abc").flatmap(lambda names: st.integers(0, 3).map(lambda count: tuple(names[:count]))))
def test_the_stronger_class_wins(regions: list[Region], priority: tuple[str, ...]) -> None:
    assert (rasterise(regions, SHAPE, CODES, priority=priority, fill=255) == oracle(regions, priority, 255)).all()


@given(drawn, boxes)
def test_a_part_is_cut_out_of_the_whole(regions: list[Region], box: Box) -> None:
    whole = rasterise(regions, SHAPE, CODES)
    assert (rasterise(regions, SHAPE, CODES, box=box) == whole[box.slices]).all()


@given(st.lists(st.tuples(halves, halves), min_size=3, max_size=30), st.integers(1, 60))
def test_a_polygon_is_what_skimage_draws_cut_up_to_any_size(points: list[tuple[float, float]], leaf: int) -> None:
    ring = np.array(points)
    expected = np.zeros(SHAPE, bool)
    expected[skimage_polygon(ring[:, 0], ring[:, 1], SHAPE)] = True
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_LEAF_PIXELS", leaf)
        assert (Polygon((ring,)).fill(Box.of_shape(SHAPE)) == expected).all()


@given(halves, halves, st.integers(0, 30), st.integers(0, 30), st.floats(-7, 7), st.integers(1, 40))
def test_an_ellipse_holds_the_pixels_inside_it(y: float, x: float, ry: int, rx: int, theta: float, band: int) -> None:
    shape = Ellipse(y, x, ry / 2 + 0.3, rx / 2 + 0.3, theta)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    # Back by theta: clockwise on a screen whose y points down is the usual rotation of (x, y).
    along = (columns - x) * np.cos(theta) + (rows - y) * np.sin(theta)
    across = (rows - y) * np.cos(theta) - (columns - x) * np.sin(theta)
    distance = (along / shape.rx) ** 2 + (across / shape.ry) ** 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "_BAND_PIXELS", band)
        inside = shape.fill(Box.of_shape(SHAPE))
    sure = np.abs(distance - 1) > 1e-9
    assert (inside == (distance < 1))[sure].all()
    outside_bounds = np.ones(SHAPE, bool)
    outside_bounds[shape.bounds().intersection(Box.of_shape(SHAPE)).slices] = False
    assert not inside[outside_bounds].any()


@given(st.lists(st.tuples(halves, halves), min_size=2, max_size=5), st.integers(2, 12))
def test_a_line_holds_the_pixels_near_it(points: list[tuple[float, float]], width: int) -> None:
    shape = Line(np.array(points), width / 2)
    expected = np.zeros(SHAPE, bool)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for (y0, x0), (y1, x1) in pairwise(points):
        length2 = (y1 - y0) ** 2 + (x1 - x0) ** 2
        share = ((rows - y0) * (y1 - y0) + (columns - x0) * (x1 - x0)) / length2 if length2 else np.zeros(SHAPE)
        share = np.clip(share, 0, 1)
        distance2 = (rows - y0 - share * (y1 - y0)) ** 2 + (columns - x0 - share * (x1 - x0)) ** 2
        expected |= distance2 <= (width / 4) ** 2 + 1e-9
    assert (shape.fill(Box.of_shape(SHAPE)) == expected).all()


def test_a_ring_inside_a_ring_is_a_hole_and_parts_of_a_union_are_not() -> None:
    outer, inner = (np.array([[a, a], [a, b], [b, b], [b, a]], float) for a, b in ((0.5, 9.5), (3.5, 6.5)))
    box = Box(0, 0, 12, 12)
    assert Polygon((outer, inner)).fill(box).sum() == 81 - 9
    assert Union((Polygon((outer,)), Polygon((inner,)))).fill(box).sum() == 81


def test_a_region_far_larger_than_the_image_takes_no_more_than_the_image() -> None:
    ring = np.array([[-1e6, -1e6], [-1e6, 1e6], [1e6, 1e6], [1e6, -1e6]])
    assert (rasterise([Region("a", Polygon((ring,)))], SHAPE, CODES) == 1).all()


def test_an_unknown_class_is_an_error() -> None:
    with pytest.raises(ValueError, match="no mask value for class 'z'; there are a, b, c"):
        rasterise([Region("z", Rectangle(0, 0, 1, 1))], SHAPE, CODES)
