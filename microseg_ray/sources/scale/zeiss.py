"""Pixel sizes in the tags of Zeiss SmartSEM, each with the grid that it counts for."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from microseg_ray.sources.scale.grid import Grid
from microseg_ray.sources.scale.pixel_size import PixelSize, believable, micrometres

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["zeiss_claims"]

_SCREEN = 1024  # columns that `ap_pixel_size` and the unnamed entry count for, whatever the file has
_STORED = (512, 1024, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768)
_ROUNDING = 2e-3  # the tags have four digits


def zeiss_claims(metadata: Mapping[str, Any], shape: tuple[int, int]) -> list[PixelSize | None]:
    """What SmartSEM's tags state, the most trustworthy first.

    The image's own pixel size counts for the stored resolution (`dp_image_store`); width and height of the field are
    those of the whole image; `ap_pixel_size` and the unnamed entry count for a screen of 1024 columns.

    Args:
        metadata: `tifffile.TiffFile.sem_metadata`.
        shape: (height, width) of the file.

    Example:
        >>> tags = {"ap_pixel_size": ("", 5.825, "nm"), "ap_width": ("", 5.965, "um"), "ap_height": ("", 4.474, "um")}
        >>> zeiss_claims(tags, (384, 512))[1].source
        'Zeiss ap_width / columns'
    """
    stored = _stored(metadata)
    field = _length(metadata, "ap_height"), _length(metadata, "ap_width")
    image = _length(metadata, "ap_image_pixel_size")
    claims = [
        None
        if image is None
        else believable(image, image, "Zeiss ap_image_pixel_size", stored or _covering(field, image, shape)),
        _by_field(field, stored, shape),
    ]
    if stored is None and claims[1] is not None:
        stored = Grid(shape[1], (shape[0],))
    unnamed: Sequence[Any] = metadata.get("") or ()
    sizes = {"ap_pixel_size": _length(metadata, "ap_pixel_size")}
    sizes["unnamed entry 3"] = float(unnamed[3]) * 1e6 if len(unnamed) > 3 else None
    for name, size in sizes.items():
        if size:
            screen = _covering(field, size, shape)
            if screen is None and image is None and shape[1] not in _STORED:
                screen = Grid(_SCREEN, (_SCREEN * 3 // 4,))
            claims.append(_by_screen(f"Zeiss {name}", size, screen, stored, shape))
    return claims


def _length(metadata: Mapping[str, Any], name: str) -> float | None:
    """An entry in micrometres; None where it is missing or no length."""
    try:
        _, value, unit = metadata[name]
        found = micrometres(float(value), str(unit))
    except (KeyError, TypeError, ValueError):
        return None
    return found or None


def _stored(metadata: Mapping[str, Any]) -> Grid | None:
    found = re.match(r"\s*(\d+)\s*\*\s*(\d+)\s*$", str((metadata.get("dp_image_store") or ("", ""))[-1]))
    return None if found is None else Grid(int(found[1]), (int(found[2]),))


def _covering(field: tuple[float | None, float | None], size: float, shape: tuple[int, int]) -> Grid | None:
    """The grid with pixels of a size that covers the field: rounded numbers, so that a resolution near it is meant."""
    height, width = field
    if height is None or width is None:
        return None
    return Grid(
        _near(width / size, (shape[1], *_STORED)), (_near(height / size, (shape[0], *(n * 3 // 4 for n in _STORED))),)
    )


def _near(value: float, known: Sequence[int]) -> int:
    return next((number for number in known if abs(number - value) <= max(1.0, _ROUNDING * number)), round(value))


def _by_field(
    field: tuple[float | None, float | None], stored: Grid | None, shape: tuple[int, int]
) -> PixelSize | None:
    height, width = field
    if height is None or width is None:
        return None
    source = "Zeiss ap_width / columns"
    if stored is not None:
        return believable(height / stored.heights[0], width / stored.width, source, stored)
    size = width / shape[1]
    # A field of other proportions is that of an image from which this one was cut.
    fits = abs(height / size - shape[0]) <= 1 + _ROUNDING * shape[0]
    return believable(size, size, source) if fits else None


def _by_screen(
    source: str, size: float, screen: Grid | None, image: Grid | None, shape: tuple[int, int]
) -> PixelSize | None:
    """The size of a pixel on the screen, for the pixels of the image where its grid is known."""
    if screen is not None and image is not None:
        size *= screen.width / image.width
        return believable(size, size, source, image)
    if screen is None and shape[1] in _STORED:
        size *= _SCREEN / shape[1]
        return believable(size, size, source)
    return believable(size, size, source, screen)
