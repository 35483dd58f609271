"""ASTM's statistics over fields, and intercepts against chords that are counted one by one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from microseg_ray.geometry import Box
from microseg_ray.statistics.boundaries import count_crossings
from microseg_ray.statistics.stereology import (
    field_statistics,
    grain_size_of_area,
    grain_size_of_density,
    grain_size_of_intercept,
    intercepts_per_length,
)

MASKS = st.tuples(st.integers(2, 10), st.integers(2, 10)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 2))
)


def chords(lines, index):
    """Chords of a class on lines, one that ends at the border of the field counted half at that end."""
    total = 0.0
    for line in lines:
        own = np.concatenate([[2], (line == index).astype(int), [2]])
        for one, other in pairwise(own):
            total += 0.5 * ({one, other} == {0, 1})
    return total


@given(MASKS)
def test_intercepts_are_the_chords_of_all_lines(mask):
    found = intercepts_per_length(count_crossings(mask, Box.of_shape(mask.shape), 3), mask.size, (0.5, 2.0))
    height, width = mask.shape
    diagonals = [np.diagonal(mask, shift) for shift in range(1 - height, width)]
    others = [np.diagonal(mask[:, ::-1], shift) for shift in range(1 - height, width)]
    for index in range(3):
        for place, (lines, step) in enumerate(
            ((mask, 2.0), (mask.T, 0.5), (diagonals, np.hypot(0.5, 2)), (others, np.hypot(0.5, 2)))
        ):
            assert found[place, index] == pytest.approx(chords(lines, index) / (mask.size * step))


@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_fields_have_the_t_interval(values):
    found = field_statistics(np.array([*values, np.nan]))
    assert found.fields == len(values)
    expected = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if np.std(values) > 0 else 0
    assert found.half_width == pytest.approx(expected, abs=1e-12)
    if found.mean > 0:
        assert found.relative_accuracy == pytest.approx(100 * found.half_width / found.mean)


def test_fewer_than_two_fields():
    one = field_statistics(np.array([0.3]))
    assert (one.mean, one.fields) == (0.3, 1)
    assert np.isnan([one.deviation, one.half_width, one.relative_accuracy]).all()
    assert field_statistics(np.array([np.nan])).fields == 0
    assert np.isnan(field_statistics(np.array([0.0, 0.0])).relative_accuracy)
    assert np.isnan(intercepts_per_length(np.zeros((4, 2, 2), np.int64), 0)).all()


@pytest.mark.parametrize(
    ("number", "micrometres"), [(0, 320.0), (3, 113.1), (5, 56.6), (8, 20.0), (10, 10.0), (14, 2.5)]
)
def test_grain_sizes_are_those_of_table_4_of_e112(number, micrometres):
    assert grain_size_of_intercept(micrometres / 1000) == pytest.approx(number, abs=0.01)


@given(st.floats(-3, 20))
def test_g_of_a_density_follows_from_its_definition(number):
    """2^(G - 1) grains in a square inch (645.16 mm2) at 100 times, which is 1 / 10^4 of it on the specimen."""
    square_inch_mm2 = 25.4**2
    assert square_inch_mm2 == pytest.approx(645.16)
    per_mm2 = 2 ** (number - 1) / (square_inch_mm2 / 100**2)
    # The standard rounds its constants: 3.321928 is 1 / log10(2), 2.954 is log2(15.50003) - 1.
    assert grain_size_of_density(per_mm2) == pytest.approx(number, abs=5e-4)
    assert grain_size_of_area(1 / per_mm2) == pytest.approx(number, abs=5e-4)


@given(st.floats(-3, 20))
def test_g_of_an_intercept_follows_from_32_mm_at_100_times(number):
    """G = 0 is a mean intercept of 32 mm at 100 times; each step of G divides it by the square root of 2."""
    millimetres = 32 / 100 / 2 ** (number / 2)
    assert grain_size_of_intercept(millimetres) == pytest.approx(number, abs=5e-4)


@given(st.floats(-3, 20))
def test_both_definitions_of_g_agree_as_far_as_the_shape_of_grains_allows(number):
    """They meet in the mean intercept of a circle of the mean area, sqrt(pi A / 4): 0.318 mm for the rounded 0.32."""
    area = 1 / (2 ** (number - 1) * 100**2 / 25.4**2)
    assert grain_size_of_intercept((np.pi / 4 * area) ** 0.5) == pytest.approx(number, abs=0.02)
