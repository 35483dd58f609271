"""Objects counted in fields, against scipy's labels of the whole mask and the pixels at its corners."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from microseg_ray.statistics.objects.finding import ObjectRule, find_objects
from microseg_ray.statistics.planimetric import Counted, FieldObjects, count_objects, planimetric_rows
from microseg_ray.statistics.stereology import grain_size_of_density
from tests.runs.measured import CLASSES

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 1, 2, 255]))
)


def naive(mask, index, connectivity):
    """Each object of scipy's labels, by its pixels."""
    labels, count = ndimage.label(mask == index, np.ones((3, 3)) if connectivity == 8 else None)
    rows, columns = np.nonzero(mask != 255)
    if not len(rows):
        return Counted(0, 0, 0, 0)
    y0, y1, x0, x1 = rows.min(), rows.max(), columns.min(), columns.max()
    beside = ndimage.binary_dilation(mask == 255)
    edge = np.zeros(mask.shape, bool)
    edge[[0, -1]] = edge[:, [0, -1]] = True
    cut = sum(bool(((labels == part) & (edge | beside)).any()) for part in range(1, count + 1))
    corners = sum(int(mask[y, x] == index) for y in (y0, y1) for x in (x0, x1))
    return Counted(count - cut, cut, corners, int((mask == index).sum()))


@examples(max_examples=40)
@given(MASKS, st.sampled_from([4, 8]), st.integers(1, 5))
def test_objects_are_counted_as_scipys_labels(mask, connectivity, block):
    rule = ObjectRule(connectivity, block=block)
    found = count_objects(
        find_objects(mask.shape, lambda box: mask[box.slices], rule), lambda box: mask[box.slices], 3, rule, None
    )
    assert found.measured == (mask != 255).sum()
    assert found.classes == {index: naive(mask, index, connectivity) for index in range(3)}


def test_squares_that_fill_fields_are_counted_without_bias_but_for_those_that_end_at_the_border():
    """The mean over all places of a grid. Squares that end exactly at the border count 1/2: perimeter / (2 area) too few."""
    side, height, width = 6, 17, 22
    numbers = []
    for shift in np.ndindex(side, side):
        y, x = (np.mgrid[:height, :width] + np.reshape(shift, (2, 1, 1))) // side
        mask = ((y + x) % 2).astype(np.uint8)
        rule = ObjectRule(4)
        objects = find_objects(mask.shape, lambda box, mask=mask: mask[box.slices], rule)
        found = count_objects(objects, lambda box, mask=mask: mask[box.slices], 2, rule, None)
        numbers.append(sum(each.number for each in found.classes.values()))
    area = height * width
    assert np.mean(numbers) == pytest.approx(area / side**2 * (1 - (height + width) / area), rel=0.01)


def field(inside, cut, corners, pixels, size=(0.5, 0.5)):
    return FieldObjects({1: Counted(inside, cut, corners, pixels), 2: Counted(0, 1, 4, 5)}, 10**6, size, 1)


def test_grains_per_area_and_g_of_two_fields_by_hand():
    """0.25 mm2 each: 43 + 10 - 1 grains are 208 per mm2, 40 + 9 - 1 are 192; t of one degree of freedom is 12.71."""
    found = [field(43, 20, 4, 900_000), field(40, 18, 4, 900_000)]
    rows = {row.quantity: row for row in planimetric_rows("archive", "", found, CLASSES, 2, 0)}
    row = rows["grains_per_area"]
    assert (row.mean, row.unit, row.class_name, row.fields) == (200, "1/mm2", "pore", 2)
    half = 12.7062 * 8 * np.sqrt(2) / np.sqrt(2)
    assert (row.low, row.high) == pytest.approx((200 - half, 200 + half), rel=1e-5)
    number = rows["planimetric_grain_size_number"]
    assert (number.mean, number.low, number.high) == pytest.approx(
        [grain_size_of_density(value) for value in (200, 200 - half, 200 + half)], rel=1e-5
    )
    assert rows["objects_per_area"].mean == 200
    assert rows["mean_object_area"].mean == pytest.approx((225000 / 52 + 225000 / 48) / 2)


def test_fields_without_a_pixel_size_or_an_object_have_no_g():
    none = [field(5, 0, 0, 100), field(5, 0, 0, 100, None)]
    rows = {row.quantity: row for row in planimetric_rows("archive", "", none, CLASSES, 2, 0)}
    assert (rows["grains_per_area"].mean, rows["grains_per_area"].unit) == (5, "1/Mpx")
    assert rows["planimetric_grain_size_number"].mean is None
    assert "no pixel size" in rows["planimetric_grain_size_number"].reason
    # A matrix that holds all corners cannot be counted; it is left out and said.
    matrix = [field(0, 1, 4, 10**6), field(3, 2, 0, 10**6)]
    row = planimetric_rows("archive", "", matrix, CLASSES, 2, 0)[0]
    assert (row.mean, row.fields) == (16, 1)
    assert row.reason == "fields with objects as large as the field, left out: 1; one field: no interval"
    empty = FieldObjects({1: Counted(0, 0, 0, 0)}, 0, (1.0, 1.0), 5)
    (density, area) = planimetric_rows("archive", "", [empty], CLASSES, None, 0)
    assert (density.mean, area.mean) == (None, None)
    assert density.reason == "objects below 5 px are left out; in no field: not defined"
    assert planimetric_rows("archive", "", [], CLASSES, None, 0) == []
