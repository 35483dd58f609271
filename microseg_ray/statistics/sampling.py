r"""The sampling error of an area fraction in one field, from its two-point correlation.

A micrograph is a sample of the material. The variance of the area fraction that it shows is the mean of the covariance over
all pairs of its pixels,

    Var(p) = sum over lags h of M(h) C(h) / N^2,

with N measured pixels, M(h) pairs of them at lag h, and C(h) the probability that both pixels of such a pair are of the
class, minus p^2. For a field much larger than the correlation this is p (1 - p) A / N, with A the integral range (Lantuejoul,
J. Microscopy 161:387, 1991; Kanit et al., Int. J. Solids Struct. 40:3647, 2003): the field is worth N / A independent
pixels. Marchant et al. ("ImageRep", arXiv 2410.19568, 2024) estimate the same from one image.

The estimate of C(h) uses the mean of the same field, which lowers each C(h) by Var(p); the sum is divided by 1 - w, with w the
share of all pairs in it, which corrects this. The sum ends at the smallest radius that is three times sqrt(A / pi), with A from
the sum up to there (the self-consistent window of Sokal for Markov chains, in two dimensions): farther pairs add noise only.
The degrees of freedom are 2 / w, those of a truncated spectral estimate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.statistics.bootstrap import LEVEL

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FEW_FEATURES", "Interval", "SamplingError", "bounded_interval", "independent_features", "sampling_error"]

_WINDOW = 3.0
"""The sum ends where its radius is this many times the radius of a disc of the area A."""

FEW_FEATURES = 4.0
"""Fewer independent features than this: the interval is too narrow (docs/results/intervals.md)."""


@dataclass(frozen=True)
class SamplingError:
    """The area fraction of one field with its sampling error.

    Attributes:
        fraction: p.
        variance: Of p; nan where it is not known.
        degrees_of_freedom: Of the variance.
        integral_range: A in pixels: the field is worth N / A independent pixels.
        radius: Where the sum ended, in pixels.
        reason: Why there is no variance, or why it is not to be trusted; empty otherwise.
    """

    fraction: float
    variance: float
    degrees_of_freedom: float
    integral_range: float
    radius: float
    reason: str = ""


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a fraction."""

    low: float
    high: float


def sampling_error(
    values: NDArray[Any], measured: NDArray[Any], side: int = 1, spacing: tuple[float, float] = (1.0, 1.0)
) -> SamplingError:
    """The area fraction of a field, and its variance as a sample of the material.

    Args:
        values: (by, bx) pixels of the class in each block; any weights from 0 to `measured`.
        measured: (by, bx) measured pixels of each block.
        side: Of a block in pixels.
        spacing: (y, x) size of a pixel, in any unit, for anisotropic pixels.

    Example:
        >>> field = np.random.default_rng(0).random((200, 200)) < 0.3
        >>> found = sampling_error(field, np.ones_like(field))
        >>> round(found.fraction, 2), round(found.integral_range, 1), round(found.variance / (0.21 / 40_000), 1)
        (0.3, 1.0, 1.0)
        >>> sampling_error(np.zeros((5, 5)), np.ones((5, 5))).reason
        'no pixel of the class: its correlation, and with it the sampling error, is not known'
    """
    total = float(measured.sum())
    if not total:
        return SamplingError(math.nan, math.nan, math.nan, math.nan, math.nan, "nothing was measured")
    fraction = float(values.sum()) / total
    if not 0 < fraction < 1:
        what = "no pixel of the class" if fraction <= 0 else "every pixel is of the class"
        reason = f"{what}: its correlation, and with it the sampling error, is not known"
        return SamplingError(fraction, math.nan, math.nan, math.nan, math.nan, reason)
    radii, covariances, pairs = _radial(values - fraction * measured, measured.astype(np.float64), spacing)
    share = np.cumsum(pairs) / total**2
    # At most a quarter of the pairs: beyond that the correction by 1 - w divides by noise.
    last = max(1, int(np.searchsorted(share, 0.25)))
    variances = (np.cumsum(covariances) / total**2 / np.maximum(1 - share, 0.5))[:last]
    ranges = variances * total / (fraction * (1 - fraction))
    reach = radii[:last] * side
    enough = np.flatnonzero(reach >= _WINDOW * np.sqrt(np.maximum(ranges, 0) / math.pi))
    place = int(enough[0]) if len(enough) else last - 1
    variance = float(variances[place])
    reason = "" if len(enough) else "the correlation is as long as the field: the variance is too small"
    if variance <= 0:
        return SamplingError(
            fraction, math.nan, math.nan, math.nan, float(reach[place]), "the covariance sums to nothing positive"
        )
    features = independent_features(fraction, variance) or 0.0
    if not reason and features < FEW_FEATURES:
        reason = f"{features:.1f} independent features of the class or of the rest: the interval is too narrow below 4"
    return SamplingError(fraction, variance, float(2 / share[place]), float(ranges[place]), float(reach[place]), reason)


def independent_features(fraction: float, variance: float) -> float | None:
    """Of the class, or of the rest where that has fewer: the independent pixels p (1 - p) / Var(p), times p or 1 - p.

    Args:
        fraction: p.
        variance: Of it.

    Returns:
        None where the variance is not known.

    Example:
        >>> independent_features(0.1, 0.1 * 0.9 / 100)  # worth 100 independent pixels, of which 10 are of the class
        10.0
    """
    if not (variance > 0 and 0 < fraction < 1):
        return None
    return fraction * (1 - fraction) / variance * min(fraction, 1 - fraction)


def bounded_interval(
    fraction: float, variance: float, degrees_of_freedom: float, level: float = LEVEL
) -> Interval | None:
    """Wilson's interval with the field's effective number of pixels and Student's t in place of the normal quantile.

    It solves (p - P)^2 = t^2 P (1 - P) / n with n = p (1 - p) / Var(p) for P, so it stays within 0 and 1 and is asymmetric
    for a rare class (Wilson, J. Am. Stat. Assoc. 22:209, 1927). Fractions of 0 or 1 with a variance, and those outside, get the
    symmetric interval, cut at 0 and 1.

    Returns:
        None where the variance is not known.

    Example:
        >>> found = bounded_interval(0.1, 0.1 * 0.9 / 100, 1e9)
        >>> round(found.low, 4), round(found.high, 4)
        (0.0552, 0.1744)
    """
    if not (math.isfinite(variance) and variance >= 0 and degrees_of_freedom > 0):
        return None
    from scipy.special import stdtrit

    quantile = float(stdtrit(max(degrees_of_freedom, 1.0), (1 + level) / 2))
    if not 0 < fraction < 1:
        half = quantile * math.sqrt(variance)
        return Interval(min(1.0, max(0.0, fraction - half)), max(0.0, min(1.0, fraction + half)))
    scale = quantile**2 * variance / (fraction * (1 - fraction))
    middle = (fraction + scale / 2) / (1 + scale)
    half = math.sqrt(scale * fraction * (1 - fraction) + scale**2 / 4) / (1 + scale)
    return Interval(max(0.0, middle - half), min(1.0, middle + half))


def _radial(
    residuals: NDArray[np.float64], weights: NDArray[np.float64], spacing: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Sums of products at each distance: radii in blocks, products of residuals, products of weights.

    The products at all lags are correlations, computed by the Fourier transform of the field with zeros around it, so that no
    pair goes around the border.
    """
    from scipy import fft

    shape = residuals.shape
    padded = [fft.next_fast_len(2 * length - 1, real=True) for length in shape]
    products = []
    for field in (residuals, weights):
        spectrum = fft.rfft2(field, padded)
        products.append(fft.irfft2(spectrum.real**2 + spectrum.imag**2, padded))
    lags = [np.minimum(np.arange(length), length - np.arange(length)) for length in padded]
    unit = math.sqrt(spacing[0] * spacing[1])
    distance = np.hypot(lags[0][:, None] * (spacing[0] / unit), lags[1][None] * (spacing[1] / unit))
    inside = (lags[0] < shape[0])[:, None] & (lags[1] < shape[1])[None]
    # Pairs that do not exist are rounding noise of the transform.
    rings = np.rint(distance[inside]).astype(np.intp)
    sums = [np.bincount(rings, product[inside]).astype(np.float64) for product in products]
    return np.arange(len(sums[0]), dtype=np.float64), sums[0], sums[1]
