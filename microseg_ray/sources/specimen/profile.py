"""The distribution of the intensities that a model is trained on or is given, so that the two can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from microseg_ray.settings import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box

__all__ = ["PERCENTILES", "IntensityProfile", "IntensitySample", "IntensitySampler", "pooled_profile"]

PERCENTILES = (0.1, 1.0, 5.0, 25.0, 50.0, 75.0, 95.0, 99.0, 99.9)
_GRID = np.linspace(0, 1, 1001)
_KEPT = 1 << 18
"""Pixels of a micrograph that its quantiles are taken from, at most."""


class IntensityProfile(Frozen):
    """Distribution of intensities after scaling, where 0 and 1 are the limits of the scaling.

    `dtype`: numpy name of the files' type. `bits`: highest bit that is set in any pixel, counted from 1; 0 for floats.
    `percentiles`: at 0.1, 1, 5, 25, 50, 75, 95, 99 and 99.9 %. `pixels`: of the specimens it was measured on.

    Example:
        >>> IntensityProfile(dtype="uint16", bits=12, percentiles=(0,) * 8 + (0.06,), pixels=10**6).percentiles[-1]
        0.06
    """

    dtype: str
    bits: int = Field(ge=0, le=64)
    percentiles: tuple[float, ...] = Field(min_length=len(PERCENTILES), max_length=len(PERCENTILES))
    pixels: int = Field(ge=0)

    def sample(self) -> IntensitySample:
        """The profile as a sample again, linear between its percentiles: for pooling with others."""
        quantiles = np.interp(_GRID, np.array(PERCENTILES) / 100, self.percentiles)
        return IntensitySample(self.dtype, self.bits, self.pixels, quantiles)


@dataclass(frozen=True)
class IntensitySample:
    """Intensities of one micrograph after scaling.

    Attributes:
        dtype: numpy name of its type.
        bits: Highest bit that is set in any pixel, counted from 1; 0 for floats.
        pixels: Of its specimen.
        quantiles: (1001,) float64, from the least to the largest in steps of 0.1 %.
    """

    dtype: str
    bits: int
    pixels: int
    quantiles: NDArray[np.float64]


class IntensitySampler:
    """Samples a micrograph from the regions that are read for something else.

    Pixels on a regular grid are kept, 262,144 at most, so that the memory does not grow with the micrograph; the highest
    bit is that of all pixels.

    Args:
        shape: (height, width) of the specimen.
        limits: Intensities that are scaled to 0 and 1.

    Example:
        >>> from microseg_ray.geometry import Box
        >>> sampler = IntensitySampler((2, 100), (0.0, 255.0))
        >>> sampler.add(Box(0, 0, 2, 50), np.full((1, 2, 50), 51, np.uint8))
        >>> sampler.add(Box(0, 50, 2, 100), np.full((1, 2, 50), 102, np.uint8))
        >>> sample = sampler.sample()
        >>> sample.bits, sample.quantiles[[0, -1]].tolist()
        (7, [0.2, 0.4])
    """

    def __init__(self, shape: tuple[int, int], limits: tuple[float, float]) -> None:
        self._pixels = shape[0] * shape[1]
        self._limits = limits
        self._step = max(1, ceil(sqrt(self._pixels / _KEPT)))
        self._kept: list[NDArray[Any]] = []
        self._top = 0
        self._dtype = np.dtype(np.uint8)

    def add(self, box: Box, pixels: NDArray[Any]) -> None:
        """Add one region (channel, y, x); no pixel may be added twice."""
        self._dtype = pixels.dtype
        rows, columns = (slice(-start % self._step, None, self._step) for start in (box.y0, box.x0))
        self._kept.append(pixels[:, rows, columns].flatten())
        if pixels.dtype.kind in "bui" and pixels.size:
            self._top = max(self._top, int(pixels.max()))

    def sample(self) -> IntensitySample:
        """The sample of what was added."""
        low, high = self._limits
        values = np.concatenate(self._kept).astype(np.float64) if self._kept else np.zeros(0)
        scaled = (values - low) / (high - low)
        quantiles = np.quantile(scaled, _GRID) if scaled.size else np.zeros(len(_GRID))
        return IntensitySample(str(self._dtype), self._top.bit_length(), self._pixels, quantiles)


def pooled_profile(samples: Sequence[IntensitySample]) -> IntensityProfile | None:
    """The profile of several micrographs together, each weighted by its pixels; None where there is none.

    Example:
        >>> one = IntensitySample("uint8", 8, 300, np.zeros(1001))
        >>> other = IntensitySample("uint8", 7, 100, np.ones(1001))
        >>> pooled = pooled_profile([one, other])
        >>> pooled.bits, [round(value, 2) for value in pooled.percentiles[3:]]
        (8, [0.0, 0.0, 0.0, 1.0, 1.0, 1.0])
    """
    samples = [sample for sample in samples if sample.pixels]
    if not samples:
        return None
    values = np.concatenate([sample.quantiles for sample in samples])
    weights = np.repeat([sample.pixels / len(_GRID) for sample in samples], len(_GRID))
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    places = np.searchsorted(below / below[-1], np.array(PERCENTILES) / 100 - 1e-12)
    return IntensityProfile(
        dtype=str(np.result_type(*{sample.dtype for sample in samples})),
        bits=max(sample.bits for sample in samples),
        percentiles=tuple(float(values[order][min(place, len(values) - 1)]) for place in places),
        pixels=sum(sample.pixels for sample in samples),
    )
