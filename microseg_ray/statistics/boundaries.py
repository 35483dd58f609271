"""Boundary length between classes by Crofton's formula, additive over the parts of a mask.

Lines in four directions (along x, along y, and along both diagonals of the pixels) are laid over the mask, one through each
row, column and diagonal of pixel centres. The length of a boundary is pi / 2 times the mean over directions of the number of
its intersections times the distance of the lines. Directions are weighted by the angle that is nearest to each, which differs
from a quarter where pixels are not square (Legland, Kieu and Devaux, Image Anal. Stereol. 26:83, 2007; Lehmann and Legland,
Insight J., 2012). For square pixels and one class against the rest it is `skimage.measure.perimeter_crofton(directions=4)`, but
for the border of the image, which is no boundary here. Pixels without a class have none.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box

__all__ = ["boundary_lengths", "count_crossings", "crossing_frame"]

_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


def crossing_frame(box: Box, shape: tuple[int, int]) -> Box:
    """What must be read to count the crossings that belong to a part: the part with a pixel more to the left, right and below.

    Example:
        >>> from microseg_ray.geometry import Box
        >>> crossing_frame(Box(0, 4, 4, 8), (9, 8))
        Box(y0=0, x0=3, y1=5, x1=8)
    """
    return type(box)(box.y0, max(0, box.x0 - 1), min(shape[0], box.y1 + 1), min(shape[1], box.x1 + 1))


def count_crossings(pixels: NDArray[np.uint8], core: Box, classes: int) -> NDArray[np.int64]:
    """Neighbouring pixels of different classes, by direction and pair of classes.

    A pair belongs to the part in which its first pixel lies: the left one, the upper one.

    Args:
        pixels: (y, x) uint8 of a `crossing_frame`.
        core: Where the part itself lies in it.
        classes: Number of classes K.

    Returns:
        (4, K, K) int64: along x, along y, down to the right, down to the left; symmetric, each pair in both places.

    Example:
        >>> from microseg_ray.geometry import Box
        >>> mask = np.array([[0, 1], [0, 1]], np.uint8)
        >>> count_crossings(mask, Box(0, 0, 2, 2), 2)[:, 0, 1].tolist()
        [2, 0, 1, 1]
    """
    found = np.zeros((4, classes, classes), np.int64)
    for place, (down, right) in enumerate(_STEPS):
        # First pixels are those of the core whose partner is in the frame.
        y1 = min(core.y1, pixels.shape[0] - down)
        x0, x1 = max(core.x0, -right), min(core.x1, pixels.shape[1] - max(right, 0))
        if y1 <= core.y0 or x1 <= x0:
            continue
        first = pixels[core.y0 : y1, x0:x1]
        second = pixels[core.y0 + down : y1 + down, x0 + right : x1 + right]
        differ = first != second
        one, other = first[differ].astype(np.intp), second[differ].astype(np.intp)
        known = (one < classes) & (other < classes)
        pairs = np.bincount(one[known] * classes + other[known], minlength=classes**2).reshape(classes, classes)
        found[place] = pairs + pairs.T
    return found


def boundary_lengths(crossings: NDArray[np.int64], pixel_size: tuple[float, float] = (1.0, 1.0)) -> NDArray[np.float64]:
    """Length of the boundary between each pair of classes.

    Args:
        crossings: (4, K, K) of `count_crossings`, added over all parts.
        pixel_size: (y, x), in the unit of the result.

    Returns:
        (K, K) float64, symmetric with zeros on the diagonal; the sum of a row is the whole boundary of a class.

    Example:
        >>> straight = np.repeat([[0] * 500 + [1] * 500], 1000, axis=0).astype(np.uint8)
        >>> from microseg_ray.geometry import Box
        >>> lengths = boundary_lengths(count_crossings(straight, Box(0, 0, 1000, 1000), 2))
        >>> round(float(lengths[0, 1]) / 1000, 3)
        0.948
    """
    height, width = pixel_size
    diagonal = math.hypot(height, width)
    angle = math.atan2(height, width)
    # Distance of the lines of each direction, and the share of the half circle that is nearest to it.
    distances = np.array([height, width, height * width / diagonal, height * width / diagonal])
    shares = np.array([angle, math.pi / 2 - angle, math.pi / 4, math.pi / 4]) / math.pi
    lengths: NDArray[np.float64] = math.pi / 2 * np.tensordot(distances * shares, crossings.astype(np.float64), axes=1)
    return lengths
