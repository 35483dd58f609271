"""Blocks are counts of pixels; the sampling error against independent pixels, all pairs of pixels, and the true spread."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage, stats

from microseg_ray.geometry import Box
from microseg_ray.statistics.blocks import BlockCounts, block_side
from microseg_ray.statistics.sampling import _radial, bounded_interval, sampling_error

MASKS = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255]))
)


@given(MASKS, st.integers(1, 6), st.integers(1, 6), st.sampled_from([1, 2, 4, 8]))
def test_blocks_from_parts_of_any_size(mask, height, width, side):
    blocks = BlockCounts(mask.shape, 3, side)
    for y in range(0, mask.shape[0], height):
        for x in range(0, mask.shape[1], width):
            box = Box(y, x, min(y + height, mask.shape[0]), min(x + width, mask.shape[1]))
            blocks.add(box, mask[box.slices])
    for k, by, bx in np.ndindex(*blocks.counts.shape):
        part = mask[by * side : (by + 1) * side, bx * side : (bx + 1) * side]
        assert blocks.counts[k, by, bx] == (part == k).sum()


def test_the_number_of_blocks_is_bounded():
    for shape in ((1, 1), (512, 512), (513, 512), (1, 10**6), (300_000, 200_000)):
        side = block_side(shape)
        assert -(-shape[0] // side) * -(-shape[1] // side) <= 1 << 18
        assert side == 1 or -(-shape[0] // (side // 2)) * -(-shape[1] // (side // 2)) > 1 << 18


@settings(max_examples=25)
@given(arrays(np.uint8, (5, 6), elements=st.sampled_from([0, 1, 2, 255])))
def test_sums_at_each_distance_are_those_of_all_pairs(mask):
    values, weights = (mask == 1) - 0.25, (mask != 255).astype(float)
    radii, products, pairs = _radial(values, weights, (1.0, 1.0))
    places = list(np.ndindex(*mask.shape))
    expected = np.zeros((2, len(radii)))
    for one in places:
        for other in places:
            ring = int(np.rint(np.hypot(one[0] - other[0], one[1] - other[1])))
            expected[:, ring] += values[one] * values[other], weights[one] * weights[other]
    np.testing.assert_allclose(products, expected[0], atol=1e-9)
    np.testing.assert_allclose(pairs, expected[1], atol=1e-9)


def structure(generator, side, length, fraction):
    """A Gaussian random field above the threshold that gives this fraction in the mean of all fields."""
    noise = generator.standard_normal((side + 8 * length,) * 2)
    field = ndimage.gaussian_filter(noise, length, mode="wrap")[4 * length :][:, 4 * length :][:side, :side]
    # The variance of a Gaussian filter of white noise in two dimensions.
    return field * 2 * np.sqrt(np.pi) * length > stats.norm.ppf(1 - fraction)


def test_the_variance_is_that_between_fields():
    generator = np.random.default_rng(0)
    found = [sampling_error(structure(generator, 96, 3, 0.3), np.ones((96, 96))) for _ in range(150)]
    spread = np.var([each.fraction for each in found], ddof=1)
    assert np.mean([each.variance for each in found]) == pytest.approx(spread, rel=0.3)
    assert np.mean([each.integral_range for each in found]) > 30  # a pixel alone would be 1


def test_blocks_give_what_pixels_give():
    field = structure(np.random.default_rng(1), 256, 6, 0.3)
    fine = sampling_error(field, np.ones(field.shape))
    blocks = BlockCounts(field.shape, 2, 4)
    blocks.add(Box.of_shape(field.shape), field.astype(np.uint8))
    coarse = sampling_error(blocks.counts[1], blocks.measured, 4)
    assert coarse.fraction == fine.fraction
    assert coarse.variance == pytest.approx(fine.variance, rel=0.1)


def test_unmeasured_pixels_and_anisotropic_ones():
    generator = np.random.default_rng(2)
    field = structure(generator, 200, 4, 0.3)
    known = np.ones(field.shape)
    known[:, 100:] = 0
    half = sampling_error(field * known, known)
    assert half.fraction == pytest.approx(field[:, :100].mean())
    alone = sampling_error(field[:, :100], np.ones((200, 100)))
    assert half.variance == pytest.approx(alone.variance, rel=1e-6)
    stretched = sampling_error(field.repeat(2, axis=0), np.ones((400, 200)), spacing=(0.5, 1.0))
    assert stretched.variance == pytest.approx(sampling_error(field, np.ones(field.shape)).variance, rel=0.1)


def test_what_cannot_be_known_is_said():
    ones = np.ones((20, 20))
    assert "every pixel" in sampling_error(ones, ones).reason
    assert "nothing was measured" in sampling_error(0 * ones, 0 * ones).reason
    assert np.isnan(sampling_error(0 * ones, 0 * ones).fraction)
    wide = np.zeros((64, 64))
    wide[:, :30] = 1
    assert sampling_error(wide, np.ones((64, 64))).reason
    assert bounded_interval(0.0, np.nan, 3) is None


@given(st.floats(0.001, 0.999), st.floats(1e-8, 0.2), st.floats(1, 1e6))
def test_an_interval_holds_its_fraction_and_stays_a_fraction(fraction, variance, freedom):
    found = bounded_interval(fraction, variance, freedom)
    assert 0 <= found.low <= fraction <= found.high <= 1


def test_the_interval_of_independent_pixels_is_wilsons():
    from scipy.stats import binomtest

    expected = binomtest(30, 400).proportion_ci(0.95, method="wilson")
    found = bounded_interval(30 / 400, 30 / 400 * 370 / 400 / 400, 1e12)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
