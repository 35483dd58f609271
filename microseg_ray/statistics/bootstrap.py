"""Bootstrap intervals over independent units: micrographs, or groups of them.

Units are drawn with replacement, never pixels: neighbouring pixels are correlated, and an interval that took them for
independent would be many times too narrow. The interval is the expanded percentile interval of Hesterberg, "What teachers
should know about the bootstrap", The American Statistician 69:371 (2015): the plain percentile interval is too narrow for
few units by a factor near sqrt((n - 1) / n) and for using the normal distribution in place of t; the expanded one takes
wider percentiles that correct both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["LEVEL", "MIN_UNITS", "expanded_levels", "percentile_interval", "resampled_counts"]

LEVEL = 0.95
"""Nominal coverage of all intervals."""

MIN_UNITS = 2
"""With one unit nothing is known of the spread between units."""

_ENTRIES = 1 << 20
"""Counts that are in memory at once."""


def resampled_counts(units: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """How often each unit is in each resample, in parts of bounded memory.

    Args:
        units: Number of units n, 1 or more.
        resamples: Number of resamples B.
        seed: The same seed gives the same resamples.

    Yields:
        (b, n) int64 for the next b resamples; each row has the sum n.

    Raises:
        ValueError: No unit, or no resample.

    Example:
        >>> [part.sum(axis=1).tolist() for part in resampled_counts(3, 2, seed=0)]
        [[3, 3]]
    """
    if units < 1 or resamples < 1:
        raise ValueError(f"{resamples} resamples of {units} units: both must be 1 or more")
    generator = np.random.default_rng(seed)
    at_once = max(1, _ENTRIES // units)
    for start in range(0, resamples, at_once):
        yield generator.multinomial(units, np.full(units, 1 / units), size=min(at_once, resamples - start))


def expanded_levels(units: int, level: float = LEVEL) -> tuple[float, float]:
    """The percentiles, from 0 to 1, that bound an interval from `units` units (Hesterberg 2015, section 5.3).

    Raises:
        ValueError: Fewer than two units.

    Example:
        >>> [round(value, 4) for value in expanded_levels(10)], [round(value, 4) for value in expanded_levels(10000)]
        ([0.0086, 0.9914], [0.025, 0.975])
    """
    if units < MIN_UNITS:
        raise ValueError(f"{units} units: an interval takes two or more")
    from scipy.special import ndtr, stdtrit

    quantile = float(stdtrit(units - 1, (1 + level) / 2))
    tail = float(ndtr(-math.sqrt(units / (units - 1)) * quantile))
    return tail, 1 - tail


def percentile_interval(
    values: NDArray[np.floating[Any]], units: int, level: float = LEVEL
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Expanded percentile interval of resampled figures.

    Args:
        values: (B, ...) a figure in each resample; nan where it is not defined there, which is left out.
        units: Number of units n that were resampled, two or more.
        level: Nominal coverage.

    Returns:
        Lower and upper ends, each of the shape of one figure; nan where the figure is defined in no resample.

    Example:
        >>> low, high = percentile_interval(np.arange(1001.0), units=1000)
        >>> round(float(low)), round(float(high))
        (25, 975)
    """
    ends = expanded_levels(units, level)
    flat = values.reshape(len(values), -1)
    found = np.full((2, flat.shape[1]), np.nan)
    for column in range(flat.shape[1]):
        defined = flat[:, column][~np.isnan(flat[:, column])]
        if len(defined):
            found[:, column] = np.quantile(defined, ends)
    return found[0].reshape(values.shape[1:]), found[1].reshape(values.shape[1:])
