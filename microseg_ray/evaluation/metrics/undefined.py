"""Ratios that may be undefined: nan in arrays, None in documents."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["none_if_undefined", "ratio"]


def ratio(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    """`part / whole`; nan where the whole is 0.

    Example:
        >>> ratio(np.array([1, 0]), np.array([2, 0])).tolist()
        [0.5, nan]
    """
    found = np.full(len(whole), np.nan)
    np.divide(part, whole, out=found, where=whole > 0)
    return found


def none_if_undefined(value: float) -> float | None:
    """A Python float, which JSON and CSV can hold; None for nan.

    Example:
        >>> none_if_undefined(np.float32("nan")), none_if_undefined(np.float64(0.5))
        (None, 0.5)
    """
    return None if math.isnan(value) else float(value)
