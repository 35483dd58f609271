"""The pixel size that a file states, and which entry states it. Never a guess: no trustworthy entry, no pixel size."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from microseg_ray.sources.scale.grid import Grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["PixelSize", "apart", "believable", "best_of", "micrometres", "of_ome_xml", "of_ome_zarr"]

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
_DISAGREE = 0.05
_MAX_XML = 16 << 20


@dataclass(frozen=True)
class PixelSize:
    """A pixel's height and width in micrometres, and which entry of the file says so.

    Attributes:
        y: Height.
        x: Width.
        source: The entry.
        notes: Which other entries say something else, one sentence each.
        weak: From resolution tags, which any program may have written: what the microscope says goes before it.
        grid: The grid that the entry was written for, where it names one: see `fitted`.

    Example:
        >>> PixelSize(0.5, 0.25, "OME PhysicalSizeX").y
        0.5
    """

    y: float
    x: float
    source: str
    notes: tuple[str, ...] = field(default=(), repr=False)
    weak: bool = field(default=False, repr=False)
    grid: Grid | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{self.y:.6g} x {self.x:.6g} um"


def apart(one: tuple[float, float], other: tuple[float, float]) -> float:
    """How far two pixel sizes (y, x) differ, as a share: 0.05 where one is 5 % larger along either axis.

    Example:
        >>> round(apart((0.5, 0.5), (0.5, 0.55)), 3)
        0.1
    """
    return max(max(a, b) / min(a, b) for a, b in zip(one, other, strict=True)) - 1


def best_of(claims: Sequence[PixelSize | None]) -> PixelSize | None:
    """The first of several claims, with a note for each later one that differs by more than 5 %.

    Args:
        claims: The most trustworthy first; None where an entry says nothing.

    Example:
        >>> best_of([None, PixelSize(1, 1, "A"), PixelSize(2, 2, "B"), PixelSize(1.04, 1, "C")]).notes
        ('pixel sizes disagree: A says 1 x 1 um, B says 2 x 2 um; A is used',)
    """
    found = [claim for claim in claims if claim is not None]
    if not found:
        return None
    best = found[0]
    notes = [note for claim in found for note in claim.notes]
    notes += [
        f"pixel sizes disagree: {best.source} says {best}, {claim.source} says {claim}; {best.source} is used"
        for claim in found[1:]
        if apart((best.y, best.x), (claim.y, claim.x)) > _DISAGREE
    ]
    return replace(best, notes=tuple(dict.fromkeys(notes)))


def micrometres(value: float, unit: str) -> float | None:
    """A length in micrometres, or None for an unknown unit.

    Example:
        >>> micrometres(5, "nm"), micrometres(5, "pixel")
        (0.005, None)
    """
    factor = _UNITS.get(unit.strip().casefold().replace("ångström", "angstrom"))
    return None if factor is None else value * factor


def of_ome_xml(text: str | None) -> PixelSize | None:
    """PhysicalSizeX/Y of the first image of an OME-XML text; the unit is micrometres where none is named (OME schema).

    Example:
        >>> of_ome_xml('<OME><Image><Pixels PhysicalSizeX="5" PhysicalSizeXUnit="nm" PhysicalSizeY="4"/></Image></OME>')
        PixelSize(y=4.0, x=0.005, source='OME PhysicalSizeX')
    """
    if not text or len(text) > _MAX_XML:
        return None
    from xml.etree import ElementTree as ET

    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        # A document type is where entity bombs live; OME-XML has none.
        root = fromstring(text, forbid_dtd=True)
    except (ET.ParseError, DefusedXmlException):
        return None
    pixels = root.find(".//{*}Pixels")
    if pixels is None or "PhysicalSizeX" not in pixels.attrib:
        return None
    x = micrometres(float(pixels.attrib["PhysicalSizeX"]), pixels.attrib.get("PhysicalSizeXUnit", "um"))
    y = x
    if "PhysicalSizeY" in pixels.attrib:
        y = micrometres(float(pixels.attrib["PhysicalSizeY"]), pixels.attrib.get("PhysicalSizeYUnit", "um"))
    grid = None
    if {"SizeX", "SizeY"} <= set(pixels.attrib):
        grid = Grid(int(pixels.attrib["SizeX"]), (int(pixels.attrib["SizeY"]),))
    return believable(y, x, "OME PhysicalSizeX", grid)


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
    return believable(sizes[0], sizes[1], "OME-Zarr scale")


def believable(y: float | None, x: float | None, source: str, grid: Grid | None = None) -> PixelSize | None:
    """A pixel size, or None where it is no length that a micrograph's pixel has (1 pm to 1 mm).

    Args:
        y: Height in micrometres, None where unknown.
        x: Width.
        source: Which entry says so.
        grid: The grid that it was written for.

    Example:
        >>> believable(0.0, 0.5, "a tag") is None
        True
    """
    if y is None or x is None:
        return None
    if not all(math.isfinite(value) and _SMALLEST_UM <= value < _LARGEST_UM for value in (y, x)):
        return None
    return PixelSize(y, x, re.sub(r"\s+", " ", source), grid=grid)
