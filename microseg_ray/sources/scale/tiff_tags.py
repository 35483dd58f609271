"""The pixel size that a TIFF states: OME-XML, a vendor's tags, ImageJ's unit, resolution tags."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from microseg_ray.sources.scale.pixel_size import PixelSize, believable, micrometres, of_ome_xml
from microseg_ray.sources.scale.statement import Statement, fitted
from microseg_ray.sources.scale.vendor_tags import stated_bar, understood, vendor_claims

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["of_tiff"]

# A resolution tag up to 1200 dpi (21 um a pixel) is what a printer or a screen had (96, 146, 300, 314 ... are seen in real
# micrographs), and so are the round resolutions of scanners and image setters above it.
_PRINT_DPI, _ROUND_DPI, _SCANNER_DPI = 1200, (72, 96, 100), 9600
_PLACEHOLDER_UM = 1.0  # Bio-Formats writes 10000 px/cm where no size is known


def of_tiff(tiff: Any, page: Any) -> Statement:
    """Pixel size and info bar that a TIFF states: OME-XML, the vendor's tags, ImageJ, then the resolution tags.

    OME and ImageJ describe the pixels as they were last saved, so that OME goes before the vendor's tags, which a
    converter may have carried along. ImageJ's unit is often set by hand, and goes after them.

    Args:
        tiff: An open `tifffile.TiffFile`.
        page: Its page that is read.
    """
    before: tuple[Callable[[], PixelSize | None], ...] = (
        lambda: of_ome_xml(tiff.ome_metadata) if tiff.is_ome else None,
    )
    after: tuple[Callable[[], PixelSize | None], ...] = (
        lambda: _imagej(tiff.imagej_metadata, page) if tiff.is_imagej else None,
        # ImageJ's tags count pixels per its own unit, whatever the unit tag says.
        lambda: None if tiff.is_imagej else _resolution(page),
    )
    claims = [
        *(understood(reader) for reader in before),
        *vendor_claims(tiff, page),
        *(understood(reader) for reader in after),
    ]
    return fitted(claims, stated_bar(tiff, page), (int(page.imagelength), int(page.imagewidth)))


def _imagej(metadata: Mapping[str, Any], page: Any) -> PixelSize | None:
    unit = str(metadata["unit"])
    if page.tags[282].value == (1, 1):
        # ImageJ counts in millionths; 1/1 is what other writers put where they know nothing.
        return None
    y, x = (micrometres(1 / value, unit) for value in _pixels_per_unit(page))
    if unit.strip().casefold() in {"inch", "in", "cm"} and x is not None and _is_print(25400 / x):
        return None
    return believable(y, x, f"ImageJ unit {unit}")


def _resolution(page: Any) -> PixelSize | None:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof(296, 1)))
    if unit is None:
        return None
    y, x = (micrometres(1 / value, unit) for value in _pixels_per_unit(page))
    if y is None or x is None or _is_print(25400 / x) or _is_print(25400 / y):
        return None
    if unit == "cm" and y == x == _PLACEHOLDER_UM:
        return None
    size = believable(y, x, f"TIFF XResolution per {unit}")
    return None if size is None else replace(size, weak=True)


def _pixels_per_unit(page: Any) -> tuple[float, float]:
    """(y, x); ZeroDivisionError and KeyError where the tags are missing or zero."""
    x, y = (page.tags[code].value for code in (282, 283))
    return y[0] / y[1], x[0] / x[1]


def _is_print(dpi: float) -> bool:
    if dpi < _PRINT_DPI * 1.01:
        return True
    # Rounded px/cm of a round dpi (945 px/cm is 2400 dpi) count as round.
    near = (round(dpi / step) * step for step in _ROUND_DPI)
    return dpi < _SCANNER_DPI * 1.01 and any(abs(dpi - value) < 2e-3 * dpi for value in near)
