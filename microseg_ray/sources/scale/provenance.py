"""What is known of a micrograph's scale and info bar, and who says so: the user first, then the file and its neighbours.

The order, the more trustworthy first:

1. the option (`pixel_size_um`),
2. the user's table (`source.pixel_sizes`),
3. the file itself: OME metadata, vendor tags, ImageJ's unit (see `tiff_tags.of_tiff`),
4. a sidecar that the microscope wrote beside the file,
5. resolution tags, which any program may have written.

Where a source of lower rank says something else by more than 5 %, that is noted, never hidden.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from microseg_ray.settings.source import SourceSettings
from microseg_ray.sources.scale.pixel_size import PixelSize, best_of
from microseg_ray.sources.scale.sidecars import read_sidecar, sidecars_of
from microseg_ray.sources.scale.table import row_for

if TYPE_CHECKING:
    from microseg_ray.sources.info import MicrographInfo
    from microseg_ray.sources.scale.statement import StatedBar, Statement

__all__ = ["LARGEST_BAR", "OPTION", "pixel_size_mark", "with_pixel_size"]

OPTION = "option pixel_size_um"
"""The provenance of a pixel size that the user gave."""

LARGEST_BAR = 0.25
"""Share of the height that an info bar takes at most; a header that claims more describes another image."""


def with_pixel_size(info: MicrographInfo, source: SourceSettings | None, stated: Statement) -> MicrographInfo:
    """A micrograph's info with its pixel size and its info bar, from headers and options; no pixel is read.

    Args:
        info: Path, shape and so on.
        source: What the user says; the defaults where None.
        stated: What the file itself says.

    Raises:
        InputError: The user's table is damaged, or the info bar that the user gives takes the whole micrograph.
    """
    source = source or SourceSettings()
    beside = read_sidecar(info.path, info.shape)
    size = best_of(_claims(info.path, source, stated.pixel_size, beside))
    notes = (*(() if size is None else size.notes), *stated.notes, *beside.notes)
    rows, entry = _bar(info, source, stated.bar or beside.bar)
    return replace(
        info,
        pixel_size_um=None if size is None else (size.y, size.x),
        pixel_size_source="" if size is None else size.source,
        pixel_size_notes=notes,
        info_bar_rows=rows,
        info_bar_source=entry,
    )


def pixel_size_mark(path: str, source: SourceSettings, kind: Literal["stat", "content"]) -> str:
    """What beside the file and the options decides its pixel size, to notice when it changes; "" where nothing does.

    Args:
        path: The micrograph.
        source: The user's settings.
        kind: As in `fingerprint`.

    Raises:
        InputError: The table or a sidecar cannot be read.

    Example:
        >>> pixel_size_mark("a.tif", SourceSettings(), "stat")
        ''
    """
    from microseg_ray.sources.listing import fingerprint

    row = None if source.pixel_sizes is None else row_for(path, source.pixel_sizes)
    table = [] if row is None else [f"table {row.y!r} x {row.x!r}"]
    return "; ".join([*table, *(f"{file.name} {fingerprint(file, kind)}" for file in sidecars_of(path))])


def _claims(path: str, source: SourceSettings, stated: PixelSize | None, beside: Statement) -> list[PixelSize | None]:
    own = None if source.pixel_size_um is None else PixelSize(*source.pixel_size_um, OPTION)
    row = None if source.pixel_sizes is None else row_for(path, source.pixel_sizes)
    listed = None if row is None else PixelSize(row.y, row.x, f"table {row.pattern} (line {row.line})")
    found = [beside.pixel_size, stated] if stated is not None and stated.weak else [stated, beside.pixel_size]
    return [own, listed, *found]


def _bar(info: MicrographInfo, source: SourceSettings, stated: StatedBar | None) -> tuple[int, str]:
    if source.info_bar == "none":
        return 0, "option info_bar"
    if source.info_bar == "auto":
        if stated is not None and 0 <= stated.rows <= info.shape[0] * LARGEST_BAR:
            return stated.rows, stated.source
        return 0, ""
    if source.info_bar >= info.shape[0]:
        from microseg_ray.errors import InputError

        reason = f"source.info_bar is {source.info_bar} px, but the micrograph has {info.shape[0]} rows"
        raise InputError(info.path, reason, "give a smaller info_bar, auto or none")
    return source.info_bar, "option info_bar"
