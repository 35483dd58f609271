"""The drawing surface of scenes: bands of rows with absolute positions.

A micrograph is drawn in bands of rows, so that memory does not grow with its height. Whatever crosses a band is a function
of the absolute pixel position; only noise, which is uncorrelated, is drawn per band.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from microseg_ray.settings import ClassSpec, default_color

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.settings import ImagingSettings

__all__ = [
    "Canvas",
    "Doubles",
    "Floats",
    "Mask",
    "Scene",
    "named_classes",
    "random_stream",
    "scatter",
    "square",
    "touching",
]

Mask = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Canvas:
    """A band of rows with its margin.

    Attributes:
        y0: Absolute position of its first row; negative in a margin.
        x0: Absolute position of its first column.
        mask: Class of each pixel so far, uint8 (y, x).
        level: Brightness of each pixel so far, float32 (y, x); 1 is the matrix in even light.
    """

    y0: int
    x0: int
    mask: Mask
    level: Floats


@dataclass(frozen=True, eq=False)
class Scene:
    """A specimen before imaging.

    Attributes:
        classes: Names and colours, by class index.
        pixel_size_um: (y, x) in micrometres.
        draw: Draws classes and levels on a canvas, as a function of absolute positions.
        texture: Relative standard deviation of the brightness by class, float32 (K,).
        gray: Gray level of level 1 in even light.
        imaging: Default imaging of the preset; every field is set.
    """

    classes: tuple[ClassSpec, ...]
    pixel_size_um: tuple[float, float]
    draw: Callable[[Canvas], None]
    texture: Floats
    gray: float
    imaging: ImagingSettings


def named_classes(*names: str) -> tuple[ClassSpec, ...]:
    """Classes with these names and the default colours.

    Example:
        >>> [item.name for item in named_classes("clay", "silt")]
        ['clay', 'silt']
    """
    return tuple(ClassSpec(name=name, color=default_color(index)) for index, name in enumerate(names))


def random_stream(seed: int, *stream: int) -> np.random.Generator:
    """A separate stream of random numbers for each purpose, so that a change of one does not affect the others.

    Example:
        >>> bool(random_stream(1, 2).random() == random_stream(1, 2).random() != random_stream(1, 3).random())
        True
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def scatter(rng: np.random.Generator, size: tuple[int, int], cell: float, share: float) -> Doubles:
    """Random positions, one per cell in `share` of the cells of a grid that extends beyond the micrograph on all sides.

    Args:
        rng: Random number generator.
        size: (height, width) of the micrograph.
        cell: Side of a cell in pixels.
        share: Share of the cells with a position.

    Returns:
        float64 (n, 2), y and x, in random order.

    Example:
        >>> scatter(random_stream(0), (100, 200), 50, 1.0).shape
        (24, 2)
    """
    rows, columns = (int(-(-side // cell)) + 2 for side in size)
    corners = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2) - 1.0
    centers = (corners + rng.random(corners.shape)) * cell
    taken = rng.random(len(centers)) < share
    # Random order, so that the overlap of shapes has no preferred direction.
    return rng.permutation(centers[taken], axis=0)


def touching(center: Doubles, reach: Doubles, canvas: Canvas) -> npt.NDArray[np.intp]:
    """Indices, in drawing order, of the shapes whose square overlaps the canvas.

    Args:
        center: (n, 2), y and x.
        reach: (n,), half the side of each square.
        canvas: The band.
    """
    low = np.array([canvas.y0, canvas.x0])
    high = low + canvas.mask.shape
    near = (center + reach[:, None] >= low).all(axis=1) & (center - reach[:, None] < high).all(axis=1)
    return np.flatnonzero(near)


def square(center: Doubles, reach: float, canvas: Canvas) -> tuple[tuple[slice, slice], Doubles, Doubles]:
    """The slices of a shape's square on the canvas, and its pixels' y (n, 1) and x (1, m) relative to the centre.

    Both are computed from absolute positions, so that a shape on two bands is consistent.

    Args:
        center: (2,), y and x.
        reach: Half the side of the square.
        canvas: The band.
    """
    low, high = np.ceil(center - reach).astype(int), np.floor(center + reach).astype(int) + 1
    rows, columns = canvas.mask.shape
    y0, x0 = max(low[0] - canvas.y0, 0), max(low[1] - canvas.x0, 0)
    y1, x1 = max(min(high[0] - canvas.y0, rows), y0), max(min(high[1] - canvas.x0, columns), x0)
    y = np.arange(y0, y1)[:, None] + canvas.y0 - center[0]
    x = np.arange(x0, x1)[None, :] + canvas.x0 - center[1]
    return (slice(y0, y1), slice(x0, x1)), y, x
