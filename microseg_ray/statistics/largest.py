"""The largest grain and its ASTM grain size number (ASTM E930, "as large as").

A mean grain size says nothing of a few huge grains, at which parts fail. E930 takes the area of the largest grain that is seen on
the section and gives the G that a structure would have whose grains all had this area. It is for sparse outliers alone: "3 or
more ASTM grain size numbers larger than the rest of the microstructure and comprising 5 % or less of the specimen area"
(E930-18, 4.2, as quoted on ASTM's page of the standard).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.statistics.stereology import StereologyRow, grain_size_of_area

if TYPE_CHECKING:
    from collections.abc import Sequence

    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.objects.finding import Objects

__all__ = ["LargestObject", "largest_grain_rows", "largest_objects"]

_SQUARE_UM_IN_MM2 = 1e6
_OUTLIER = 8
"""Times the mean of the other grains of its class: three ASTM grain size numbers. E930 is for what is coarser than that."""

_SPARSE = 0.05
"""Share of the grains' area up to which E930 is for."""


@dataclass(frozen=True)
class LargestObject:
    """The largest object of a class in one micrograph.

    Attributes:
        class_index: Its class.
        pixels: Its area in pixels.
        area_um2: Its area in um2; None without a pixel size.
        cut: It touches the border of what was measured, so that it may be larger.
        objects: How many objects of the class there are.
        total_pixels: Their pixels together.
        total_area_um2: Their area together in um2; None without a pixel size.
    """

    class_index: int
    pixels: int
    area_um2: float | None
    cut: bool
    objects: int
    total_pixels: int
    total_area_um2: float | None


def largest_objects(objects: Objects) -> tuple[LargestObject, ...]:
    """The largest object of each class that has one.

    Example:
        >>> from microseg_ray.statistics.objects.finding import find_objects
        >>> mask = np.array([[0, 1, 0, 0], [0, 1, 0, 0]], np.uint8)
        >>> found = largest_objects(find_objects(mask.shape, lambda box: mask[box.slices]))
        >>> [(each.pixels, each.cut, each.objects, each.total_pixels) for each in found]
        [(4, True, 2, 6), (2, True, 1, 2)]
    """
    found = []
    kinds, pixels = np.asarray(objects.sums.class_index), objects.sums.pixels
    cut = objects.touches_edge | objects.sums.unmeasured
    for index in np.unique(kinds).tolist():
        own = np.flatnonzero(kinds == index)
        place = own[np.argmax(pixels[own])]
        found.append(
            LargestObject(
                class_index=int(index),
                pixels=int(pixels[place]),
                area_um2=None if objects.um is None else float(objects.um.area[place]),
                cut=bool(cut[place]),
                objects=len(own),
                total_pixels=int(pixels[own].sum()),
                total_area_um2=None if objects.um is None else float(objects.um.area[own].sum()),
            )
        )
    return tuple(found)


def largest_grain_rows(
    scope: str,
    name: str,
    found: Sequence[tuple[LargestObject, ...]],
    classes: Sequence[ClassSpec],
    boundaries: int,
    unfinished: int,
) -> list[StereologyRow]:
    """The rows of a group: the largest grain of all its micrographs, and its G.

    Grains are the objects of all classes but the boundary between them. The boundary's own pixels are in no grain, so the area is
    that within the boundary. `reason` says if the largest is no outlier: at most 8 times the mean of the others of its class,
    three ASTM grain size numbers. A gap in the boundary joins grains: what is more is said to be doubtful. Few joined grains are
    not recognised.

    Args:
        scope: `group` or `archive`.
        name: Of the group.
        found: The largest objects of each of its micrographs.
        classes: The classes.
        boundaries: The class that is the boundary between grains.
        unfinished: Micrographs of it that have no mask yet.
    """
    grains = [each for own in found for each in own if each.class_index != boundaries]
    in_um = all(each.area_um2 is not None for each in grains)
    largest = max(
        grains, key=lambda each: each.area_um2 if in_um and each.area_um2 is not None else each.pixels, default=None
    )
    area = None if largest is None else largest.area_um2 if in_um else float(largest.pixels)
    count = sum(each.objects for each in grains)
    reason = "no grain was measured" if largest is None else f"the largest of {count} grains; one value, no interval"
    if largest is not None and largest.cut:
        reason += "; it touches the border of the micrograph: the area is a lower bound, G an upper one"
    if largest is not None:
        reason += _doubt(largest, grains, in_um=in_um)
    known = area is not None and in_um and area > 0
    number = grain_size_of_area(area / _SQUARE_UM_IN_MM2) if known and area is not None else None
    calibrated = reason if known else f"{reason}; no pixel size: G is defined for areas in square millimetres"

    def row(quantity: str, unit: str, value: float | None, said: str) -> StereologyRow:
        index = boundaries if largest is None else largest.class_index
        return StereologyRow(
            scope=scope,
            name=name,
            class_index=index,
            class_name=classes[index].name,
            quantity=quantity,
            unit=unit,
            standard="ASTM E930",
            fields=len(found),
            unfinished_micrographs=unfinished,
            mean=value,
            standard_deviation=None,
            low=None,
            high=None,
            relative_accuracy_percent=None,
            reason=said,
        )

    return [
        row("largest_grain_area", "um2" if in_um else "px", area, reason),
        row("largest_grain_size_number", "1", number, calibrated if largest is not None else reason),
    ]


def _doubt(largest: LargestObject, grains: Sequence[LargestObject], *, in_um: bool) -> str:
    """Whether the largest grain is an outlier, and why it may be several: compared with the others of its class."""
    own = [each for each in grains if each.class_index == largest.class_index]
    others = sum(each.objects for each in own) - 1
    if not others:
        return "; it is the only grain of its class: the boundary may have gaps, look at the mask"
    area, total = (
        (largest.area_um2 or 0.0, sum(each.total_area_um2 or 0.0 for each in own))
        if in_um
        else (float(largest.pixels), float(sum(each.total_pixels for each in own)))
    )
    ratio = area * others / (total - area)
    times = f"{ratio:.1f} times the mean of the others"
    if ratio <= _OUTLIER:
        return f"; no outlier as E930 is for: {times}, not more than {_OUTLIER} (3 grain size numbers)"
    every = sum((each.total_area_um2 or 0.0) if in_um else each.total_pixels for each in grains)
    share = area / every
    sparse = "" if share <= _SPARSE else f"; it is {100 * share:.0f} % of the grains' area, and E930 is for at most 5 %"
    return (
        f"; doubtful: {times} (more than {_OUTLIER}, 3 grain size numbers): a gap in the boundary may have joined grains, "
        f"look at the mask{sparse}"
    )
