"""Areas of groups of micrographs and of the whole archive, and boundaries of each micrograph and group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.statistics.boundaries import boundary_lengths

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.fields import Field

__all__ = ["BoundaryRow", "GroupRow", "area_uncertainty", "boundary_rows", "group_area_rows"]

EVERY = "(all)"
"""In place of the second class: the whole boundary of the first one."""


@dataclass(frozen=True, slots=True)
class GroupRow:
    """One class in one group, or in the archive; the columns of groups.csv.

    `area_fraction` is of all measured pixels together, `mean_area_fraction` the mean of the micrographs' fractions, with their
    standard deviation (n - 1) in `sd_area_fraction`, None for one micrograph. `coverage` is the share of the specimen's pixels
    (without the info bar) that were measured. `area_um2` is None where a micrograph has no pixel size;
    `area_um2_standard_uncertainty` is what an uncertain pixel size causes, None where none was given.
    """

    scope: str
    group: str
    class_index: int
    class_name: str
    micrographs: int
    unfinished_micrographs: int
    pixel_count: int
    measured_pixel_count: int
    unmeasured_pixel_count: int
    coverage: float | None
    area_fraction: float | None
    mean_area_fraction: float | None
    sd_area_fraction: float | None
    area_um2: float | None
    area_um2_standard_uncertainty: float | None
    micrographs_without_pixel_size: int


@dataclass(frozen=True, slots=True)
class BoundaryRow:
    """The boundary between two classes in one scope; the columns of boundaries.csv.

    `other_name` is `(all)` for the whole boundary of a class. Lengths are Crofton's; `specific_...` is the length per measured
    area. `share_of_class` is the part of the class's whole boundary that it has with the other one: the adjacency of the classes.
    """

    scope: str
    name: str
    class_index: int
    class_name: str
    other_name: str
    micrographs: int
    unfinished_micrographs: int
    length_px: float
    specific_length_per_px: float | None
    length_um: float | None
    specific_length_per_um: float | None
    share_of_class: float | None


def area_uncertainty(area: float, relative: float) -> float:
    """Standard uncertainty of an area from that of the pixel size (GUM, JCGM 100:2008, 5.1.6).

    One calibration gives both sides of all pixels, so their errors are the same and the relative uncertainty of the area is
    twice that of the pixel size.

    Args:
        area: In any unit.
        relative: Standard uncertainty of the pixel size divided by the pixel size.

    Example:
        >>> area_uncertainty(200.0, 0.01)
        4.0
    """
    return 2 * relative * area


def group_area_rows(
    scope: str,
    group: str,
    members: Sequence[Field],
    classes: Sequence[ClassSpec],
    unfinished: int,
    pixel_size_uncertainty: float | None = None,
) -> list[GroupRow]:
    """The rows of one group.

    Args:
        scope: `group` or `archive`.
        group: Its name.
        members: Its micrographs, one or more.
        classes: The classes.
        unfinished: Micrographs of it that have no mask yet: the figures are partial.
        pixel_size_uncertainty: Relative standard uncertainty of the pixel size, or None.

    Example:
        >>> from microseg_ray.settings import ClassSpec
        >>> from microseg_ray.statistics.fields import Field
        >>> none = np.zeros((4, 2, 2), np.int64)
        >>> members = [
        ...     Field(name, "g", np.array(counts), 120, 10, (0.5, 0.5), none, ())
        ...     for name, counts in (("a", [60, 40]), ("b", [80, 20]))
        ... ]
        >>> row = group_area_rows("group", "g", members, (ClassSpec(name="clay"), ClassSpec(name="pore")), 0, 0.01)[1]
        >>> row.area_fraction, round(row.sd_area_fraction, 3), round(row.coverage, 3), row.area_um2
        (0.3, 0.141, 0.909, 15.0)
        >>> row.area_um2_standard_uncertainty, row.unmeasured_pixel_count
        (0.3, 40)
    """
    counts = np.array([member.counts for member in members])
    measured, pixels = int(counts.sum()), sum(member.pixels for member in members)
    specimen = pixels - sum(member.bar_pixels for member in members)
    shares = np.array([member.fractions for member in members if member.measured]).reshape(-1, len(classes))
    without = sum(member.pixel_size_um is None for member in members)
    rows = []
    for index, item in enumerate(classes):
        count = int(counts[:, index].sum())
        area = None if without else _area(members, index)
        uncertain = area is not None and pixel_size_uncertainty is not None
        rows.append(
            GroupRow(
                scope=scope,
                group=group,
                class_index=index,
                class_name=item.name,
                micrographs=len(members),
                unfinished_micrographs=unfinished,
                pixel_count=count,
                measured_pixel_count=measured,
                unmeasured_pixel_count=pixels - measured,
                coverage=measured / specimen if specimen else None,
                area_fraction=count / measured if measured else None,
                mean_area_fraction=float(shares[:, index].mean()) if len(shares) else None,
                sd_area_fraction=float(shares[:, index].std(ddof=1)) if len(shares) > 1 else None,
                area_um2=area,
                area_um2_standard_uncertainty=area_uncertainty(area or 0.0, pixel_size_uncertainty or 0.0)
                if uncertain
                else None,
                micrographs_without_pixel_size=without,
            )
        )
    return rows


def boundary_rows(
    scope: str, name: str, members: Sequence[Field], classes: Sequence[ClassSpec], unfinished: int
) -> list[BoundaryRow]:
    """The boundaries of each pair of classes, both ways round, and of each class with all others.

    Args:
        scope: `micrograph`, `group` or `archive`.
        name: Of it.
        members: Its micrographs.
        classes: The classes.
        unfinished: Micrographs of it that have no mask yet.
    """
    square = np.zeros((len(classes), len(classes)))
    pixels, micrometres = square.copy(), square.copy()
    known = all(member.pixel_size_um is not None for member in members)
    for member in members:
        size = member.pixel_size_um or (1.0, 1.0)
        # In pixels, anisotropic ones keep their proportions and have the area 1.
        unit = math.sqrt(size[0] * size[1])
        lengths = boundary_lengths(member.crossings, size)
        micrometres += lengths
        pixels += lengths / unit
    measured = sum(member.measured for member in members)
    area = sum(member.measured * math.prod(member.pixel_size_um or (1.0, 1.0)) for member in members)

    def row(index: int, other: str, length: float, length_um: float, whole: float) -> BoundaryRow:
        return BoundaryRow(
            scope=scope,
            name=name,
            class_index=index,
            class_name=classes[index].name,
            other_name=other,
            micrographs=len(members),
            unfinished_micrographs=unfinished,
            length_px=float(length),
            specific_length_per_px=float(length / measured) if measured else None,
            length_um=float(length_um) if known else None,
            specific_length_per_um=float(length_um / area) if known and measured else None,
            share_of_class=float(length / whole) if whole > 0 else None,
        )

    rows = []
    for index in range(len(classes)):
        whole, whole_um = float(pixels[index].sum()), float(micrometres[index].sum())
        rows.append(row(index, EVERY, whole, whole_um, whole))
        rows += [
            row(index, classes[other].name, pixels[index, other], micrometres[index, other], whole)
            for other in range(len(classes))
            if other != index
        ]
    return rows


def _area(members: Sequence[Field], index: int) -> float:
    areas: NDArray[np.float64] = np.array(
        [int(member.counts[index]) * math.prod(member.pixel_size_um or ()) for member in members]
    )
    return float(areas.sum())
