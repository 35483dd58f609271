"""What microscopes write into the private tags of a TIFF: pixel size and info bar of FEI, Zeiss, TESCAN and Phenom."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from microseg_ray.sources.scale.pixel_size import PixelSize, believable, best_of, micrometres

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["StatedBar", "of_tescan_text", "of_vendor_tags", "stated_bar", "understood"]

TESCAN, PHENOM = 50431, 34683
_MAX_TAG = 16 << 20
T = TypeVar("T")


@dataclass(frozen=True)
class StatedBar:
    """An info bar as a header states it; 0 rows where it states that there is none.

    Example:
        >>> StatedBar(59, "FEI PrivateFei.DatabarHeight").rows
        59
    """

    rows: int
    source: str


def of_vendor_tags(tiff: Any, page: Any) -> PixelSize | None:
    """The pixel size in the vendor's tags of a TIFF, with a note where two entries disagree.

    Args:
        tiff: An open `tifffile.TiffFile`.
        page: Its page that is read.
    """
    readers: tuple[Callable[[], PixelSize | None], ...] = (
        lambda: _fei(tiff.fei_metadata) if tiff.is_fei else None,
        lambda: _zeiss(tiff.sem_metadata, page) if tiff.is_sem else None,
        lambda: of_tescan_text(_text(page, TESCAN))[0],
        lambda: _phenom(_text(page, PHENOM)),
    )
    return best_of([understood(reader) for reader in readers])


def stated_bar(tiff: Any, page: Any) -> StatedBar | None:
    """The info bar that the vendor's tags of a TIFF state; None where they say nothing about one.

    Args:
        tiff: An open `tifffile.TiffFile`.
        page: Its page that is read.
    """
    readers: tuple[Callable[[], StatedBar | None], ...] = (
        lambda: _fei_bar(tiff.fei_metadata, int(page.imagelength)) if tiff.is_fei else None,
        lambda: of_tescan_text(_text(page, TESCAN))[1],
        lambda: _phenom_bar(_text(page, PHENOM)),
    )
    return next((bar for reader in readers if (bar := understood(reader)) is not None), None)


def understood(reader: Callable[[], T | None]) -> T | None:
    """What a reader returns; None where the metadata cannot be understood: they state nothing, the pixels are still good.

    Example:
        >>> understood(lambda: 1 // 0) is None
        True
    """
    try:
        return reader()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None


def of_tescan_text(text: str, where: str = "") -> tuple[PixelSize | None, StatedBar | None]:
    r"""Pixel size and info bar of TESCAN's key=value text, from tag 50431 or a `.hdr` file; metres.

    Args:
        text: The text, possibly with bytes of an embedded thumbnail before it.
        where: Added to the provenance.

    Example:
        >>> of_tescan_text("ImageStripSize=80\nPixelSizeX=2e-08\nPixelSizeY=2e-08\n")[0].source
        'TESCAN PixelSizeX'
    """
    values = {
        key: float(found[1])
        for key in ("PixelSizeX", "PixelSizeY", "ImageStripSize")
        if (found := re.search(rf"^{key}\s*=\s*([\d.eE+-]+)\s*$", text, re.MULTILINE))
    }
    x = values.get("PixelSizeX")
    y = values.get("PixelSizeY", x)
    size = None if x is None or y is None else believable(y * 1e6, x * 1e6, f"TESCAN PixelSizeX{where}")
    rows = values.get("ImageStripSize")
    return size, None if rows is None or rows < 0 else StatedBar(int(rows), f"TESCAN ImageStripSize{where}")


def _text(page: Any, code: int) -> str:
    """The value of a text tag, whatever type it was written with."""
    value = page.tags.valueof(code)
    if isinstance(value, tuple):
        value = bytes(value)
    if isinstance(value, bytes):
        value = value[-_MAX_TAG:].decode("latin-1")
    return re.sub(r"\r\n?", "\n", value[-_MAX_TAG:]) if isinstance(value, str) else ""


def _fei(metadata: Mapping[str, Any]) -> PixelSize | None:
    claims = [_fei_scan(metadata, section) for section in ("Scan", "EScan", "IScan")]
    return best_of([*claims, _fei_field(metadata)])


def _fei_scan(metadata: Mapping[str, Any], section: str) -> PixelSize | None:
    scan = metadata.get(section) or {}
    if "PixelWidth" not in scan:
        return None
    x = float(scan["PixelWidth"])
    y = float(scan.get("PixelHeight") or x)
    return believable(y * 1e6, x * 1e6, f"FEI {section}.PixelWidth")


def _fei_field(metadata: Mapping[str, Any]) -> PixelSize | None:
    """The horizontal field width over the pixels of a row, where no pixel width is stated (after rosettasciio)."""
    beam = str((metadata.get("Beam") or {}).get("Beam") or "")
    for section in dict.fromkeys((beam, "EBeam", "IBeam", "IRBeam")):
        width = (metadata.get(section) or {}).get("HFW")
        if width:
            size = float(width) * 1e6 / float(metadata["Image"]["ResolutionX"])
            return believable(size, size, f"FEI {section}.HFW / Image.ResolutionX")
    return None


def _fei_bar(metadata: Mapping[str, Any], height: int) -> StatedBar | None:
    scanned = (metadata.get("Image") or {}).get("ResolutionY")
    if scanned and 0 < int(scanned) < height:
        return StatedBar(height - int(scanned), "FEI Image.ResolutionY")
    drawn = (metadata.get("PrivateFei") or {}).get("DatabarHeight")
    # The bar lies outside of what was scanned: where the file is no higher than that, it was cut off or never drawn.
    if scanned and drawn is not None:
        return StatedBar(0, "FEI Image.ResolutionY")
    return StatedBar(int(drawn), "FEI PrivateFei.DatabarHeight") if drawn is not None and int(drawn) >= 0 else None


def _zeiss(metadata: Mapping[str, Any], page: Any) -> PixelSize | None:
    """SmartSEM: the image's own pixel size first; two others check it.

    `ap_pixel_size` is off by a factor of two in some versions; the unnamed entry counts for 1024 px a row (rosettasciio).
    """
    claims = [_zeiss_entry(metadata, name) for name in ("ap_image_pixel_size", "ap_pixel_size")]
    unnamed: Sequence[Any] = metadata.get("") or ()
    if len(unnamed) > 3:
        size = float(unnamed[3]) * 1e6 * 1024 / int(page.imagewidth)
        claims.append(believable(size, size, "Zeiss unnamed entry 3"))
    return best_of(claims)


def _zeiss_entry(metadata: Mapping[str, Any], name: str) -> PixelSize | None:
    if name not in metadata:
        return None
    _, value, unit = metadata[name]
    size = micrometres(float(value), unit)
    return believable(size, size, f"Zeiss {name}")


def _phenom(text: str) -> PixelSize | None:
    x, y = (_phenom_length(text, name) for name in ("pixelWidth", "pixelHeight"))
    return None if x is None else believable(x if y is None else y, x, "Phenom pixelWidth")


def _phenom_length(text: str, name: str) -> float | None:
    found = re.search(rf'<{name}\s+unit="([^"]+)"\s*>\s*([\d.eE+-]+)\s*</{name}>', text)
    return None if found is None else micrometres(float(found[2]), found[1])


def _phenom_bar(text: str) -> StatedBar | None:
    found = re.search(r"<databarHeight>\s*(\d+)\s*</databarHeight>", text)
    return None if found is None else StatedBar(int(found[1]), "Phenom databarHeight")
