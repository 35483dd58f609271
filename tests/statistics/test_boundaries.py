"""Boundary lengths: scikit-image's perimeter, additivity over parts of any size, circles and anisotropic pixels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.measure import perimeter_crofton

from microseg_ray.geometry import Box
from microseg_ray.statistics.boundaries import boundary_lengths, count_crossings, crossing_frame

MASKS = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255]))
)


def naive(mask, classes):
    """Every pixel with each of its four next neighbours."""
    found = np.zeros((4, classes, classes), np.int64)
    for place, (down, right) in enumerate(((0, 1), (1, 0), (1, 1), (1, -1))):
        for y, x in np.ndindex(*mask.shape):
            if 0 <= y + down < mask.shape[0] and 0 <= x + right < mask.shape[1]:
                one, other = int(mask[y, x]), int(mask[y + down, x + right])
                if one != other and max(one, other) < classes:
                    found[place, one, other] += 1
                    found[place, other, one] += 1
    return found


@given(MASKS, st.integers(1, 5), st.integers(1, 5))
def test_parts_of_any_size_add_up_to_the_whole(mask, height, width):
    total = np.zeros((4, 3, 3), np.int64)
    for y in range(0, mask.shape[0], height):
        for x in range(0, mask.shape[1], width):
            box = Box(y, x, min(y + height, mask.shape[0]), min(x + width, mask.shape[1]))
            frame = crossing_frame(box, mask.shape)
            total += count_crossings(mask[frame.slices], box.relative_to(frame), 3)
    np.testing.assert_array_equal(total, naive(mask, 3))
    np.testing.assert_array_equal(total, count_crossings(mask, Box.of_shape(mask.shape), 3))


@given(MASKS.map(lambda mask: np.pad(mask % 2, 1)))
def test_one_class_against_the_rest_is_scikit_images_perimeter(mask):
    """With a rim of the other class, because the border of the image is no boundary here."""
    lengths = boundary_lengths(count_crossings(mask, Box.of_shape(mask.shape), 2))
    assert lengths[0, 1] == pytest.approx(perimeter_crofton(mask, directions=4), abs=1e-9)
    assert lengths[1, 0] == lengths[0, 1]
    assert lengths[0, 0] == lengths[1, 1] == 0


@pytest.mark.parametrize("size", [(1.0, 1.0), (0.5, 1.0), (2.0, 0.7)])
def test_a_circle_has_its_perimeter_whatever_the_pixels(size):
    radius = 60.0
    y, x = np.mgrid[-70 : 70 : size[0], -70 : 70 : size[1]]
    lengths = boundary_lengths(
        count_crossings((np.hypot(y, x) < radius).astype(np.uint8), Box.of_shape(y.shape), 2), size
    )
    assert lengths[0, 1] == pytest.approx(2 * np.pi * radius, rel=0.01)
