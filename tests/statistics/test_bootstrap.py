"""Resampling of units: laws, and the intervals of a mean beside the t interval."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from microseg_ray.statistics.bootstrap import expanded_levels, percentile_interval, resampled_counts


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 99))
def test_each_resample_has_as_many_units(units, resamples, seed):
    drawn = np.concatenate(list(resampled_counts(units, resamples, seed)))
    assert drawn.shape == (resamples, units)
    assert (drawn >= 0).all()
    assert (drawn.sum(axis=1) == units).all()


def test_parts_are_those_of_one_draw(monkeypatch):
    whole = np.concatenate(list(resampled_counts(7, 100, 3)))
    monkeypatch.setattr("microseg_ray.statistics.bootstrap._ENTRIES", 70)
    parts = list(resampled_counts(7, 100, 3))
    assert len(parts) == 10
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize("units", [5, 10, 40])
def test_the_interval_of_a_mean_is_near_the_t_interval(units):
    """Hesterberg's correction is made for this case; the plain percentile interval is 20 % too narrow at n = 5."""
    values = stats.norm.ppf((np.arange(units) + 0.5) / units)
    means = np.concatenate([part @ values for part in resampled_counts(units, 20_000, 0)]) / units
    low, high = percentile_interval(means, units)
    half = stats.t.ppf(0.975, units - 1) * values.std(ddof=1) / np.sqrt(units)
    assert (high - low) / 2 == pytest.approx(half, rel=0.08)


def test_undefined_resamples_are_left_out():
    values = np.array([[1.0, np.nan], [2.0, np.nan], [np.nan, np.nan]])
    low, high = percentile_interval(values, 3)
    assert 1 <= low[0] < high[0] <= 2
    assert np.isnan(low[1])
    assert np.isnan(high[1])


def test_one_unit_has_no_interval():
    with pytest.raises(ValueError, match="two or more"):
        expanded_levels(1)
    with pytest.raises(ValueError, match="1 or more"):
        list(resampled_counts(0, 5, 0))
