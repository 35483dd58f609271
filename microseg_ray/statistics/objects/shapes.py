"""Lengths, shapes and intensities of objects, from their sums."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.statistics.objects.hulls import feret_diameters
from microseg_ray.statistics.objects.outlines import crofton_perimeter

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.statistics.objects.merging import Merged

__all__ = ["Intensities", "Lengths", "Shapes", "intensities", "lengths", "shapes"]

_ROUND = 1e-12
"""Share of the larger variance below which the smaller one is rounding."""


@dataclass(frozen=True, eq=False)
class Lengths:
    """(object,) float64 sizes, in pixels or in micrometres.

    Attributes:
        area: Of all pixels.
        equivalent_diameter: Of the circle of the same area.
        feret_max: See `feret_diameters`.
        feret_min: See `feret_diameters`.
        major_axis: Of the ellipse with the same second moments of pixel centres: 4 times the larger standard deviation.
        minor_axis: 4 times the smaller; 0 for a straight line of pixels.
        perimeter: See `crofton_perimeter`; where the object is cut by the border, the cut counts.
        nearest_neighbour: Distance of the centroid from that of the nearest other object of its class; NaN if there is none.
    """

    area: NDArray[np.float64]
    equivalent_diameter: NDArray[np.float64]
    feret_max: NDArray[np.float64]
    feret_min: NDArray[np.float64]
    major_axis: NDArray[np.float64]
    minor_axis: NDArray[np.float64]
    perimeter: NDArray[np.float64]
    nearest_neighbour: NDArray[np.float64]

    def scaled(self, size: float) -> Lengths:
        """The same with square pixels of another size."""
        scaled = {each.name: getattr(self, each.name) * size for each in fields(self)}
        return Lengths(**{**scaled, "area": self.area * (size * size)})


@dataclass(frozen=True, eq=False)
class Shapes:
    """(object,) float64 figures without a unit; NaN where one is not defined.

    Attributes:
        orientation_deg: Angle of the major axis from the x axis, counter-clockwise as displayed, in [0, 180); NaN if no
            direction is longer.
        aspect_ratio: Major axis / minor axis; NaN for a straight line of pixels and for a single pixel.
        circularity: 4 pi area / perimeter^2; 1 for a large disc. Of small objects it can be above 1.
    """

    orientation_deg: NDArray[np.float64]
    aspect_ratio: NDArray[np.float64]
    circularity: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Intensities:
    """(object,) float64 mean and standard deviation (divided by n) of the micrograph's pixels under the object."""

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]


def lengths(merged: Merged, spacing: tuple[float, float] = (1.0, 1.0)) -> Lengths:
    """Sizes of objects.

    Args:
        merged: The sums of the objects.
        spacing: (y, x) size of a pixel.
    """
    area = merged.pixels * (spacing[0] * spacing[1])
    major, minor, _ = _axes(merged, spacing)
    largest, smallest = feret_diameters(merged.hulls.counts, merged.hulls.points, spacing)
    entries = merged.entries.astype(np.float64)
    return Lengths(
        area.astype(np.float64),
        np.sqrt(area * (4 / math.pi)),
        largest,
        smallest,
        major,
        minor,
        crofton_perimeter(entries[:, 0], entries[:, 1], entries[:, 2] + entries[:, 3], spacing),
        _nearest(merged.centroid * spacing, merged.class_index),
    )


def shapes(merged: Merged, sizes: Lengths, spacing: tuple[float, float] = (1.0, 1.0)) -> Shapes:
    """Figures without a unit.

    Args:
        merged: The sums of the objects.
        sizes: Their sizes with this spacing.
        spacing: (y, x) size of a pixel.
    """
    _, _, orientation = _axes(merged, spacing)
    with np.errstate(divide="ignore", invalid="ignore"):
        aspect = np.where(sizes.minor_axis > 0, sizes.major_axis / sizes.minor_axis, np.nan)
    return Shapes(orientation, aspect, 4 * math.pi * sizes.area / sizes.perimeter**2)


def intensities(merged: Merged, offset: float = 0.0) -> Intensities:
    """Mean and standard deviation under each object.

    Args:
        merged: The sums of the objects.
        offset: What was taken away from all intensities before they were added up.
    """
    total, squares, n = merged.intensity[:, 0], merged.intensity[:, 1], merged.pixels
    if merged.intensity.dtype == np.int64:
        # n * squares needs more than 64 bits, and its difference to total^2 may be tiny beside both.
        exact = n.astype(object) * squares.astype(object) - total.astype(object) ** 2
        variance = exact.astype(np.float64) / n.astype(np.float64) ** 2
    else:
        with np.errstate(invalid="ignore", over="ignore"):
            variance = np.maximum(squares / n - (total / n) ** 2, 0)
    return Intensities(total / n + offset, np.sqrt(variance))


def _axes(
    merged: Merged, spacing: tuple[float, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Major axis, minor axis, orientation in degrees."""
    y, x = spacing
    along_y, along_x, both = merged.moments[:, 0] * y**2, merged.moments[:, 1] * x**2, merged.moments[:, 2] * (x * y)
    middle, half = (along_y + along_x) / 2, np.hypot((along_y - along_x) / 2, both)
    larger, smaller = middle + half, middle - half
    smaller = np.where(smaller > _ROUND * larger, smaller, 0.0)
    # y points down on the display.
    angle = np.mod(np.degrees(np.arctan2(2 * both, along_x - along_y)) / -2, 180.0)
    angle = np.where(angle < 180, angle, 0.0)
    angle = np.where(half > _ROUND * middle, angle, np.nan)
    return 4 * np.sqrt(larger), 4 * np.sqrt(smaller), angle


def _nearest(centroids: NDArray[np.float64], class_index: NDArray[np.uint8]) -> NDArray[np.float64]:
    from scipy.spatial import cKDTree

    found = np.full(len(centroids), np.nan)
    for index in np.unique(class_index):
        own = class_index == index
        if np.count_nonzero(own) > 1:
            found[own] = cKDTree(centroids[own]).query(centroids[own], k=2)[0][:, 1]
    return found
