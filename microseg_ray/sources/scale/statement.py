"""What a header, a tag or a sidecar states of pixel size and info bar, fitted to the grid of the file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from microseg_ray.sources.scale.grid import Grid, fit
from microseg_ray.sources.scale.pixel_size import PixelSize, best_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["StatedBar", "Statement", "fitted"]

_BAR_SHARE = 1.34  # rows over the stated ones, as a factor, that an unstated info bar explains


@dataclass(frozen=True)
class StatedBar:
    """An info bar as a header states it; 0 rows where it states that there is none.

    Attributes:
        rows: Its rows.
        source: The entry that states it.
        grid: The grid that it was written for; its first height is that of the scanned image above the bar.

    Example:
        >>> StatedBar(59, "FEI PrivateFei.DatabarHeight").rows
        59
    """

    rows: int
    source: str
    grid: Grid | None = None


@dataclass(frozen=True)
class Statement:
    """What is stated of one image.

    Attributes:
        pixel_size: The pixel size, or None.
        bar: The info bar, or None where nothing is said about one.
        notes: Why something that is stated is not used.
    """

    pixel_size: PixelSize | None = None
    bar: StatedBar | None = None
    notes: tuple[str, ...] = ()


def fitted(claims: Sequence[PixelSize | None], bar: StatedBar | None, shape: tuple[int, int]) -> Statement:
    """Statements on the grid of the file: corrected, kept or left out, with a note where they are not used as they are.

    Args:
        claims: Pixel sizes, the most trustworthy first.
        bar: The info bar.
        shape: (height, width) of the file.

    Example:
        >>> size = PixelSize(0.5, 0.5, "A", grid=Grid(1024, (943,)))
        >>> fitted([size], None, (472, 512)).pixel_size
        PixelSize(y=1.0, x=1.0, source='A')
        >>> fitted([size], None, (400, 512)).pixel_size is None
        True
    """
    kept: list[PixelSize] = []
    refused: list[str] = []
    noted: set[Grid] = set()
    for claim in claims:
        if claim is None:
            continue
        size, note = _fitted_size(claim, shape)
        # Entries of one header share a grid: one note says it.
        repeated = claim.grid is not None and claim.grid in noted
        if claim.grid is not None and note:
            noted.add(claim.grid)
        if size is None:
            refused += [] if repeated else [note]
        else:
            kept.append(size if repeated or not note else replace(size, notes=(*size.notes, note)))
    return Statement(best_of(kept), None if bar is None else _fitted_bar(bar, shape), tuple(refused))


def _fitted_size(claim: PixelSize, shape: tuple[int, int]) -> tuple[PixelSize | None, str]:
    if claim.grid is None:
        return claim, ""
    found, bare = fit(claim.grid, shape), replace(claim, grid=None)
    text = f"{claim.source} is for an image of {claim.grid} px (width x height), the file has {shape[1]} x {shape[0]}"
    match found.how:
        case "resampled":
            size = replace(bare, y=claim.y / found.ratio, x=claim.x / found.ratio)
            return size, f"{text}: it was resampled, and a pixel is {size}"
        case "cropped":
            # An info bar that is not stated adds rows.
            bar = shape[1] == claim.grid.width and min(claim.grid.heights) < shape[0] < (
                _BAR_SHARE * max(claim.grid.heights)
            )
            return bare, "" if bar else f"{text}: taken as cropped, the pixel size is kept"
        case "unknown":
            return None, (
                f"{text}: its {claim} are not used, because cropping and resizing cannot be told apart; "
                "give pixel_size_um"
            )
        case _:
            return bare, ""


def _fitted_bar(bar: StatedBar, shape: tuple[int, int]) -> StatedBar | None:
    if bar.grid is None:
        return bar
    found, scanned = fit(bar.grid, shape), bar.grid.heights[0]
    rows = shape[0] - round(scanned * found.ratio)
    # Of a file with fewer rows than were scanned the pixels tell whether the bar is among them.
    return StatedBar(rows, bar.source) if found.how != "unknown" and rows >= 0 else None
