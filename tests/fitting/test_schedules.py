"""Schedules against their formulas, and plateaus against epochs counted by hand."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from microseg_ray.fitting.schedules import Progress, Waiting, learning_rate
from microseg_ray.settings import TrainSettings


def chosen(epochs=10, early=None, **optimizer) -> TrainSettings:
    return TrainSettings(tiles="t", output="o", epochs=epochs, optimizer=optimizer, early_stopping=early)


@pytest.mark.parametrize("schedule", ["constant", "poly", "cosine", "plateau"])
def test_the_rate_rises_then_falls(schedule):
    settings = chosen(learning_rate=0.1, schedule=schedule, warmup=0.1)
    rates = [learning_rate(settings.optimizer, step, 100) for step in range(100)]
    assert max(rates) == pytest.approx(0.1)
    assert rates[:10] == sorted(rates[:10])
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(rates[9:]))
    assert all(rate > 0 and math.isfinite(rate) for rate in rates)


def test_poly_is_deeplabs():
    """7e-3 to 1e-6 over 10,000 steps with power .9."""
    settings = chosen(learning_rate=7e-3, end_rate=1e-6, schedule="poly", power=0.9, warmup=0)
    assert learning_rate(settings.optimizer, 0, 10_000) == pytest.approx(7e-3)
    assert learning_rate(settings.optimizer, 5000, 10_000) == pytest.approx((7e-3 - 1e-6) * 0.5**0.9 + 1e-6)
    assert learning_rate(settings.optimizer, 10_000, 10_000) == pytest.approx(1e-6)


def test_step_is_piecewise():
    """0.1 * batch / 128, times .1 after the epochs 100, 150 and 200."""
    settings = chosen(
        250, name="sgd", learning_rate=0.1 * 16 / 128, schedule="step", milestones=[100, 150, 200], warmup=0
    )
    steps_per_epoch = 7
    for epoch, factor in (
        (0, 1),
        (99, 1),
        (100, 0.1),
        (149, 0.1),
        (150, 0.01),
        (199, 0.01),
        (200, 0.001),
        (249, 0.001),
    ):
        for step in (epoch * steps_per_epoch, epoch * steps_per_epoch + 6):
            assert learning_rate(settings.optimizer, step, 250 * steps_per_epoch, 250) == pytest.approx(0.0125 * factor)


def replay(settings, scores):
    """(rates of the epochs, epochs after which the best weights came back, reason of the end) of scripted scores."""
    progress, rates, restored = Progress(settings.optimizer, settings.early_stopping), [], []
    for epoch, score in enumerate(scores, 1):
        rates.append(learning_rate(settings.optimizer, epoch, len(scores) + 1, dropped=progress.dropped))
        if progress.update(score):
            restored.append(epoch)
        if progress.stopped:
            break
    return rates, restored, progress.stopped


def test_reduce_on_plateau_as_the_ccd_recipe_counts():
    """Factor .1, patience 2, min_delta .01, min_lr 1e-5; the loss selects, so scores are negative losses."""
    plateau = {"factor": 0.1, "patience": 2, "min_delta": 0.01, "min_rate": 1e-5}
    settings = chosen(learning_rate=1e-2, schedule="plateau", warmup=0, plateau=plateau)
    losses = [1.0, 0.5, 0.495, 0.494, 0.492, 0.488, 0.3, 0.31, 0.32, 0.33, 0.34, 0.35, 0.36]
    rates, restored, stopped = replay(settings, [-loss for loss in losses])
    # Bad are 3 and 4; 5; then, after two that are better by more than .01, 8 and 9, 10 and 11, 12 and 13.
    assert rates == pytest.approx([1e-2] * 4 + [1e-3] * 5 + [1e-4] * 2 + [1e-5] * 2)
    assert (restored, stopped) == ([], "")


def test_patience_restore_and_giveup_as_defectsegnet_counts():
    """Patience 3, decay .8, giveup 2: the best comes back after each third bad epoch; the sixth since the best ends it."""
    plateau = {"factor": 0.8, "patience": 3, "restore_best": True, "giveup": 2}
    settings = chosen(name="adam", learning_rate=0.001, schedule="plateau", warmup=0, plateau=plateau)
    scores = [0.1, 0.3, 0.2, 0.2, 0.3, 0.35, 0.1, 0.1, 0.1, 0.2, 0.2, 0.35, 0.9]
    rates, restored, stopped = replay(settings, scores)
    assert rates == pytest.approx([1e-3] * 5 + [8e-4] * 4 + [6.4e-4] * 3)
    assert restored == [5, 9, 12]
    assert stopped.startswith("no better score in 6 epochs")


def test_early_stopping_counts_from_the_best_epoch():
    settings = chosen(early={"patience": 5, "min_delta": 0.01})
    rates, _, stopped = replay(settings, [0.1, 0.5, 0.505, 0.4, 0.4, 0.3, 0.51, 0.9])
    assert len(rates) == 7, "epoch 2 is the best; 3 to 7 are no better by more than .01"
    assert stopped == "no better score in 5 epochs (early_stopping)"


@given(st.lists(st.sampled_from([-math.inf, 0.1, 0.2, 0.3]), max_size=30), st.integers(1, 4), st.integers(0, 30))
def test_waiting_equals_a_look_back_and_survives_a_stop(scores, patience, stop):
    settings = chosen(schedule="plateau", plateau={"patience": patience, "restore_best": True})
    whole, first = (
        Progress(settings.optimizer, settings.early_stopping),
        Progress(settings.optimizer, settings.early_stopping),
    )
    said = [whole.update(score) for score in scores]
    head = [first.update(score) for score in scores[:stop]]
    second = Progress(settings.optimizer, settings.early_stopping)
    second.restore(first.state())
    assert head + [second.update(score) for score in scores[stop:]] == said
    assert second.state() == whole.state()
    # Naive: look back to the last epoch that was better than all before it.
    for epoch in range(len(scores)):
        better = [i for i in range(epoch + 1) if scores[i] > max(scores[:i], default=-math.inf)]
        bad = epoch - better[-1] if better else epoch + 1
        assert said[epoch] == (bad > 0 and bad % patience == 0)


def test_impossible_schedules_are_refused():
    for wrong in (
        {"schedule": "step"},
        {"schedule": "step", "milestones": [5, 3]},
        {"learning_rate": 0.1, "end_rate": 0.2},
        {"betas": [0.9, 1.0]},
    ):
        with pytest.raises(ValidationError, match=r"optimizer\."):
            chosen(**wrong)
    assert Waiting().update(0.0, 0.0, 1) is False
