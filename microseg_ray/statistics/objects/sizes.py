"""Size distributions of objects with the border correction of Miles and Lantuejoul."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.objects.finding import ObjectRule, Objects

__all__ = ["ClassRow", "SizeRow", "SizeTable", "border_weights", "class_rows"]

STEPS = 2
"""Bins of the diameter for each doubling."""

_SQUARE_MM = 1e6


@dataclass(frozen=True, slots=True)
class SizeRow:
    """One bin of the size distribution of a class; the columns of object_sizes.csv.

    The bins of the equivalent diameter end at the powers of the square root of 2, so that those of all micrographs are the same.
    `object_count` are all objects; `inside_count` those that touch neither the edge of the micrograph nor an unmeasured pixel.
    `corrected_count` is the number of objects in the frame that the latter stand for. Shares are of the corrected numbers: by
    number (ISO 9276-1: q0) and by area (q2), and both up to the end of the bin (Q0, Q2). An empty `micrograph` is all together.
    """

    micrograph: str
    class_index: int
    class_name: str
    unit: str
    diameter_from: float
    diameter_to: float
    object_count: int
    inside_count: int
    corrected_count: float
    number_share: float | None
    area_share: float | None
    number_share_up_to: float | None
    area_share_up_to: float | None


@dataclass(frozen=True, slots=True)
class ClassRow:
    """The objects of one class in one micrograph; the columns of object_classes.csv.

    Means and quantiles are of the equivalent diameter, in `unit`, with the border correction; None without an object inside.
    `density_per_mm2` is the corrected number of objects for each square millimetre of the frame, `density_per_mpx` for each
    10^6 px; None where there are objects and all touch the border. `frame_measured_share` is the share of the frame's pixels
    that were measured: below 1 the correction is approximate. `connectivity` and `min_pixels` say which objects were looked
    for.
    """

    micrograph: str
    class_index: int
    class_name: str
    object_count: int
    inside_count: int
    corrected_count: float
    density_per_mpx: float | None
    density_per_mm2: float | None
    frame_measured_share: float | None
    unit: str
    mean_diameter: float | None
    number_d10: float | None
    number_d50: float | None
    number_d90: float | None
    area_d50: float | None
    mean_nearest_neighbour: float | None
    connectivity: int
    min_pixels: int


def border_weights(objects: Objects) -> NDArray[np.float64]:
    """How many objects of the frame each object stands for.

    Large objects touch the border more often than small ones, so those inside are too small on average. An object whose box has
    h x w pixels lies in a frame of H x W pixels, without a pixel in its outermost rows and columns, at (H - h - 1) (W - w - 1)
    of all H W places. Its weight is the inverse of that share; objects that touch the border have the weight 0 (Miles 1974;
    Lantuejoul 1980; Serra 1982, Image Analysis and Mathematical Morphology; here with the pixels counted exactly). On average
    over all places of the frame the sum of the weights is the number of objects, whatever their sizes.

    The frame is the smallest box around all measured pixels. Where pixels inside it are not measured (255), objects beside them
    count as touching, and the correction is too small.

    Args:
        objects: The objects of a mask.

    Returns:
        (object,) float64.

    Example:
        >>> from microseg_ray.statistics.objects.finding import find_objects
        >>> mask = np.zeros((10, 10), np.uint8)
        >>> mask[4:6, 4:6] = 1
        >>> border_weights(find_objects(mask.shape, lambda box: mask[box.slices])).round(3).tolist()
        [0.0, 2.041]
    """
    if objects.frame is None:
        return np.zeros(len(objects))
    box = objects.sums.box
    tall, wide = objects.frame.shape
    inside = ~(objects.touches_edge | objects.sums.unmeasured)
    places = (tall - (box[:, 2] - box[:, 0]) - 1) * (wide - (box[:, 3] - box[:, 1]) - 1)
    return np.where(inside, tall * wide / np.maximum(places, 1), 0.0)


class SizeTable:
    """Adds up the size distributions of micrographs, and all together."""

    def __init__(self, classes: Sequence[ClassSpec]) -> None:
        self._classes = classes
        self._all: dict[tuple[int, str], dict[int, _Bin]] = defaultdict(dict)

    def add(self, micrograph: str, objects: Objects) -> Iterator[SizeRow]:
        """The rows of one micrograph, which are remembered for `pooled`.

        Args:
            micrograph: Its name.
            objects: Its objects.
        """
        sizes, unit = (objects.px, "px") if objects.um is None else (objects.um, "um")
        weights = border_weights(objects)
        steps = np.floor(STEPS * np.log2(sizes.equivalent_diameter)).astype(np.int64)
        for index in range(len(self._classes)):
            bins: dict[int, _Bin] = {}
            own = objects.sums.class_index == index
            for step in np.unique(steps[own]).tolist():
                chosen = own & (steps == step)
                some = weights[chosen]
                bins[step] = _Bin(
                    len(some), int(np.count_nonzero(some)), float(some.sum()), float((some * sizes.area[chosen]).sum())
                )
            for step, found in bins.items():
                pooled = self._all[index, unit]
                pooled[step] = pooled[step] + found if step in pooled else found
            yield from self._rows(micrograph, index, unit, bins)

    def pooled(self) -> Iterator[SizeRow]:
        """The rows of all micrographs together, calibrated ones and others apart."""
        for (index, unit), bins in sorted(self._all.items()):
            yield from self._rows("", index, unit, bins)

    def _rows(self, micrograph: str, index: int, unit: str, bins: dict[int, _Bin]) -> Iterator[SizeRow]:
        number, area = (math.fsum(getattr(each, name) for each in bins.values()) for name in ("weight", "area"))
        number_up_to, area_up_to = 0.0, 0.0
        for step in range(min(bins, default=0), max(bins, default=-1) + 1):
            found = bins.get(step, _Bin(0, 0, 0.0, 0.0))
            number_up_to += found.weight
            area_up_to += found.area
            yield SizeRow(
                micrograph=micrograph,
                class_index=index,
                class_name=self._classes[index].name,
                unit=unit,
                diameter_from=2 ** (step / STEPS),
                diameter_to=2 ** ((step + 1) / STEPS),
                object_count=found.objects,
                inside_count=found.inside,
                corrected_count=found.weight,
                number_share=_share(found.weight, number),
                area_share=_share(found.area, area),
                number_share_up_to=_share(number_up_to, number),
                area_share_up_to=_share(area_up_to, area),
            )


@dataclass(frozen=True)
class _Bin:
    """Objects of one bin: all, those inside, and the sums of their weights and of weight times area."""

    objects: int
    inside: int
    weight: float
    area: float

    def __add__(self, other: _Bin) -> _Bin:
        return _Bin(
            self.objects + other.objects,
            self.inside + other.inside,
            self.weight + other.weight,
            self.area + other.area,
        )


def _share(part: float, whole: float) -> float | None:
    return min(part / whole, 1.0) if whole else None


def class_rows(
    micrograph: str,
    objects: Objects,
    classes: Sequence[ClassSpec],
    pixel_size_um: tuple[float, float] | None,
    rule: ObjectRule,
) -> list[ClassRow]:
    """A row for each class whose objects were looked for, also where there is none.

    Args:
        micrograph: Its name.
        objects: Its objects.
        classes: In the order of the class index.
        pixel_size_um: (y, x) in micrometres, or None.
        rule: Which objects were looked for.
    """
    sizes, unit = (objects.px, "px") if objects.um is None else (objects.um, "um")
    weights = border_weights(objects)
    frame = 0 if objects.frame is None else objects.frame.height * objects.frame.width
    square = None if pixel_size_um is None else frame * pixel_size_um[0] * pixel_size_um[1] / _SQUARE_MM
    rows = []
    for index, spec in enumerate(classes):
        if rule.only is not None and index not in rule.only:
            continue
        own = objects.sums.class_index == index
        weight, diameter, area = weights[own], sizes.equivalent_diameter[own], sizes.area[own]
        near = sizes.nearest_neighbour[own]
        total = float(weight.sum())
        known = total > 0 or not len(weight)  # Objects that all touch the border have a density, but it is not known.
        rows.append(
            ClassRow(
                micrograph=micrograph,
                class_index=index,
                class_name=spec.name,
                object_count=int(own.sum()),
                inside_count=int(np.count_nonzero(weight)),
                corrected_count=total,
                density_per_mpx=total / frame * 1e6 if frame and known else None,
                density_per_mm2=total / square if square and known else None,
                frame_measured_share=objects.measured / frame if frame else None,
                unit=unit,
                mean_diameter=float((weight * diameter).sum() / total) if total else None,
                number_d10=_quantile(diameter, weight, 0.1),
                number_d50=_quantile(diameter, weight, 0.5),
                number_d90=_quantile(diameter, weight, 0.9),
                area_d50=_quantile(diameter, weight * area, 0.5),
                mean_nearest_neighbour=None if np.isnan(near).all() else float(near.mean()),
                connectivity=rule.connectivity,
                min_pixels=rule.least,
            )
        )
    return rows


def _quantile(values: NDArray[np.float64], weights: NDArray[np.float64], share: float) -> float | None:
    """The smallest value up to which there is this share of the weights."""
    order = np.argsort(values, kind="stable")
    below = np.cumsum(weights[order])
    if not len(below) or below[-1] == 0:
        return None
    return float(values[order][np.searchsorted(below, share * below[-1])])
