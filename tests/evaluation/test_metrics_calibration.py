"""Reliability is scikit-learn's calibration curve; a fitted temperature is the one that was put in."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.calibration import calibration_curve

from microseg_ray.evaluation.metrics import PixelSample, Reliability, fit_temperature
from microseg_ray.evaluation.metrics.calibration import tempered


def drawn(seed, pixels=200, classes=3):
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(classes), pixels).T.astype(np.float32)
    truth = generator.integers(0, classes, pixels).astype(np.uint8)
    return truth, probabilities, probabilities.argmax(axis=0).astype(np.uint8)


@given(st.integers(0, 10_000), st.sampled_from([2, 5, 15]))
def test_each_class_is_scikit_learns_calibration_curve(seed, bins):
    truth, probabilities, guess = drawn(seed)
    reliability = Reliability.zeros(3, bins)
    reliability.update(truth, probabilities, guess)
    for index in range(3):
        observed, mean = calibration_curve(truth == index, probabilities[index], n_bins=bins)
        held = reliability.counts[index + 1, 0] > 0
        np.testing.assert_allclose(reliability.observed(index + 1)[held], observed, atol=1e-12)
        np.testing.assert_allclose(reliability.confidence(index + 1)[held], mean, atol=1e-6)


@given(st.integers(0, 10_000))
def test_expected_calibration_error_by_its_definition(seed):
    truth, probabilities, guess = drawn(seed)
    reliability = Reliability.zeros(3)
    reliability.update(truth, probabilities, guess)
    confidence, right = probabilities.max(axis=0).astype(np.float64), guess == truth
    error = 0.0
    for low, high in zip(np.linspace(0, 1, 16)[:-1], np.linspace(0, 1, 16)[1:], strict=True):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert reliability.expected_error(0) == pytest.approx(error, abs=1e-6)


@given(st.integers(0, 1000), st.integers(0, 200))
def test_parts_in_any_order_and_without_labels(seed, cut):
    truth, probabilities, guess = drawn(seed)
    truth[::7] = 255
    whole, one, two = (Reliability.zeros(3) for _ in range(3))
    whole.update(truth, probabilities, guess)
    one.update(truth[:cut], probabilities[:, :cut], guess[:cut])
    two.update(truth[cut:], probabilities[:, cut:], guess[cut:])
    np.testing.assert_array_equal((two + one).counts, whole.counts)
    assert whole.counts[0, 0].sum() == (truth != 255).sum()
    assert np.isnan(Reliability.zeros(3).expected_error(0))


@pytest.mark.parametrize("wanted", [0.4, 1.0, 2.5])
def test_the_temperature_that_was_put_in_comes_out(wanted):
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 2, (40_000, 4))
    chances = softmax(logits, axis=1)
    truth = (generator.random((40_000, 1)) > chances.cumsum(axis=1)).sum(axis=1).clip(0, 3).astype(np.uint8)
    found = fit_temperature(logits * wanted, truth)
    assert found.value == pytest.approx(wanted, rel=0.03)
    assert found.nll_after <= found.nll_before
    # No other temperature does better.
    for other in np.geomspace(0.1, 10, 15):
        logs = logits * wanted / other
        logs -= np.log(np.exp(logs).sum(axis=1, keepdims=True))
        assert -logs[np.arange(len(truth)), truth].mean() >= found.nll_after - 1e-9
    with pytest.raises(ValueError, match="do not fit"):
        fit_temperature(logits[:0], truth[:0])


@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_tempered_is_the_softmax_of_divided_logits_and_keeps_the_mask(seed, temperature):
    logits = np.random.default_rng(seed).normal(0, 3, (4, 30))
    given = softmax(logits, axis=0).astype(np.float32)
    warm = tempered(given, temperature)
    np.testing.assert_allclose(warm, softmax(logits / temperature, axis=0), atol=1e-5)
    np.testing.assert_array_equal(warm.argmax(axis=0), given.argmax(axis=0))


def test_a_sample_is_bounded_repeatable_and_labelled():
    truth, probabilities, _ = drawn(3)
    truth[:50] = 255
    samples = []
    for _ in range(2):
        sample = PixelSample(3, quota=20, seed=5)
        sample.add(truth, probabilities)
        sample.add(truth[:60], probabilities[:, :60])
        samples.append(sample)
    assert len(samples[0].labels) == 30
    assert samples[0].logs.shape == (30, 3)
    assert (samples[0].labels < 3).all()
    np.testing.assert_array_equal(samples[0].logs, samples[1].logs)
    np.testing.assert_allclose(np.exp(samples[0].logs).sum(axis=1), 1, atol=1e-5)
    assert PixelSample(3, 5).logs.shape == (0, 3)
