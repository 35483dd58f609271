"""Lists the sections of a micrograph that contain a class, for masks that are too large to search by eye."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import SettingsError
from microseg_ray.evaluation.metrics import percentages
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.statistics.counts import count_classes
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import zarr
    from numpy.typing import NDArray

    from microseg_ray.files import Place
    from microseg_ray.runs.folder import Run
    from microseg_ray.settings import ClassSpec

__all__ = ["RunSections", "SectionRow", "ShapeRule", "class_named", "class_sections", "sections_of_run", "with_shape"]

MAX_SHAPE_PIXELS = 1 << 28
"""Maximum pixels of a mask for shape rules: a component can span the whole mask, which must therefore be in memory."""


@dataclass(frozen=True)
class SectionRow:
    """One class in one section; the columns of sections.csv, after the micrograph.

    `section` counts from 0 along rows of sections; `y0` and `x0` are the section's first pixel; sections at the bottom
    and right are smaller if the size does not divide the micrograph.
    """

    section: int
    y0: int
    x0: int
    height: int
    width: int
    class_name: str
    pixel_count: int


@dataclass(frozen=True)
class ShapeRule:
    """Which connected components (8 neighbours) of a class are kept.

    Attributes:
        max_pixels: Larger components are left out; None for no limit.
        lines_only: Keep only components that are one row high or one column wide: hot pixels of a CCD bleed along a row
            or a column.
    """

    max_pixels: int | None = None
    lines_only: bool = False


def class_named(name: str, classes: Sequence[ClassSpec]) -> int:
    """The index of a class by name, ignoring case and surrounding spaces.

    Raises:
        SettingsError: No class has that name, or several have.

    Example:
        >>> from microseg_ray.settings import ClassSpec
        >>> class_named("hot PIXEL", (ClassSpec(name="Background"), ClassSpec(name="Hot pixel")))
        1
    """
    found = [index for index, spec in enumerate(classes) if spec.name == name]
    found = found or [
        index for index, spec in enumerate(classes) if spec.name.strip().casefold() == name.strip().casefold()
    ]
    if len(found) != 1:
        what = "several classes have that name" if found else "no class has that name"
        raise SettingsError(f"class {name!r}: {what}; there are {', '.join(spec.name for spec in classes)}")
    return found[0]


def class_sections(
    mask: NDArray[np.uint8], classes: Sequence[ClassSpec], size: int, only: int | None = None
) -> list[SectionRow]:
    """The classes in each section, with their pixel counts.

    Args:
        mask: (y, x) uint8, the whole micrograph.
        classes: In the order of the class index.
        size: Side of a section in pixels.
        only: Index of the class to list; None for all.

    Returns:
        A row for each class in each section, in the order of sections and classes.

    Raises:
        ValueError: The size is below 1.
        StoreError: The mask contains a value that is no class.

    Example:
        >>> from microseg_ray.settings import ClassSpec
        >>> mask = np.zeros((4, 6), np.uint8)
        >>> mask[3, 5] = 1
        >>> class_sections(mask, (ClassSpec(name="dark"), ClassSpec(name="glow")), 4, only=1)
        [SectionRow(section=1, y0=0, x0=4, height=4, width=2, class_name='glow', pixel_count=1)]
    """
    if size < 1:
        raise ValueError(f"sections of {size} px: the side must be at least 1")
    rows = []
    across = -(-mask.shape[1] // size)
    for y0 in range(0, mask.shape[0], size):
        for x0 in range(0, mask.shape[1], size):
            part = mask[y0 : y0 + size, x0 : x0 + size]
            counts = count_classes(part, len(classes))
            number, (height, width) = y0 // size * across + x0 // size, part.shape
            rows += [
                SectionRow(number, y0, x0, height, width, spec.name, int(counts[index]))
                for index, spec in enumerate(classes)
                if counts[index] and only in {None, index}
            ]
    return rows


def with_shape(mask: NDArray[np.uint8], index: int, rule: ShapeRule) -> NDArray[np.uint8]:
    """Set the components of one class that break the rule to 255.

    Args:
        mask: (y, x) uint8.
        index: The class to filter.
        rule: Which of its components are kept.

    Example:
        >>> mask = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 0], [0, 1, 0]], np.uint8)
        >>> with_shape(mask, 1, ShapeRule(lines_only=True)).tolist()
        [[1, 1, 1], [0, 0, 0], [255, 255, 0], [0, 255, 0]]
    """
    if rule == ShapeRule():
        return mask
    from scipy.ndimage import find_objects, label

    parts, count = label(mask == index, structure=np.ones((3, 3), int))
    refused = np.zeros(count + 1, bool)
    if rule.max_pixels is not None:
        refused[1:] = np.bincount(parts.ravel(), minlength=count + 1)[1:] > rule.max_pixels
    if rule.lines_only:
        for number, (rows, columns) in enumerate(find_objects(parts), 1):
            refused[number] |= rows.stop - rows.start > 1 and columns.stop - columns.start > 1
    kept = mask.copy()
    kept[refused[parts]] = 255
    return kept


@dataclass(frozen=True)
class RunSections:
    """Sections and class shares of the masks of a run.

    Attributes:
        classes: Names, in the order of the class index.
        rows: Sections that contain a class, by micrograph.
        percent: Share of each class in percent, by micrograph: text with 4 decimals and a sum of exactly 100, over the
            whole mask, without shape rules.
        counts: Pixels of each class, by micrograph.
    """

    classes: tuple[str, ...]
    rows: Mapping[str, list[SectionRow]]
    percent: Mapping[str, tuple[str, ...]]
    counts: Mapping[str, tuple[int, ...]]

    def write(self, folder: Place) -> None:
        """Write sections.csv and percentages.csv, each atomically."""
        columns = ("micrograph", *(field.name for field in fields(SectionRow)))
        listed = ((name, *asdict(row).values()) for name, rows in self.rows.items() for row in rows)
        write_csv(folder / "sections.csv", columns, listed)
        shares = (
            (name, *line)
            for name, percent in self.percent.items()
            for line in zip(self.classes, self.counts[name], percent, strict=True)
        )
        write_csv(folder / "percentages.csv", ("micrograph", "class_name", "pixel_count", "percent"), shares)


def sections_of_run(run: Run, size: int, find: str | None = None, rule: ShapeRule | None = None) -> RunSections:
    """List the sections of a run's finished masks with their classes.

    Without shape rules, one row of sections is read at a time.

    Args:
        run: The run; nothing is written to it.
        size: Side of a section in pixels.
        find: Name of the class to list, in any case; None for all.
        rule: Which components of that class are listed.

    Raises:
        SettingsError: No class has that name, or shape rules were given with a mask of more than 2^28 pixels.
    """
    only = None if find is None else class_named(find, run.classes)
    rows: dict[str, list[SectionRow]] = {}
    counts: dict[str, tuple[int, ...]] = {}
    for name in run.names():
        store = MaskStore.open(run.store_path(name))
        measured = run.measured_in(name, store) if store.finished else None
        if measured is None:
            continue
        counts[name] = tuple(int(count) for count in measured.counts)
        shape = store.spec.shape
        mask: zarr.Array[Any] | NDArray[np.uint8] = store.mask
        if rule is not None and rule != ShapeRule() and only is not None:
            if shape[0] * shape[1] > MAX_SHAPE_PIXELS:
                raise SettingsError(
                    f"{name}: {shape[0]} x {shape[1]} px is too large for find_max_pixels and find_lines, which hold the "
                    f"whole mask (at most {MAX_SHAPE_PIXELS} px); leave them out"
                )
            mask = with_shape(np.asarray(mask[:]), only, rule)
        rows[name] = _by_rows(mask, run.classes, size, only)
    percent = {name: percentages(found) for name, found in counts.items()}
    return RunSections(tuple(spec.name for spec in run.classes), rows, percent, counts)


def _by_rows(
    mask: zarr.Array[Any] | NDArray[np.uint8],
    classes: Sequence[ClassSpec],
    size: int,
    only: int | None,
) -> list[SectionRow]:
    """`class_sections` with only `size` rows of the mask in memory."""
    height, width = mask.shape
    across = -(-width // size)
    return [
        replace(row, section=row.section + y0 // size * across, y0=y0)
        for y0 in range(0, height, size)
        for row in class_sections(np.asarray(mask[y0 : y0 + size]), classes, size, only)
    ]
