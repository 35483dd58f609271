"""Objects counted in fields: inclusions per area (ASTM E1245) and grains per area with their grain size number (ASTM E112).

An object inside the field counts 1, one that the border cuts 1/2, the one at a corner of the field 1/4: Saltykov's rule for
rectangular fields, as E112 has it beside Jeffries' for circles. So what is cut is neither counted as whole nor lost. An object
that ends exactly at the border counts as cut, because nobody sees what follows: the count is too small by perimeter / (2 area) of
the field in pixels, 0.2 % for 1000 x 1000 px.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.statistics.stereology import Quantity, RowPlace, grain_size_of_density

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.objects.finding import ObjectRule, Objects
    from microseg_ray.statistics.stereology import StereologyRow

__all__ = ["Counted", "FieldObjects", "count_objects", "planimetric_rows"]

_SQUARE_UM_IN_MM2 = 1e6
_MPX = 1e6


@dataclass(frozen=True)
class Counted:
    """The objects of one class in one field.

    Attributes:
        inside: Objects that touch neither the border of the field nor an unmeasured pixel.
        cut: Those that do, the ones at the corners included.
        corners: Corners of the field that are in an object of the class.
        pixels: Of all objects of the class.
    """

    inside: int
    cut: int
    corners: int
    pixels: int

    @property
    def number(self) -> float:
        """How many objects the field stands for; nan where objects are as large as the field, so that counting says nothing.

        Example:
            >>> Counted(inside=10, cut=6, corners=4, pixels=900).number, Counted(inside=0, cut=1, corners=4, pixels=900).number
            (12.0, nan)
        """
        number = self.inside + self.cut / 2 - self.corners / 4
        return number if number > 0 or not self.inside + self.cut else math.nan

    def __add__(self, other: Counted) -> Counted:
        """The objects of both."""
        return Counted(
            self.inside + other.inside,
            self.cut + other.cut,
            self.corners + other.corners,
            self.pixels + other.pixels,
        )


@dataclass(frozen=True)
class FieldObjects:
    """The objects of one micrograph.

    Attributes:
        classes: Of each class that was looked for, by its index.
        measured: Pixels with a class.
        pixel_size_um: (y, x), or None.
        least: Smaller objects, in pixels, were left out.
    """

    classes: Mapping[int, Counted]
    measured: int
    pixel_size_um: tuple[float, float] | None
    least: int


def count_objects(
    objects: Objects,
    read: Callable[[Box], NDArray[np.uint8]],
    classes: int,
    rule: ObjectRule,
    pixel_size_um: tuple[float, float] | None,
) -> FieldObjects:
    """Count the objects of each class.

    Args:
        objects: Of the micrograph.
        read: Gives the (y, x) uint8 pixels of a box of its mask; the corners are read.
        classes: How many classes there are.
        rule: Which objects were looked for.
        pixel_size_um: (y, x), or None.

    Example:
        >>> from microseg_ray.statistics.objects.finding import ObjectRule, find_objects
        >>> mask = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]], np.uint8)
        >>> rule = ObjectRule(4)
        >>> found = find_objects(mask.shape, lambda box: mask[box.slices], rule)
        >>> count_objects(found, lambda box: mask[box.slices], 2, rule, None).classes[1]
        Counted(inside=1, cut=2, corners=2, pixels=4)
    """
    kinds = np.asarray(objects.sums.class_index)
    cut = objects.touches_edge | objects.sums.unmeasured
    owners = kinds[_at_corners(objects, read)]
    only = range(classes) if rule.only is None else sorted(rule.only)
    found = {}
    for index in only:
        own = kinds == index
        found[index] = Counted(
            inside=int((own & ~cut).sum()),
            cut=int((own & cut).sum()),
            corners=int((owners == index).sum()),
            pixels=int(objects.sums.pixels[own].sum()),
        )
    return FieldObjects(found, objects.measured, pixel_size_um, rule.least)


def _at_corners(objects: Objects, read: Callable[[Box], NDArray[np.uint8]]) -> list[int]:
    """The objects that hold a corner of the field, once for each corner."""
    frame = objects.frame
    if frame is None:
        return []
    box, kinds = objects.sums.box, np.asarray(objects.sums.class_index)
    extent = (box[:, 2:] - box[:, :2]).sum(axis=1)
    found = []
    for y, at_y in ((frame.y0, box[:, 0] == frame.y0), (frame.y1 - 1, box[:, 2] == frame.y1)):
        for x, at_x in ((frame.x0, box[:, 1] == frame.x0), (frame.x1 - 1, box[:, 3] == frame.x1)):
            # A pixel that is not measured has the class of no object.
            kind = int(read(Box(y, x, y + 1, x + 1))[0, 0])
            reach = np.flatnonzero(at_y & at_x & (kinds == kind))
            # Of objects of one class that reach both sides, one encloses the other: the corner is in the innermost.
            found += reach[np.argsort(extent[reach])[:1]].tolist()
    return found


def planimetric_rows(
    scope: str,
    name: str,
    found: Sequence[FieldObjects],
    classes: Sequence[ClassSpec],
    boundaries: int | None,
    unfinished: int,
) -> list[StereologyRow]:
    """The rows of a group: objects per area and their mean area of each class; grains per area and G where there are boundaries.

    Args:
        scope: `group` or `archive`.
        name: Of the group.
        found: Its micrographs, each a field.
        classes: The classes.
        boundaries: The class that is the boundary between grains; None for none.
        unfinished: Micrographs of it that have no mask yet.
    """
    if not found:
        return []
    in_um = all(each.pixel_size_um is not None for each in found)
    per_area = "1/mm2" if in_um else "1/Mpx"
    rows = []
    for index in found[0].classes:
        if index == boundaries:
            continue
        counts = [each.classes[index] for each in found]
        density = [_density(each, own.number, in_um=in_um) for each, own in zip(found, counts, strict=True)]
        area = [_mean_area(each, own, in_um=in_um) for each, own in zip(found, counts, strict=True)]
        place = RowPlace(scope, name, index, classes[index].name, unfinished)
        said = _said(counts, found[0].least)
        rows.append(place.row(Quantity("objects_per_area", per_area, "ASTM E1245"), density, said))
        unit = "um2" if in_um else "px"
        rows.append(place.row(Quantity("mean_object_area", unit, "ASTM E1245"), area, said))
    if boundaries is not None:
        grains = [
            sum((own for index, own in each.classes.items() if index != boundaries), Counted(0, 0, 0, 0))
            for each in found
        ]
        density = [_density(each, own.number, in_um=in_um) for each, own in zip(found, grains, strict=True)]
        said = _said(grains, found[0].least)
        place = RowPlace(scope, name, boundaries, classes[boundaries].name, unfinished)
        row = place.row(Quantity("grains_per_area", per_area, "ASTM E112"), density, said)
        rows += [row, _grain_size(row, in_um=in_um)]
    return rows


def _said(counts: Sequence[Counted], least: int) -> str:
    """What is to be said of counts."""
    small = f"objects below {least} px are left out" if least > 1 else ""
    large = sum(math.isnan(own.number) for own in counts)
    return "; ".join(
        filter(None, (small, f"fields with objects as large as the field, left out: {large}" if large else ""))
    )


def _grain_size(density: StereologyRow, *, in_um: bool) -> StereologyRow:
    """G of the mean number of grains per area and of the ends of its interval (ASTM E112)."""

    def number(per_mm2: float | None) -> float | None:
        return grain_size_of_density(per_mm2) if in_um and per_mm2 is not None and per_mm2 > 0 else None

    return replace(
        density,
        quantity="planimetric_grain_size_number",
        unit="1",
        mean=number(density.mean),
        standard_deviation=None,
        low=number(density.low),
        high=number(density.high),
        relative_accuracy_percent=None,
        reason=density.reason if in_um else "no pixel size: G is defined for areas in square millimetres",
    )


def _area_of_pixel(each: FieldObjects, *, in_um: bool) -> float:
    return each.pixel_size_um[0] * each.pixel_size_um[1] if in_um and each.pixel_size_um is not None else 1.0


def _density(each: FieldObjects, number: float, *, in_um: bool) -> float:
    """Per mm2, or per 10^6 px."""
    if not each.measured:
        return math.nan
    area = each.measured * _area_of_pixel(each, in_um=in_um)
    return number / (area / (_SQUARE_UM_IN_MM2 if in_um else _MPX))


def _mean_area(each: FieldObjects, own: Counted, *, in_um: bool) -> float:
    """Area of the class divided by its number of objects (E1245), in um2 or px."""
    return own.pixels * _area_of_pixel(each, in_um=in_um) / own.number if own.number > 0 else math.nan
