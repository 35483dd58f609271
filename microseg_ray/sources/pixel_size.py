"""The pixel size that a file states, and which entry states it. Never a guess: no trustworthy entry, no pixel size."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["PixelSize", "micrometres", "of_ome_xml", "of_ome_zarr", "of_tiff"]

_UNITS = {
    "m": 1e6, "meter": 1e6, "metre": 1e6,
    "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4,
    "mm": 1e3, "millimeter": 1e3, "millimetre": 1e3,
    "um": 1.0, "µm": 1.0, "μm": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3,
    "å": 1e-4, "a": 1e-4, "angstrom": 1e-4,
    "pm": 1e-6, "picometer": 1e-6, "picometre": 1e-6,
    "inch": 25400.0, "in": 25400.0,
}  # fmt: skip
_SMALLEST_UM, _LARGEST_UM = 1e-6, 1e3
_MAX_XML = 16 << 20
# A resolution tag up to 1200 dpi (21 um a pixel) is what a printer or a screen had (96, 146, 300, 314 ... are seen in real
# micrographs), and so are the round resolutions of scanners and image setters above it.
_PRINT_DPI, _ROUND_DPI, _SCANNER_DPI = 1200, (72, 96, 100), 9600


@dataclass(frozen=True)
class PixelSize:
    """A pixel's height and width in micrometres, and which entry of the file says so.

    Example:
        >>> PixelSize(0.5, 0.25, "OME PhysicalSizeX").y
        0.5
    """

    y: float
    x: float
    source: str


def micrometres(value: float, unit: str) -> float | None:
    """A length in micrometres, or None for an unknown unit.

    Example:
        >>> micrometres(5, "nm"), micrometres(5, "pixel")
        (0.005, None)
    """
    factor = _UNITS.get(unit.strip().casefold().replace("ångström", "angstrom"))
    return None if factor is None else value * factor


def of_tiff(tiff: Any, page: Any) -> PixelSize | None:
    """The pixel size that a TIFF states: OME-XML, FEI/ThermoFisher, Zeiss, ImageJ, then the resolution tags.

    Args:
        tiff: An open `tifffile.TiffFile`.
        page: Its page that is read.
    """
    readers: tuple[Callable[[], PixelSize | None], ...] = (
        lambda: of_ome_xml(tiff.ome_metadata) if tiff.is_ome else None,
        lambda: _fei(tiff.fei_metadata) if tiff.is_fei else None,
        lambda: _zeiss(tiff.sem_metadata) if tiff.is_sem else None,
        lambda: _imagej(tiff.imagej_metadata, page) if tiff.is_imagej else None,
        # ImageJ's tags count pixels per its own unit, whatever the unit tag says.
        lambda: None if tiff.is_imagej else _resolution(page),
    )
    for reader in readers:
        try:
            size = reader()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
            continue  # metadata that cannot be understood states nothing; the pixels are still good
        if size is not None:
            return size
    return None


def of_ome_xml(text: str | None) -> PixelSize | None:
    """PhysicalSizeX/Y of the first image of an OME-XML text; the unit is micrometres where none is named (OME schema).

    Example:
        >>> of_ome_xml('<OME><Image><Pixels PhysicalSizeX="5" PhysicalSizeXUnit="nm" PhysicalSizeY="4"/></Image></OME>')
        PixelSize(y=4.0, x=0.005, source='OME PhysicalSizeX')
    """
    # A document type is where entity bombs live; OME-XML has none.
    if not text or len(text) > _MAX_XML or "<!DOCTYPE" in text or "<!ENTITY" in text:
        return None
    from xml.etree import ElementTree as ET

    try:
        root = ET.fromstring(text)  # noqa: S314 - entities are refused above
    except ET.ParseError:
        return None
    pixels = root.find(".//{*}Pixels")
    if pixels is None or "PhysicalSizeX" not in pixels.attrib:
        return None
    x = micrometres(float(pixels.attrib["PhysicalSizeX"]), pixels.attrib.get("PhysicalSizeXUnit", "um"))
    y = x
    if "PhysicalSizeY" in pixels.attrib:
        y = micrometres(float(pixels.attrib["PhysicalSizeY"]), pixels.attrib.get("PhysicalSizeYUnit", "um"))
    return _believable(y, x, "OME PhysicalSizeX")


def of_ome_zarr(multiscale: Mapping[str, Any]) -> PixelSize | None:
    """The scale of the full-resolution level of an OME-Zarr image, where its y and x axes name a unit.

    Args:
        multiscale: One entry of `multiscales`, version 0.4 or 0.5.

    Example:
        >>> axes = [{"name": "y", "unit": "nanometer"}, {"name": "x", "unit": "nanometer"}]
        >>> levels = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [500, 250]}]}]
        >>> of_ome_zarr({"axes": axes, "datasets": levels})
        PixelSize(y=0.5, x=0.25, source='OME-Zarr scale')
    """
    try:
        axes: Sequence[Mapping[str, Any]] = multiscale["axes"]
        scale = [1.0] * len(axes)
        transforms = [
            *multiscale["datasets"][0]["coordinateTransformations"],
            *multiscale.get("coordinateTransformations", []),
        ]
        for transform in transforms:
            if transform["type"] == "scale":
                scale = [a * float(b) for a, b in zip(scale, transform["scale"], strict=True)]
        names = [axis["name"] for axis in axes]
        y, x = names.index("y"), names.index("x")
        sizes = [micrometres(scale[axis], axes[axis]["unit"]) for axis in (y, x)]
    except (AttributeError, LookupError, TypeError, ValueError):
        return None
    return _believable(sizes[0], sizes[1], "OME-Zarr scale")


def _fei(metadata: Mapping[str, Any]) -> PixelSize | None:
    scan = metadata["Scan"]
    return _believable(float(scan["PixelHeight"]) * 1e6, float(scan["PixelWidth"]) * 1e6, "FEI Scan.PixelWidth")


def _zeiss(metadata: Mapping[str, Any]) -> PixelSize | None:
    # ap_pixel_size is off by a factor of two in some versions of SmartSEM; ap_image_pixel_size is what the image has.
    _, value, unit = metadata["ap_image_pixel_size"]
    size = micrometres(float(value), unit)
    return _believable(size, size, "Zeiss ap_image_pixel_size")


def _imagej(metadata: Mapping[str, Any], page: Any) -> PixelSize | None:
    unit = str(metadata["unit"])
    y, x = (micrometres(1 / value, unit) for value in _pixels_per_unit(page))
    if unit.strip().casefold() in {"inch", "in", "cm"} and x is not None and _is_print(25400 / x):
        return None
    return _believable(y, x, f"ImageJ unit {unit}")


def _resolution(page: Any) -> PixelSize | None:
    unit = {2: "inch", 3: "cm"}.get(int(page.tags.valueof(296, 1)))
    if unit is None:
        return None
    y, x = (micrometres(1 / value, unit) for value in _pixels_per_unit(page))
    if y is None or x is None or _is_print(25400 / x) or _is_print(25400 / y):
        return None
    return _believable(y, x, f"TIFF XResolution per {unit}")


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


def _believable(y: float | None, x: float | None, source: str) -> PixelSize | None:
    if y is None or x is None:
        return None
    if not all(math.isfinite(value) and _SMALLEST_UM <= value < _LARGEST_UM for value in (y, x)):
        return None
    return PixelSize(y, x, re.sub(r"\s+", " ", source))
