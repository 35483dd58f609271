"""Intensities of training and of use, compared before anything is computed.

A model knows intensities as they were after scaling in training. The same micrograph saved with another bit depth, or as
floats in another unit, is scaled to other numbers, and the model answers with confidence and wrongly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from microseg_ray.settings import Frozen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.settings import Scaling

__all__ = ["Intensities", "intensity_note", "intensity_objection", "rescaled_limits", "used_bits"]

_PERCENTILES = (1.0, 50.0, 99.0)
_DEPTHS = (8, 12, 16, 32)
_APART = 8.0
"""Times by which the full scale may differ before it is a certain mismatch: 12 bits of 16 are 16 times, 14 bits are 4."""
_SLACK = 0.1
"""By which floats may leave 0 to 1 before it is a certain mismatch: a dark frame taken away leaves values just below 0."""
_ROUNDING = 1e-3


class Intensities(Frozen):
    """The intensities that a model was trained on.

    `dtype` is the type of the images, `bits` how many bits their largest value takes (8, 12, 16 or 32; 0 for floats), and
    `percentiles` are the 1st, 50th and 99th after scaling.

    Example:
        >>> Intensities(dtype="uint16", bits=12, percentiles=(0.01, 0.03, 0.06)).bits
        12
    """

    dtype: str
    bits: int = Field(ge=0, le=32)
    percentiles: tuple[float, float, float]

    @classmethod
    def of(cls, dtype: str, largest: float, scaled: NDArray[np.floating[Any]]) -> Intensities:
        """Describe a sample of scaled intensities.

        Args:
            dtype: Of the images.
            largest: The largest value before scaling.
            scaled: The sample, after scaling.
        """
        low, middle, high = (round(float(value), 6) for value in np.percentile(scaled, _PERCENTILES))
        return cls(dtype=dtype, bits=used_bits(dtype, largest), percentiles=(low, middle, high))


def used_bits(dtype: str, largest: float) -> int:
    """Bits that a camera's data take, of 8, 12, 16 and 32; 0 for floats.

    Example:
        >>> used_bits("uint16", 3977), used_bits("uint16", 200), used_bits("uint8", 20), used_bits("float32", 255.0)
        (12, 8, 8, 0)
    """
    if np.dtype(dtype).kind == "f":
        return 0
    return next(bits for bits in _DEPTHS if largest < 2**bits)


def intensity_objection(scaling: Scaling, trained: Intensities | None, dtype: str, sample: NDArray[Any]) -> str:
    """Why these intensities are certainly not those that the model knows; "" where they may be.

    Only `scaling.kind: dtype` is judged: it takes the range of the type for that of the data. `fixed` states intensities,
    `percentile` takes them from each micrograph.

    Args:
        scaling: The model's.
        trained: From the model's card; None where the card does not say.
        dtype: Of the micrograph.
        sample: Its intensities, before scaling.

    Example:
        >>> from microseg_ray.settings import Scaling
        >>> intensity_objection(Scaling(), None, "float32", np.array([0.0, 254.5]))
        'its float intensities go from 0 to 254.5, and the model takes floats from 0 to 1'
        >>> trained = Intensities(dtype="uint8", bits=8, percentiles=(0.1, 0.5, 0.9))
        >>> intensity_objection(Scaling(), trained, "uint16", np.array([90, 3977]))
        'its data take 12 of the 16 bits of uint16, and the model was trained on 8 of the 8 bits of uint8'
        >>> intensity_objection(Scaling(), trained, "uint16", np.array([90, 60000]))
        ''
    """
    if scaling.kind != "dtype" or not sample.size:
        return ""
    low, high = float(np.nanmin(sample)), float(np.nanmax(sample))
    if np.dtype(dtype).kind == "f":
        if low >= -_SLACK and high <= 1 + _SLACK:
            return ""
        return f"its float intensities go from {low:g} to {high:g}, and the model takes floats from 0 to 1"
    if trained is None or trained.bits == 0:
        return ""
    bits = used_bits(dtype, high)
    here, there = _share(dtype, bits), _share(trained.dtype, trained.bits)
    if max(here, there) < _APART * min(here, there):
        return ""
    return (
        f"its data take {bits} of the {_size(dtype)} bits of {dtype}, and the model was trained on {trained.bits} of the "
        f"{_size(trained.dtype)} bits of {trained.dtype}"
    )


def intensity_note(trained: Intensities | None, limits: tuple[float, float], sample: NDArray[Any]) -> str:
    """What is to be said of intensities that lie elsewhere than in training; "" where they do not.

    Args:
        trained: From the model's card; None where the card does not say.
        limits: Intensities that become 0 and 1.
        sample: The micrograph's intensities, before scaling.

    Example:
        >>> trained = Intensities(dtype="uint8", bits=8, percentiles=(0.1, 0.5, 0.9))
        >>> intensity_note(trained, (0.0, 255.0), np.array([5, 10, 15]))
        'its median intensity is 0.039 after scaling, outside the 0.1 to 0.9 that the model was trained on'
    """
    if not sample.size:
        return ""
    low, high = float(np.nanmin(sample)), float(np.nanmax(sample))
    if sample.dtype.kind == "f" and limits == (0.0, 1.0) and not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        return f"its float intensities go from {low:g} to {high:g}, and the model takes floats from 0 to 1"
    if trained is None:
        return ""
    middle = (float(np.nanmedian(sample)) - limits[0]) / (limits[1] - limits[0])
    low, _, high = trained.percentiles
    if low <= middle <= high:
        return ""
    return (
        f"its median intensity is {middle:.2g} after scaling, outside the {low:.2g} to {high:.2g} that the model was "
        "trained on"
    )


def rescaled_limits(trained: Intensities | None, sample: NDArray[Any]) -> tuple[float, float]:
    """Limits at which the data take the share of the scale that they took in training.

    Args:
        trained: From the model's card; None: the full scale.
        sample: Its intensities, before scaling.

    Example:
        >>> trained = Intensities(dtype="uint8", bits=8, percentiles=(0.1, 0.5, 0.9))
        >>> rescaled_limits(trained, np.array([90, 3977])), rescaled_limits(None, np.array([0.0, 254.5]))
        ((0.0, 4095.0), (0.0, 255.0))
    """
    high = float(np.nanmax(sample))
    bits = next((bits for bits in _DEPTHS if high < 2**bits), _DEPTHS[-1])
    share = 1.0 if trained is None or trained.bits == 0 else _share(trained.dtype, trained.bits)
    return 0.0, float(2**bits - 1) / share


def _size(dtype: str) -> int:
    return np.dtype(dtype).itemsize * 8


def _share(dtype: str, bits: int) -> float:
    """Share of the type's range that data of so many bits take."""
    return float(2**bits - 1) / float(2 ** _size(dtype) - 1)
