"""Scores against truth: scikit-learn's figures, brute force at every threshold, the same from any order of parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from microseg_ray.evaluation.metrics import CRITERIA, ScoreHistogram, exact_curve, score_statistics
from microseg_ray.evaluation.metrics.scores import EDGES

BETAS = {"f1": 1.0, "f2": 2.0, "f0.5": 0.5}


def brute(truth, scores, threshold):
    """Every figure at one threshold, pixel by pixel."""
    guess = scores > threshold
    both, either = int((truth & guess).sum()), int((truth | guess).sum())
    found = {"accuracy": float((truth == guess).mean()), "iou": both / either if either else None}
    found["precision"] = both / int(guess.sum()) if guess.any() else None
    found["recall"] = both / int(truth.sum()) if truth.any() else None
    for name, beta in BETAS.items():
        below = beta**2 * int(truth.sum()) + int(guess.sum())
        found[name] = (1 + beta**2) * both / below if below else None
    return found


@st.composite
def scored(draw, bins=16):
    """Labels, and scores on the bins' edges, with many ties."""
    pixels = draw(st.integers(1, 60))
    truth = draw(arrays(bool, pixels))
    scores = draw(arrays(np.int64, pixels, elements=st.integers(0, bins))) / bins
    return truth, scores


def histogram_of(truth, scores):
    """Class 1 of two, from float32 probabilities."""
    histogram = ScoreHistogram.zeros(2)
    histogram.update(truth.astype(np.uint8), np.stack([1 - scores, scores]).astype(np.float32))
    return histogram


@given(scored())
def test_areas_under_the_curves_are_scikit_learns(case):
    truth, scores = case
    for curve in (exact_curve(truth, scores), histogram_of(truth, scores).curve(1)):
        if truth.any():
            assert curve.average_precision == pytest.approx(sk.average_precision_score(truth, scores), abs=1e-12)
        else:
            assert np.isnan(curve.average_precision)
        if truth.any() and not truth.all():
            assert curve.roc_auc == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-12)
        else:
            assert np.isnan(curve.roc_auc)


@given(scored())
def test_the_curve_is_scikit_learns(case):
    truth, scores = case
    if not truth.any():
        return
    precision, recall, thresholds = sk.precision_recall_curve(truth, scores)
    curve = exact_curve(truth, scores)
    # Theirs are `>= threshold`, ours `> the next lower one`; their last point is ours of nothing found.
    np.testing.assert_allclose(curve.precision[:-1], precision[:-1], atol=1e-12)
    np.testing.assert_allclose(curve.recall, recall, atol=1e-12)
    np.testing.assert_allclose(curve.thresholds[1:], thresholds)


@given(scored())
def test_figures_at_every_threshold_are_those_of_brute_force(case):
    truth, scores = case
    binned = histogram_of(truth, scores).curve(1)
    for curve in (exact_curve(truth, scores), binned):
        for threshold in [-1, *np.arange(17) / 16] if curve is binned else curve.thresholds:
            expected = brute(truth, scores, threshold)
            figures = curve.at(float(threshold))
            assert figures.keys() == expected.keys()
            for name, value in expected.items():
                assert figures[name] == (value if value is None else pytest.approx(value, abs=1e-12)), (name, threshold)


@given(scored())
def test_the_best_threshold_is_as_good_as_any(case):
    truth, scores = case
    for curve in (exact_curve(truth, scores), histogram_of(truth, scores).curve(1)):
        for name in CRITERIA:
            if not truth.any():
                with pytest.raises(ValueError, match="no threshold is best"):
                    curve.best(name)
                continue
            best = curve.best(name)
            highest = max(brute(truth, scores, threshold)[name] or 0.0 for threshold in [-1, *np.unique(scores)])
            assert best[name] == pytest.approx(highest, abs=1e-12)
            assert brute(truth, scores, best["threshold"])[name] == pytest.approx(highest, abs=1e-12)


@given(
    arrays(np.float32, (3, 50), elements=st.floats(0, 1, width=32)), arrays(np.uint8, 50, elements=st.integers(0, 2))
)
def test_the_bins_round_up_and_nothing_else(probabilities, truth):
    """What the bins say is what the very probabilities say at the bins' edges, and scikit-learn of the rounded ones."""
    histogram = ScoreHistogram.zeros(3)
    histogram.update(truth, probabilities)
    for index in range(3):
        curve, own = histogram.curve(index), truth == index
        for counts, chosen in ((curve.found, own), (curve.wrong, ~own)):
            exact = np.sort(probabilities[index][chosen].astype(np.float64))
            np.testing.assert_array_equal(counts, len(exact) - np.searchsorted(exact, curve.thresholds, side="right"))
        if own.any():
            rounded = EDGES[np.searchsorted(EDGES, probabilities[index].astype(np.float64))]
            expected = sk.average_precision_score(own, rounded)
            assert curve.average_precision == pytest.approx(expected, abs=1e-12)


def test_probabilities_at_and_beside_every_edge_are_in_the_right_bin():
    edges = EDGES.astype(np.float32)
    values = np.concatenate(
        [edges, *(np.nextafter(edges, np.float32(end)) for end in (0, 1)), np.float32([-0.0, 1e-45])]
    )
    histogram = ScoreHistogram.zeros(1)
    histogram.update(np.zeros(len(values), np.uint8), values[None])
    placed = np.searchsorted(EDGES, values.astype(np.float64))
    np.testing.assert_array_equal(histogram.counts[0, 1], np.bincount(placed, minlength=len(EDGES)))
    assert (np.diff(EDGES) > 0).all()
    assert np.isin(np.arange(4097) / 4096, EDGES).all()


@pytest.mark.parametrize(("logit", "prevalence"), [(-9, 0.02), (-14, 0.001), (-30, 0.02), (9, 0.98), (0, 0.5)])
def test_a_rare_class_with_tiny_probabilities(logit, prevalence):
    """Before the bins were even in the logit, the AUC at 2 % and -9 was 0.663 for scikit-learn's 0.921."""
    generator = np.random.default_rng(7)
    truth = generator.random(200_000) < prevalence
    logits = generator.normal(logit + 2 * truth, 1)
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    curve = histogram_of(truth, scores).curve(1)
    assert curve.roc_auc == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-4)
    assert curve.average_precision == pytest.approx(sk.average_precision_score(truth, scores), abs=2e-3)


@given(st.integers(0, 1000), st.integers(0, 40), st.permutations(range(3)))
def test_parts_in_any_order(seed, cut, order):
    generator = np.random.default_rng(seed)
    truth = generator.choice(np.array([0, 1, 2, 255], np.uint8), 40)
    probabilities = generator.dirichlet(np.ones(3), 40).T.astype(np.float32)
    whole = ScoreHistogram.zeros(3)
    whole.update(truth, probabilities)
    cuts = [slice(0, cut), slice(cut, (cut + 40) // 2), slice((cut + 40) // 2, 40)]
    parts = ScoreHistogram.zeros(3)
    for number in order:
        one = ScoreHistogram.zeros(3)
        one.update(truth[cuts[number]], probabilities[:, cuts[number]])
        parts = parts + one
    np.testing.assert_array_equal(parts.counts, whole.counts)
    assert whole.counts.sum() == 3 * (truth != 255).sum()


def test_a_million_pixels():
    """The figures of the original's statistics script, on as many pixels, against scikit-learn."""
    generator = np.random.default_rng(0)
    truth = generator.random(1_000_000) < 0.05
    scores = np.clip(generator.normal(0.3 + 0.3 * truth, 0.15), 0, 1).astype(np.float32)
    found = score_statistics(exact_curve(truth, scores))
    assert found["aupr"] == pytest.approx(sk.average_precision_score(truth, scores), abs=1e-9)
    assert found["auc"] == pytest.approx(sk.roc_auc_score(truth, scores), abs=1e-9)
    for name, beta in BETAS.items():
        guess = scores > found[name]["threshold"]
        assert found[name][name] == pytest.approx(sk.fbeta_score(truth, guess, beta=beta), abs=1e-12)
    guess = scores > found["iou"]["threshold"]
    assert found["iou"]["iou"] == pytest.approx(sk.jaccard_score(truth, guess), abs=1e-12)
    assert found["iou"]["accuracy"] == pytest.approx(sk.accuracy_score(truth, guess), abs=1e-12)
    binned = ScoreHistogram.zeros(2)
    binned.update(truth.astype(np.uint8), np.stack([1 - scores, scores]))
    rough = score_statistics(binned.curve(1))
    assert rough["aupr"] == pytest.approx(found["aupr"], abs=1e-3)
    assert rough["f1"]["f1"] == pytest.approx(found["f1"]["f1"], abs=1e-3)


def test_a_plateau_gives_its_middle():
    curve = histogram_of(np.array([False, True]), np.array([0.25, 0.75])).curve(1)
    # From 1/4 to the last edge below 3/4 all do equally well.
    assert curve.best("f1")["threshold"] == 2047 / 4096
    assert curve.best("f1")["f1"] == 1


def test_what_is_no_probability_is_refused_and_nothing_is_added():
    histogram = ScoreHistogram.zeros(2)
    for wrong in (np.nan, -0.5, 1.5):
        with pytest.raises(ValueError, match="probabilities are from 0 to 1"):
            histogram.update(np.array([0, 1], np.uint8), np.array([[0.5, 0.5], [0.5, wrong]], np.float32))
    assert not histogram.counts.any()
    # Of pixels without a label nobody asks.
    histogram.update(np.array([0, 255], np.uint8), np.array([[0.5, np.nan], [0.5, np.nan]], np.float32))
    assert histogram.counts.sum() == 2
    with pytest.raises(ValueError, match="do not fit"):
        histogram.update(np.zeros(3, np.uint8), np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="a histogram of scores is"):
        ScoreHistogram(np.zeros((2, 2, 4097), np.int64))
    with pytest.raises(ValueError, match="cannot be added"):
        ScoreHistogram.zeros(2) + ScoreHistogram.zeros(3)
    with pytest.raises(ValueError, match="one length"):
        exact_curve(np.array([True]), np.array([0.1, 0.2]))
    with pytest.raises(ValueError, match="finite"):
        exact_curve(np.array([True]), np.array([np.nan]))
    with pytest.raises(ValueError, match="below"):
        histogram.curve(0).at(-2)
