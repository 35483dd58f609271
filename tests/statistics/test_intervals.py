"""Intervals between micrographs, corrections by a test set, planning; coverage by simulation (slow)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from benchmarks.intervals import STRUCTURES, blocks_of, predictions
from microseg_ray.settings import ClassSpec
from microseg_ray.statistics.fields import Field
from microseg_ray.statistics.groups import boundary_rows, group_area_rows
from microseg_ray.statistics.intervals import Estimate, between_micrographs, field_rows, group_rows, needed
from microseg_ray.statistics.model_error import METHODS, correction_matrix, correction_of
from microseg_ray.statistics.sampling import (
    FEW_FEATURES,
    SamplingError,
    bounded_interval,
    independent_features,
    sampling_error,
)
from microseg_ray.statistics.spread import spread_of

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="pore"))


def field(name, counts, **options):
    errors = tuple(SamplingError(c / max(1, sum(counts)), 1e-4, 20, 50, 10) for c in counts)
    base = {"pixels": sum(counts), "bar_pixels": 0, "pixel_size_um": None, "crossings": np.zeros((4, 2, 2), np.int64)}
    return Field(name, "g", np.array(counts), **{**base, "sampling": errors, **options})


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=2, max_size=8))
def test_equal_micrographs_give_the_textbook_t_interval(pairs):
    counts = np.array([[one, other] for one, other in pairs])
    measured = counts.sum(axis=1)
    with np.errstate(invalid="ignore"):
        shares = counts / measured[:, None]
    found = between_micrographs(measured, shares)[1]
    known = shares[measured > 0, 1]
    if not len(known):
        assert math.isnan(found.value)
        return
    assert found.value == pytest.approx(counts[:, 1].sum() / measured.sum())
    if len(known) == 1 or found.value in {0, 1}:
        assert "micrograph" in found.reason
        assert math.isnan(found.variance)
        return
    assert found.degrees_of_freedom == len(known) - 1
    equal = between_micrographs(np.full(len(known), 500), np.stack([1 - known, known], axis=1))[1]
    assert equal.value == pytest.approx(known.mean())
    assert equal.variance == pytest.approx(known.var(ddof=1) / len(known))


@given(st.floats(0.001, 0.3), st.floats(0.002, 0.1))
def test_the_planned_number_is_the_smallest_that_is_enough(spread, aim):
    found = needed(spread**2, aim)

    def half_width(count):
        return stats.t.ppf(0.975, count - 1) * spread / math.sqrt(count)

    assert half_width(found) <= aim * (1 + 1e-9)
    assert found == 2 or half_width(found - 1) > aim * (1 - 1e-9)


def test_what_cannot_be_planned():
    assert needed(0.0, 0.01) is None
    assert needed(math.nan, 0.01) is None
    assert needed(0.01, 1e-9) is None


@given(st.integers(0, 999), st.integers(2, 5), st.sampled_from(METHODS))
def test_a_test_set_is_corrected_to_its_own_truth(seed, classes, method):
    """What the rates were taken from has its true fractions afterwards, by both methods."""
    generator = np.random.default_rng(seed)
    confusion = generator.integers(1, 50, (classes, classes)) + np.diag(generator.integers(200, 400, classes))
    corrected = correction_matrix(confusion, method) @ (confusion.sum(axis=0) / confusion.sum())
    np.testing.assert_allclose(corrected, confusion.sum(axis=1) / confusion.sum(), atol=1e-9)
    np.testing.assert_allclose(correction_matrix(confusion, method).sum(axis=0), 1, atol=1e-9)


def test_errors_that_are_left_are_of_micrographs_that_did_not_correct_themselves():
    units = np.array([[[85, 20], [10, 90]], [[70, 30], [25, 80]], [[150, 40], [30, 190]]])
    found = correction_of(units)
    left = []
    for number, unit in enumerate(units):
        others = np.delete(units, number, axis=0).sum(axis=0)
        true_of_predicted = others / others.sum(axis=0)
        left.append(true_of_predicted @ unit.sum(axis=0) / unit.sum() - unit.sum(axis=1) / unit.sum())
    np.testing.assert_allclose(found.spread, np.std(left, axis=0, ddof=1))
    np.testing.assert_allclose(found.standard_error(6), found.spread * np.sqrt(1 / 3 + 1 / 6))
    one = correction_of(units[:1])
    assert "one test unit" in one.reason
    assert np.isnan(one.standard_error(1)).all()


def test_rates_that_say_nothing():
    never = np.array([[[50, 0, 0], [0, 40, 0], [0, 5, 0]]] * 2)
    found = correction_of(never)
    assert "class 2 is not in the test set" in found.reason
    assert found.corrected(np.array([0.5, 0.3, 0.2]))[2] == pytest.approx(0.2 + 0.3 * 5 / 45)
    with pytest.raises(ValueError, match="cannot be inverted"):
        correction_of(np.array([[[50, 50], [50, 50]]] * 3), "inverse")
    with pytest.raises(ValueError, match="no pixel"):
        correction_of(np.zeros((2, 2, 2), np.int64))


def test_parts_of_an_error_add_up():
    parts = Estimate(0.3, 0.0004, 9), Estimate(0.0, 0.0009, 4, "of the model")
    found = parts[0].plus(parts[1])
    assert (found.value, found.variance, found.reason) == (0.3, pytest.approx(0.0013), "of the model")
    assert found.degrees_of_freedom == pytest.approx(0.0013**2 / (0.0004**2 / 9 + 0.0009**2 / 4))
    assert Estimate(0.3, 0.0, 5).plus(Estimate(0.0, 0.0, 5)).degrees_of_freedom == 5


@given(st.lists(st.tuples(st.integers(30, 95), st.integers(1, 40)), min_size=3, max_size=6), st.integers(0, 100))
def test_combined_takes_the_inverse_where_it_gives_fractions_else_stratified(rates, pores):
    """A model with its own recall and false alarms in each test micrograph, and a measured one with any share of pores."""
    units = np.array([[[1000 - 10 * false, 10 * false], [100 - hits, hits]] for hits, false in rates])
    made = {}
    for method in METHODS:
        try:
            made[method] = correction_of(units, method)
        except ValueError:
            assert method == "inverse"
    sampled = {method: field("a", (50, 50)).sampling for method in made}
    one = field("a", (100 - pores, pores), corrections=made, corrected_sampling=sampled)
    rows = {row.part: row for row in field_rows(one, CLASSES) if row.class_name == "pore"}
    inside = "inverse" in made and 0 <= made["inverse"].corrected(one.fractions)[1] <= 1
    used = "inverse" if inside else "stratified"
    # The sampling error is the same here, so the rest of the variance is the method's.
    assert rows["combined"].standard_error ** 2 == pytest.approx(1e-4 + rows[f"model_{used}"].standard_error ** 2)
    assert ("so stratified is used" in rows["combined"].reason) == ("inverse" in made and not inside)
    if "inverse" in made:
        assert ("below 0 or above 1: the rates" in rows["model_inverse"].reason) == (not inside)
    wide = rows["combined"].high - rows["combined"].low > 0.5
    assert ("says little" in rows["combined"].reason) == wide


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=4))
def test_the_spread_of_a_group_is_that_of_the_sums_by_each_checkpoint(found):
    """Three checkpoints count 100 pixels of each micrograph; the mask has what the second one finds."""
    members = [
        field(str(number), (100 - own[1], own[1]), spreads={"ensemble": np.array([[100 - n, n] for n in own])})
        for number, own in enumerate(found)
    ]
    rows = {row.part: row for row in group_rows("group", "g", members, CLASSES, 0) if row.class_name == "pore"}
    shares = np.array(found).sum(axis=0) / (100 * len(found))
    error = shares.std(ddof=1) / math.sqrt(3)
    assert (rows["ensemble"].standard_error or 0) == pytest.approx(error)
    assert rows["ensemble"].degrees_of_freedom == 2
    part = rows["micrographs"].standard_error or 0.0 if len(found) > 1 else rows["sampling"].standard_error
    if part:
        assert rows["combined"].standard_error == pytest.approx(math.hypot(part, error))
    assert "tta" not in rows


def test_a_spread_that_is_not_known_or_nothing_is_said():
    counted = field("a", (60, 40), spreads={"tta": np.tile([60, 40], (8, 1))})
    rows = {row.part: row for row in group_rows("group", "g", [counted, field("b", (50, 50))], CLASSES, 0)}
    assert rows["tta"].reason == "1 of 2 micrographs have no counts by each of the symmetries: segment them again"
    assert (rows["tta"].low, rows["combined"].low) == (None, None)
    assert rows["tta"].reason in rows["combined"].reason
    same = {row.part: row for row in field_rows(counted, CLASSES)}
    assert same["combined"].standard_error == pytest.approx(same["sampling"].standard_error)
    nowhere = spread_of(0.0, np.zeros(3), "checkpoints")
    assert (nowhere.variance, nowhere.reason) == (0, "all 3 checkpoints find the same: 0")
    assert "outside this interval" in spread_of(0.5, np.array([0.2, 0.21, 0.22])).reason


def test_the_effective_count_says_where_an_interval_is_too_narrow():
    row = next(row for row in field_rows(field("a", (60, 40)), CLASSES) if row.class_name == "pore")
    assert row.effective_count == pytest.approx(0.24 / 1e-4 * 0.4)
    generator = np.random.default_rng(2)
    few = sampling_error(*blocks_of(STRUCTURES["grains"](generator, 256, 12, 0.02)), side=2)
    assert (independent_features(few.fraction, few.variance) < FEW_FEATURES) == ("independent features" in few.reason)
    assert "independent features" in few.reason


def test_micrographs_without_a_measured_pixel_and_a_class_that_is_nowhere():
    nothing = field(
        "a", (0, 0), sampling=(SamplingError(math.nan, math.nan, math.nan, 0, 0, "nothing was measured"),) * 2
    )
    rows = field_rows(nothing, CLASSES)
    assert all(row.estimate is None and row.area_fraction is None for row in rows)
    assert "nothing was measured" in rows[0].reason
    both = group_rows("group", "g", [nothing, field("b", (60, 40))], CLASSES, 3)
    pore = {row.part: row for row in both if row.class_name == "pore"}
    assert pore["sampling"].estimate == pytest.approx(0.4)
    assert pore["micrographs"].reason == "one micrograph: no interval across micrographs"
    assert pore["micrographs"].unfinished_micrographs == 3
    areas = group_area_rows("group", "g", [nothing], CLASSES, 0)[0]
    assert (areas.area_fraction, areas.coverage, areas.mean_area_fraction) == (None, None, None)
    edges = boundary_rows("group", "g", [nothing], CLASSES, 0)[0]
    assert (edges.length_px, edges.specific_length_per_px, edges.share_of_class) == (0, None, None)
    absent = group_rows("group", "g", [field("a", (9, 0)), field("b", (7, 0))], CLASSES, 0)
    between = next(row for row in absent if row.class_name == "pore" and row.part == "micrographs")
    assert (between.estimate, between.low, between.high) == (0, None, None)


def test_a_class_found_nowhere_has_no_interval_of_zero_width():
    found = between_micrographs(np.array([9, 7]), np.array([[1.0, 0.0], [1.0, 0.0]]))[1]
    assert math.isnan(found.variance)
    assert "in no micrograph" in found.reason


@pytest.mark.slow
@pytest.mark.parametrize(("name", "length", "fraction"), [("gaussian", 4, 0.1), ("discs", 6, 0.4), ("grains", 8, 0.2)])
def test_sampling_intervals_cover_the_truth(name, length, fraction):
    """Nominal 95 %: 200 fields cover in 90 to 98.5 % of the cases, by more than the noise of 200 draws alone."""
    generator = np.random.default_rng(5)
    covered = []
    for _ in range(200):
        found = sampling_error(*blocks_of(STRUCTURES[name](generator, 192, length, fraction)), side=2)
        interval = bounded_interval(found.fraction, found.variance, found.degrees_of_freedom)
        covered.append(interval.low <= fraction <= interval.high)
    assert 0.9 <= np.mean(covered) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(("count", "own", "least"), [(2, 0.15, 0.9), (5, 0.15, 0.9), (8, 0.4, 0.9)])
def test_the_spread_ofpredictions_covers_the_truth(count, own, least):
    """Of the field by the spread alone, of the material with the sampling error; without the spread too seldom."""
    generator = np.random.default_rng(count)
    spread, both, alone = [], [], []
    for _ in range(200):
        truth, joint, masks = predictions(generator, 128, count, own, 0.0)
        found = spread_of(float(joint.mean()), masks.mean(axis=(1, 2)))
        plain = sampling_error(*blocks_of(joint), side=2)
        sampled = Estimate(plain.fraction, plain.variance, plain.degrees_of_freedom)
        for covered, each, value in (
            (spread, found, truth.mean()),
            (both, sampled.plus(found), 0.3),
            (alone, sampled, 0.3),
        ):
            interval = bounded_interval(each.value, each.variance, each.degrees_of_freedom)
            covered.append(interval.low <= value <= interval.high)
    assert least <= np.mean(spread) <= 0.99
    assert least - 0.02 <= np.mean(both) <= 0.99
    assert np.mean(alone) < np.mean(both)
