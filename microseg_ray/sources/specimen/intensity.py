"""Which intensities become 0 and 1: one pair for a whole micrograph, never one per tile."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.settings import Scaling
    from microseg_ray.sources.base import Micrograph

__all__ = ["CHECKED_WINDOWS", "intensity_limits", "intensity_range", "intensity_sample"]

CHECKED_WINDOWS = 32
"""Windows of 128 x 128 px from which the intensities of a micrograph are compared with those of training."""
_WINDOW = 128
_WINDOWS = 256  # 256 windows of 128 x 128 px: 4 Mpx
_LIMITS = {
    "uint8": (0.0, 255.0),
    "int16": (-32768.0, 32767.0),
    "uint16": (0.0, 65535.0),
    "uint32": (0.0, 4294967295.0),
    "float32": (0.0, 1.0),
}


def intensity_limits(micrograph: Micrograph, scaling: Scaling) -> tuple[float, float]:
    """The intensities that become 0 and 1 for a model.

    Args:
        micrograph: An open micrograph.
        scaling: `dtype`: the range of the integer type, (0, 1) for floats. `fixed`: as given. `percentile`: percentiles
            over all channels of the micrograph, or of up to 256 windows of 128 x 128 px on a regular grid where it is
            larger than that; windows, and not single pixels, so that a compressed file is not decoded whole. An info bar
            does not count.

    Returns:
        (low, high) with low < high. A percentile of a micrograph of one intensity v gives (v, v + 1).

    Raises:
        InputError: The data are damaged.

    Example:
        >>> import tempfile, pathlib, numpy as np
        >>> from PIL import Image
        >>> from microseg_ray.settings import Scaling
        >>> from microseg_ray.sources import open_micrograph
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.png"
        ...     Image.fromarray(np.arange(101, dtype=np.uint8)[None]).save(path)
        ...     with open_micrograph(path) as micrograph:
        ...         intensity_limits(micrograph, Scaling(kind="percentile", low=1, high=99))
        (1.0, 99.0)
    """
    if scaling.kind == "dtype":
        return _LIMITS[micrograph.info.dtype]
    if scaling.low is None or scaling.high is None:
        raise ValueError(f"scaling.kind {scaling.kind} needs scaling.low and scaling.high")
    if scaling.kind == "fixed":
        return float(scaling.low), float(scaling.high)
    sample = _sampled(micrograph)
    low, high = (float(value) for value in np.percentile(sample, [scaling.low, scaling.high]))
    return (low, high) if low < high else (low, low + 1.0)


def intensity_range(micrograph: Micrograph) -> tuple[float, float]:
    """The lowest and the highest intensity of a micrograph's specimen, or of the windows that percentiles are taken from.

    Args:
        micrograph: An open micrograph.

    Raises:
        InputError: The data are damaged.
    """
    sample = _sampled(micrograph)
    return float(sample.min()), float(sample.max())


def intensity_sample(micrograph: Micrograph, windows: int) -> NDArray[Any]:
    """Intensities of a micrograph's specimen as a line, or of so many windows of it where it is larger than they are.

    Args:
        micrograph: An open micrograph.
        windows: Of 128 x 128 px, on a regular grid.

    Raises:
        InputError: The data are damaged.
    """
    boxes = _sample(micrograph.info.specimen.shape, windows)
    return np.concatenate([micrograph.read(box).ravel() for box in boxes])


def _sampled(micrograph: Micrograph) -> NDArray[Any]:
    return intensity_sample(micrograph, _WINDOWS)


def _sample(shape: tuple[int, int], windows: int) -> list[Box]:
    height, width = shape
    if height * width <= windows * _WINDOW**2:
        return [Box.of_shape(shape)]
    rows = min(max(1, round(sqrt(windows * height / width))), max(1, height // _WINDOW), windows)
    columns = min(max(1, windows // rows), max(1, width // _WINDOW))
    rows = min(max(1, windows // columns), max(1, height // _WINDOW))
    return [
        Box(y0, x0, min(y0 + _WINDOW, height), min(x0 + _WINDOW, width))
        for y0 in _starts(height, rows)
        for x0 in _starts(width, columns)
    ]


def _starts(length: int, count: int) -> list[int]:
    """Starts of `count` windows, each in the middle of its share of the axis."""
    return [
        max(0, min(length - _WINDOW, (2 * index + 1) * length // (2 * count) - _WINDOW // 2)) for index in range(count)
    ]
