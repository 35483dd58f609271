"""Area errors by numpy, percentages that add up, micro-IoU by its definition."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score

from microseg_ray.evaluation.metrics import ConfusionMatrix, area_fraction_errors, mean_of, percentages


def matrix_of(truth, guess, classes=3):
    matrix = ConfusionMatrix.zeros(classes)
    matrix.update(truth, guess)
    return matrix


@given(st.integers(0, 1000), st.integers(1, 6))
def test_area_errors_are_those_of_the_masks(seed, count):
    generator = np.random.default_rng(seed)
    masks = generator.integers(0, 3, (count, 2, 8, 9)).astype(np.uint8)
    masks[:, 0, :2] = 255  # not labelled, so in no area
    errors = area_fraction_errors({str(number): matrix_of(*pair) for number, pair in enumerate(masks)})
    labelled = masks[:, :, 2:].reshape(count, 2, -1)
    fractions = np.stack([(labelled == index).mean(axis=-1) for index in range(3)], axis=-1)
    difference = fractions[:, 1] - fractions[:, 0]
    np.testing.assert_allclose(errors.true, fractions[:, 0], atol=1e-12)
    np.testing.assert_allclose(errors.difference, difference, atol=1e-12)
    np.testing.assert_allclose(errors.mean_absolute, np.abs(difference).mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(errors.bias, difference.mean(axis=0), atol=1e-12)
    assert errors.mean_absolute_error == pytest.approx(np.abs(difference).mean(), abs=1e-12)
    low, high = errors.limits_of_agreement
    if count == 1:
        assert np.isnan([*low, *high]).all()
        assert errors.document(["a", "b", "c"])["classes"]["a"]["limit_low"] is None
    else:
        spread = 1.96 * difference.std(axis=0, ddof=1)
        np.testing.assert_allclose(low, difference.mean(axis=0) - spread, atol=1e-12)
        np.testing.assert_allclose(high, difference.mean(axis=0) + spread, atol=1e-12)


def test_micrographs_without_a_label_are_left_out():
    full = matrix_of(np.array([0, 1]), np.array([0, 0]), 2)
    errors = area_fraction_errors({"a": full, "blank": ConfusionMatrix.zeros(2)})
    assert errors.names == ("a",)
    only_blank = area_fraction_errors({"blank": ConfusionMatrix.zeros(2)})
    assert only_blank.document(["x", "y"])["mean_absolute_error"] is None
    with pytest.raises(ValueError, match="no confusion matrix"):
        area_fraction_errors({})


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=12), st.integers(0, 6))
def test_percentages_add_up_to_100_and_none_is_off_by_a_last_digit(counts, digits):
    shown = percentages(counts, digits)
    if not sum(counts):
        assert set(shown) == {""}
        return
    assert sum(Decimal(text) for text in shown) == 100
    for text, count in zip(shown, counts, strict=True):
        assert len(text.partition(".")[2]) == digits
        assert abs(Decimal(text) - Decimal(100 * count) / sum(counts)) < Decimal(10) ** -digits


def test_a_negative_count_has_no_percentage():
    with pytest.raises(ValueError, match="negative"):
        percentages([1, -1])


@given(st.integers(0, 1000))
def test_micro_iou_is_that_of_the_one_hot_planes(seed):
    truth, guess = np.random.default_rng(seed).integers(0, 4, (2, 60)).astype(np.uint8)
    matrix = matrix_of(truth, guess, 4)
    planes = [np.stack([mask == index for index in range(4)]).ravel() for mask in (truth, guess)]
    assert matrix.micro_iou == pytest.approx(jaccard_score(*planes), abs=1e-12)
    accuracy = accuracy_score(truth, guess)
    assert matrix.micro_iou == pytest.approx(accuracy / (2 - accuracy), abs=1e-12)
    assert np.isnan(ConfusionMatrix.zeros(2).micro_iou)
    images = [matrix.as_metrics("abcd"), matrix_of(truth, truth, 4).as_metrics("abcd")]
    assert mean_of(images)["micro_iou"] == pytest.approx((matrix.micro_iou + 1) / 2)
