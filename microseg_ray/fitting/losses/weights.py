"""Class weights from pixel counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["class_weights_from_counts"]


def class_weights_from_counts(
    counts: NDArray[np.integer[Any]], kind: Literal["none", "inverse", "median", "inverse_percent"]
) -> NDArray[np.float64]:
    """Class weights from how many pixels each class has.

    `inverse` weighs a class by one over its share of all pixels. `median` is median-frequency balancing (Eigen and
    Fergus 2015): a class's frequency is its share of the pixels of those tiles that hold it, so it differs from `inverse`
    only where counts are given per tile. `inverse_percent` is `inverse` of shares that were rounded to hundredths of a
    percent first, as published for CCD images (see the docs); a class below .005 % counts as .01 %. `none` is 1 for every
    class.

    Args:
        counts: Labelled pixels, integers (K,), or (n, K) per tile or micrograph.
        kind: Which weights.

    Returns:
        float64 (K,), the mean of the present classes' weights is 1. A class without a pixel gets the weight 0 for
        `inverse` and `median`, without a warning: `np.flatnonzero(weights == 0)` are the absent classes.

    Raises:
        ValueError: Unknown kind, wrong shape or a negative count.

    Example:
        >>> class_weights_from_counts(np.array([30, 10, 0]), "inverse").tolist()
        [0.5, 1.5, 0.0]
        >>> ccd = np.array([1609347, 985674, 841035, 496004])
        >>> class_weights_from_counts(ccd, "inverse_percent").round(3).tolist()
        [0.513, 0.838, 0.982, 1.666]
    """
    table = np.atleast_2d(np.asarray(counts)).astype(np.float64)
    if table.ndim != 2 or table.shape[1] == 0 or (table < 0).any():
        raise ValueError(f"counts of shape {np.shape(counts)}: pixel counts are (K,) or (n, K) and not negative")
    pixels = table.sum(axis=0)
    present = pixels > 0
    match kind:
        case "none":
            return np.ones(table.shape[1])
        case "inverse":
            base = np.full(table.shape[1], pixels.sum())
        case "inverse_percent":
            # A class that rounds to nothing would weigh without end.
            shares = np.round(100 * pixels / max(pixels.sum(), 1), 2)
            base, pixels = np.full(table.shape[1], 100.0), np.where(present, np.maximum(shares, 0.01), 0)
        case "median":
            base = np.where(table > 0, table.sum(axis=1, keepdims=True), 0).sum(axis=0)
        case _:
            raise ValueError(f"class weights {kind!r} are unknown; known are none, inverse, median, inverse_percent")
    # The median itself is a common factor, which the normalisation takes out again.
    weights = np.zeros(len(pixels))
    np.divide(base, pixels, out=weights, where=present)
    if present.any():
        weights /= weights[present].mean()
    return weights
