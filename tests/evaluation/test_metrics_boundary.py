"""Boundary F1: every boundary pixel by a loop, the same from any block, known cases by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from microseg_ray.evaluation.metrics import BoundaryCounts, boundary_counts


def boundary(mask, known, index):
    """Pixels of a class beside a known pixel of another, one by one."""
    found = []
    for y, x in np.ndindex(*mask.shape):
        if not known[y, x] or mask[y, x] != index:
            continue
        for v, u in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
            inside = 0 <= v < mask.shape[0] and 0 <= u < mask.shape[1]
            if inside and known[v, u] and mask[v, u] != index:
                found.append((y, x))
                break
    return found


def near(points, others, tolerance):
    return sum(any((y - v) ** 2 + (x - u) ** 2 <= tolerance**2 for v, u in others) for y, x in points)


MASKS = arrays(np.uint8, (7, 9), elements=st.sampled_from([0, 1, 1, 2, 255]))


@given(MASKS, MASKS, st.sampled_from([0, 1, 1.5, 3]), st.integers(2, 10))
def test_equals_a_loop_over_pixels_whatever_the_block(truth, prediction, tolerance, block):
    counts = boundary_counts(truth, prediction, 3, tolerance, block)
    known = (truth != 255) & (prediction != 255)
    for index in range(3):
        own, other = (boundary(mask, known, index) for mask in (truth, prediction))
        assert counts.true[index] == len(own)
        assert counts.predicted[index] == len(other)
        assert counts.true_near[index] == near(own, other, tolerance)
        assert counts.predicted_near[index] == near(other, own, tolerance)
        if own or other:
            precision = near(other, own, tolerance) / len(other) if other else 0
            recall = near(own, other, tolerance) / len(own) if own else 0
            expected = 2 * precision * recall / (precision + recall) if precision + recall else 0
            assert counts.f1[index] == pytest.approx(expected)
        else:
            assert np.isnan(counts.f1[index])


@given(MASKS)
def test_a_mask_fits_itself(mask):
    counts = boundary_counts(mask, mask, 3, 0)
    assert set(counts.f1[~np.isnan(counts.f1)]) <= {1.0}


def test_counts_add_up_and_wrong_arguments_are_named():
    truth = np.repeat([[0, 0, 1, 1]], 3, axis=0).astype(np.uint8)
    once = boundary_counts(truth, truth, 2)
    twice = once + once
    assert twice.true.tolist() == [6, 6]
    assert (twice + BoundaryCounts.zeros(2)).predicted_near.tolist() == [6, 6]
    with pytest.raises(ValueError, match="one shape"):
        boundary_counts(truth, truth[:2], 2)
    with pytest.raises(ValueError, match="tolerance"):
        boundary_counts(truth, truth, 2, -1)
