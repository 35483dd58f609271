"""Figures of resamples are those of the masks laid together; paired differences; undefined figures."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.evaluation.metrics import (
    ConfusionMatrix,
    Reliability,
    area_fraction_errors,
    difference_intervals,
    figure_intervals,
    units_of,
)
from microseg_ray.statistics.bootstrap import percentile_interval, resampled_counts

NAMES = ["clay", "silt", "pore"]


def matrices_of(seed: int, count: int, *, wrong: bool = False, quality: float = 0.8) -> dict[str, ConfusionMatrix]:
    generator = np.random.default_rng(seed)
    found = {}
    for number in range(count):
        truth = generator.choice(3, 200, p=generator.dirichlet([3, 2, 0.7])).astype(np.uint8)
        right = generator.random(200) < quality
        guess = np.where(right, truth, generator.integers(0, 3, 200)).astype(np.uint8)
        guess[generator.random(200) < 0.1] = 255
        matrix = ConfusionMatrix.zeros(3, withheld_is_wrong=wrong)
        matrix.update(truth, guess, unmeasured="ignore")
        found[f"{number // 2}_{number}"] = matrix
    return found


def groups_of(matrices) -> dict[str, str]:
    return {name: name.split("_")[0] for name in matrices}


@given(st.integers(0, 500), st.integers(2, 7), st.booleans())
def test_the_figures_of_a_resample_are_those_of_its_micrographs(seed, count, wrong):
    matrices = matrices_of(seed, count, wrong=wrong)
    units = units_of(matrices, groups_of(matrices))
    weights = next(resampled_counts(len(units.names), 4, seed))
    found = units.figures(weights)
    for number, row in enumerate(weights):
        drawn = {
            f"{name} {copy}": matrix
            for name, matrix in matrices.items()
            for copy in range(row[units.names.index(name.split("_")[0])])
        }
        pooled = sum(drawn.values(), ConfusionMatrix.zeros(3, withheld_is_wrong=wrong))
        errors = area_fraction_errors(drawn)
        for name, expected in (
            ("pixel_accuracy", pooled.pixel_accuracy),
            ("mean_iou", pooled.mean_iou),
            ("iou", pooled.iou),
            ("f1", pooled.f1),
            ("area_bias", errors.bias),
            ("area_mean_absolute_error", errors.mean_absolute),
        ):
            np.testing.assert_allclose(found[name][number], expected, atol=1e-12, err_msg=name)


@given(st.integers(0, 500))
def test_withheld_pixels_as_wrong_are_a_class_that_is_never_true(seed):
    """The oracle gives withheld pixels a class of their own that the truth never has."""
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 3, 60).astype(np.uint8)
    guess = generator.choice(np.array([0, 1, 2, 255], np.uint8), 60)
    ours = ConfusionMatrix.zeros(3, withheld_is_wrong=True)
    ours.update(truth, guess, unmeasured="ignore")
    oracle = ConfusionMatrix.zeros(4)
    oracle.update(truth, np.where(guess == 255, 3, guess).astype(np.uint8))
    assert ours.pixel_accuracy == pytest.approx(oracle.pixel_accuracy)
    unions = oracle.support[:3] + oracle.counts.sum(axis=0)[:3] - np.diagonal(oracle.counts)[:3]
    assert ours.micro_iou == pytest.approx(np.trace(oracle.counts) / unions.sum())
    for name in ("iou", "f1", "precision", "recall"):
        np.testing.assert_allclose(getattr(ours, name), getattr(oracle, name)[:3])
    both = ours + ours
    assert both.withheld_is_wrong
    assert both.pixel_accuracy == ours.pixel_accuracy


def test_intervals_hold_their_figures_and_narrow_with_micrographs():
    few, many = matrices_of(1, 8), matrices_of(1, 60)
    alone = {name: name for name in many}
    found = [figure_intervals(units_of(each, alone), NAMES, 500, 0) for each in (few, many)]
    widths = []
    for document in found:
        figures = [document["pixel_accuracy"], document["classes"]["pore"]["iou"]]
        assert all(figure["low"] <= figure["value"] <= figure["high"] for figure in figures)
        widths.append(figures[0]["high"] - figures[0]["low"])
    assert widths[1] < widths[0] / 2
    assert found[0] == figure_intervals(units_of(few, alone), NAMES, 500, 0)
    assert found[0]["calibration_error"] == {"value": None, "low": None, "high": None}


def test_a_paired_difference_is_narrower_than_the_intervals_of_both():
    """What varies between micrographs is in both predictions, and cancels."""
    better, worse = matrices_of(3, 30, quality=0.8), {}
    for name, matrix in better.items():
        counts = matrix.counts.copy()
        moved = np.diagonal(counts) // 10
        counts[np.arange(3), np.arange(3)] -= moved
        counts[np.arange(3), (np.arange(3) + 1) % 3] += moved
        worse[name] = ConfusionMatrix(counts, matrix.withheld)
    alone = {name: name for name in better}
    one, other = units_of(better, alone), units_of(worse, alone)
    found = difference_intervals(one, other, NAMES, 1000, 0)["pixel_accuracy"]
    own = figure_intervals(one, NAMES, 1000, 0)["pixel_accuracy"]
    assert found["value"] == pytest.approx(found["ours"] - found["theirs"])
    assert 0 < found["low"] < found["value"] < found["high"]
    assert found["share_above"] == 1
    assert found["high"] - found["low"] < (own["high"] - own["low"]) / 3
    nothing = difference_intervals(one, one, NAMES, 100, 0)["pixel_accuracy"]
    assert (nothing["low"], nothing["high"], nothing["share_above"]) == (0, 0, 0)
    with pytest.raises(ValueError, match="same ones"):
        difference_intervals(one, units_of(better, groups_of(better)), NAMES, 10, 0)


def test_intervals_of_few_units_say_what_they_hold_in_truth():
    generator = np.random.default_rng(0)
    for units in (3, 5):
        matrices = matrices_of(1, units)
        document = figure_intervals(units_of(matrices, {name: name for name in matrices}), NAMES, 100, 0)
        stated = int(re.search(rf"{units} units are few: .* in (\d+)%, not 95%", document["reason"]).group(1)) / 100
        values = generator.normal(size=(400, units))
        means = values[np.arange(400)[:, None, None], generator.integers(0, units, (400, 500, units))].mean(axis=2)
        ends = [percentile_interval(row, units) for row in means]
        # Three standard errors of a share of 400.
        assert np.mean([low <= 0 <= high for low, high in ends]) == pytest.approx(stated, abs=0.065)
    matrices = matrices_of(1, 6)
    assert figure_intervals(units_of(matrices, {name: name for name in matrices}), NAMES, 100, 0)["reason"] == ""


def test_one_unit_and_a_class_that_is_nowhere():
    matrix = ConfusionMatrix(np.array([[5, 1, 0], [2, 9, 0], [0, 0, 0]]))
    one = figure_intervals(units_of({"a": matrix, "b": matrix}, {"a": "x", "b": "x"}), NAMES, 100, 0)
    assert "one unit" in one["reason"]
    assert one["pixel_accuracy"] == {"value": 14 / 17, "low": None, "high": None}
    two = figure_intervals(units_of({"a": matrix, "b": matrix}, {"a": "a", "b": "b"}), NAMES, 100, 0)
    assert two["classes"]["pore"]["iou"] == {"value": None, "low": None, "high": None}
    assert two["mean_iou"]["value"] == pytest.approx(matrix.mean_iou)
    empty = ConfusionMatrix.zeros(3)
    nothing = figure_intervals(units_of({"a": empty, "b": empty}, {"a": "a", "b": "b"}), NAMES, 100, 0)
    assert nothing["pixel_accuracy"] == {"value": None, "low": None, "high": None}


def test_the_calibration_error_is_that_of_all_pixels():
    generator = np.random.default_rng(0)
    total, gaps, matrices = Reliability.zeros(2), {}, {}
    for name in "abc":
        truth = generator.integers(0, 2, 500).astype(np.uint8)
        sure = np.clip(generator.normal(0.3 + 0.4 * truth, 0.2), 0, 1).astype(np.float32)
        scores = np.stack([1 - sure, sure])
        guess = scores.argmax(axis=0).astype(np.uint8)
        own = Reliability.zeros(2)
        own.update(truth, scores, guess)
        total, gaps[name] = total + own, own.gaps()
        matrices[name] = ConfusionMatrix.zeros(2)
        matrices[name].update(truth, guess)
    found = figure_intervals(units_of(matrices, {name: name for name in "abc"}, gaps), ["a", "b"], 200, 0)
    error = found["calibration_error"]
    assert error["value"] == pytest.approx(total.expected_error(0), abs=1e-9)
    assert error["low"] < error["high"]
