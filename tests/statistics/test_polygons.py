"""Laws of outlines and windows of objects: they hold exactly the pixels of the labels, whatever these are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from microseg_ray.statistics.objects.finding import ObjectRule, find_objects
from microseg_ray.statistics.objects.polygons import trace
from microseg_ray.statistics.objects.regions import object_windows

if TYPE_CHECKING:
    from microseg_ray.geometry import Box

MASKS = arrays.arrays(
    np.uint8, arrays.array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 1, 2, 255])
)


@settings(max_examples=100)
@given(MASKS)
def test_polygons_are_valid_and_hold_the_pixels_of_their_label(mask):
    y, x = np.mgrid[: mask.shape[0], : mask.shape[1]] + 0.5
    painted = np.zeros(mask.shape, np.uint8)
    labels = []
    for label, polygons in trace(mask):
        labels.append(label)
        shapes = [shapely.Polygon(rings[0], rings[1:]) for rings in polygons]
        assert all(shape.is_valid and shape.exterior.is_ccw == shapes[0].exterior.is_ccw for shape in shapes)
        whole = shapely.MultiPolygon(shapes)
        assert whole.is_valid
        assert whole.area == np.count_nonzero(mask == label)
        assert len(shapes) == ndimage.label(mask == label)[1]
        inside = shapely.contains_xy(whole, x, y)
        assert not painted[inside].any()
        painted[inside] = label
        # No corner of a straight line.
        for ring in (ring for rings in polygons for ring in rings):
            steps = np.diff(np.vstack([ring, ring[:1]]), axis=0)
            assert ((steps == 0).sum(axis=1) == 1).all()
            assert ((steps[:-1] == 0) != (steps[1:] == 0)).all()
    assert labels == sorted(set(np.unique(mask)) - {0})
    np.testing.assert_array_equal(painted, mask)


@settings(max_examples=50)
@given(MASKS, st.sampled_from([4, 8]), st.integers(1, 6), st.integers(1, 15), st.integers(1, 3))
def test_each_pixel_of_each_object_is_in_one_window(mask, connectivity, block, largest, least):
    def read(box: Box):
        return mask[box.slices]

    rule = ObjectRule(connectivity, None, least, block)
    objects = find_objects(mask.shape, read, rule)
    found = np.zeros(mask.shape, np.int64)
    boxes: dict[int, int] = {}
    for window in object_windows(mask.shape, read, objects, rule, largest):
        assert not found[window.box.slices][window.numbers > 0].any()
        found[window.box.slices] += window.numbers
        for number in np.unique(window.numbers[window.numbers > 0]).tolist():
            assert window.parts.get(number, 1) == boxes.get(number, 0) + 1
            boxes[number] = boxes.get(number, 0) + 1
            y0, x0, y1, x1 = objects.sums.box[number - 1]
            assert (number in window.parts) == (max(y1 - y0, x1 - x0) > largest)
        assert max(window.box.shape) <= max(block, largest)
    expected = np.zeros(mask.shape, np.int64)
    count = 0
    structure = np.ones((3, 3)) if connectivity == 8 else None
    for index in range(3):
        labels, several = ndimage.label(mask == index, structure)
        for label in range(1, several + 1):
            if np.count_nonzero(labels == label) >= least:
                count += 1
                expected[labels == label] = count
    np.testing.assert_array_equal(found, expected)
