"""What microscopes write into the private tags of a TIFF: pixel size and info bar of FEI, Zeiss, TESCAN, Phenom and Gatan."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from microseg_ray.sources.scale.grid import Grid
from microseg_ray.sources.scale.pixel_size import PixelSize, believable, micrometres
from microseg_ray.sources.scale.statement import StatedBar
from microseg_ray.sources.scale.zeiss import zeiss_claims

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["of_tescan_text", "stated_bar", "understood", "vendor_claims"]

TESCAN, PHENOM = 50431, 34683
GATAN_UNIT, GATAN_SCALE = (65004, 65003), (65010, 65009)  # y, x
_PRIVATE = 32768
_MAX_TAG = 16 << 20
T = TypeVar("T")


def vendor_claims(tiff: Any, page: Any) -> list[PixelSize | None]:
    """The pixel sizes in the vendor's tags of a TIFF, the most trustworthy first, each with the grid that it is for.

    Args:
        tiff: An open `tifffile.TiffFile`.
        page: Its page that is read.
    """
    if not _private(tiff, page):
        return []
    readers: tuple[Callable[[], list[PixelSize | None]], ...] = (
        lambda: _fei(tiff.fei_metadata) if tiff.is_fei else [],
        lambda: zeiss_claims(tiff.sem_metadata, _shape(page)) if tiff.is_sem else [],
        lambda: [of_tescan_text(_text(page, TESCAN))[0]],
        lambda: [_phenom(_text(page, PHENOM), _shape(page))],
        lambda: [_gatan(page)],
    )
    return [claim for reader in readers for claim in understood(reader) or []]


def stated_bar(tiff: Any, page: Any) -> StatedBar | None:
    """The info bar that the vendor's tags of a TIFF state; None where they say nothing about one.

    Args:
        tiff: An open `tifffile.TiffFile`.
        page: Its page that is read.
    """
    if not _private(tiff, page):
        return None
    readers: tuple[Callable[[], StatedBar | None], ...] = (
        lambda: _fei_bar(tiff.fei_metadata, int(page.imagelength)) if tiff.is_fei else None,
        lambda: of_tescan_text(_text(page, TESCAN))[1],
        lambda: _phenom_bar(_text(page, PHENOM), _shape(page)),
    )
    return next((bar for reader in readers if (bar := understood(reader)) is not None), None)


def _private(tiff: Any, page: Any) -> bool:
    """Whether the page, or the first one, has a tag that a company registered; most converted files have none."""
    return any(max(each.tags.keys(), default=0) >= _PRIVATE for each in (page, tiff.pages.first))


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


def _shape(page: Any) -> tuple[int, int]:
    return int(page.imagelength), int(page.imagewidth)


def _fei(metadata: Mapping[str, Any]) -> list[PixelSize | None]:
    return [*(_fei_scan(metadata, section) for section in ("Scan", "EScan", "IScan")), _fei_field(metadata)]


def _fei_scan(metadata: Mapping[str, Any], section: str) -> PixelSize | None:
    scan = metadata.get(section) or {}
    if "PixelWidth" not in scan:
        return None
    x = float(scan["PixelWidth"])
    y = float(scan.get("PixelHeight") or x)
    grid = _fei_grid(metadata)
    if grid is None and scan.get("HorFieldsize") and scan.get("VerFieldsize"):
        grid = Grid(round(float(scan["HorFieldsize"]) / x), (round(float(scan["VerFieldsize"]) / y),))
    return believable(y * 1e6, x * 1e6, f"FEI {section}.PixelWidth", grid)


def _fei_field(metadata: Mapping[str, Any]) -> PixelSize | None:
    """The horizontal field width over the pixels of a row, where no pixel width is stated (after rosettasciio)."""
    beam = str((metadata.get("Beam") or {}).get("Beam") or "")
    for section in dict.fromkeys((beam, "EBeam", "IBeam", "IRBeam")):
        width = (metadata.get(section) or {}).get("HFW")
        if width:
            size = float(width) * 1e6 / float(metadata["Image"]["ResolutionX"])
            return believable(size, size, f"FEI {section}.HFW / Image.ResolutionX", _fei_grid(metadata))
    return None


def _fei_grid(metadata: Mapping[str, Any]) -> Grid | None:
    """Columns and rows that were scanned; the bar is drawn below them."""
    image = metadata.get("Image") or {}
    try:
        width, height = int(image["ResolutionX"]), int(image["ResolutionY"])
    except (KeyError, TypeError, ValueError):
        return None
    drawn = (metadata.get("PrivateFei") or {}).get("DatabarHeight")
    return Grid(width, (height,) if drawn is None else (height, height + int(drawn)))


def _fei_bar(metadata: Mapping[str, Any], height: int) -> StatedBar | None:
    grid = _fei_grid(metadata)
    drawn = (metadata.get("PrivateFei") or {}).get("DatabarHeight")
    if drawn is None:
        # Rows below the scanned ones are the bar.
        return StatedBar(0, "FEI Image.ResolutionY", grid) if grid is not None and height > grid.heights[0] else None
    source = "FEI PrivateFei.DatabarHeight" if grid is None else "FEI Image.ResolutionY"
    return StatedBar(int(drawn), source, grid) if int(drawn) >= 0 else None


def _phenom(text: str, shape: tuple[int, int]) -> PixelSize | None:
    x, y = (_phenom_length(text, name) for name in ("pixelWidth", "pixelHeight"))
    if x is None:
        return None
    return believable(x if y is None else y, x, "Phenom pixelWidth", _phenom_grid(text, shape))


def _phenom_grid(text: str, shape: tuple[int, int]) -> Grid | None:
    """The area that `cropHint` names, where the file is too small to hold it: it was written for a larger image."""
    # Only the first one is searched: over all of them the time would grow with the square of the text.
    hint = text.partition("<cropHint>")[2].partition("</cropHint>")[0]
    right, bottom = (re.search(rf"<{name}>\s*(\d+)\s*</{name}>", hint) for name in ("right", "bottom"))
    if right is None or bottom is None or (int(right[1]) <= shape[1] and int(bottom[1]) <= shape[0]):
        return None
    bar = re.search(r"<databarHeight>\s*(\d+)\s*</databarHeight>", text)
    rows = int(bottom[1])
    return Grid(int(right[1]), (rows,) if bar is None else (rows, rows + int(bar[1])))


def _phenom_length(text: str, name: str) -> float | None:
    found = re.search(rf'<{name}\s+unit="([^"]+)"\s*>\s*([\d.eE+-]+)\s*</{name}>', text)
    return None if found is None else micrometres(float(found[2]), found[1])


def _phenom_bar(text: str, shape: tuple[int, int]) -> StatedBar | None:
    found = re.search(r"<databarHeight>\s*(\d+)\s*</databarHeight>", text)
    return None if found is None else StatedBar(int(found[1]), "Phenom databarHeight", _phenom_grid(text, shape))


def _gatan(page: Any) -> PixelSize | None:
    """Gatan's DigitalMicrograph: scale and unit of each axis."""
    if any(code not in page.tags for code in (*GATAN_UNIT, *GATAN_SCALE)):
        return None
    y, x = (
        micrometres(float(page.tags.valueof(scale)), str(page.tags.valueof(unit)))
        for unit, scale in zip(GATAN_UNIT, GATAN_SCALE, strict=True)
    )
    return believable(y, x, "Gatan tag 65009")
