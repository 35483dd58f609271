"""open_micrograph: the format is what the first bytes say, never what the suffix says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError
from microseg_ray.sources.base import Format, Micrograph, Pixels, reading

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.settings import SourceSettings

__all__ = ["open_micrograph", "open_pixels", "sniff"]

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
)
_FOREIGN = (
    (b"BM", "a BMP"),
    (b"GIF8", "a GIF"),
    (b"\x89HDF", "an HDF5 file (EMD, ilastik)"),
    (b"ZISRAWFILE", "a Zeiss CZI"),
    (b"\0\0\0\x03", "a Gatan DM3"),
    (b"\0\0\0\x04", "a Gatan DM4"),
    (b"\0\0\0\x0cjP", "a JPEG 2000"),
    (b"RIFF", "a WebP"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF", "a PDF"),
)
_EXPORT = "export the micrograph as TIFF, PNG or OME-Zarr"


def open_micrograph(path: str | os.PathLike[str], source: SourceSettings | None = None) -> Micrograph:  # noqa: ARG001
    """Open a micrograph for reading by region.

    Reads headers only, except where telling gray from colour needs the pixels of an RGB file that is decoded whole.
    Of a file with several pages the first is read. Alpha is dropped, palettes are looked up, RGB(A) with equal channels
    is gray.

    Args:
        path: TIFF, BigTIFF, PNG, JPEG, a zarr array or an OME-Zarr 0.4/0.5 image (its full-resolution level); local.
        source: Which part of the file is the micrograph; the defaults where None.

    Returns:
        The micrograph; close it, or use it in a `with` statement.

    Raises:
        InputError: The file is missing, empty, damaged, not supported, or claims an absurd size.

    Example:
        >>> open_micrograph("missing.tif")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: missing.tif: no such file or folder; check the path
    """
    name = os.fspath(path)
    pixels = open_pixels(name, labels=False)
    try:
        return Micrograph(name, pixels)
    except BaseException:
        pixels.close()
        raise


def open_pixels(path: str, *, labels: bool) -> Pixels:
    """The reader of the format that the content says.

    Args:
        path: File or zarr folder.
        labels: Keep the numbers that the file stores (palette indices, 1 for a set bit): it is a mask.

    Raises:
        InputError: As `open_micrograph`; JPEG where `labels`.
    """
    # Each library is loaded only by a process that reads such files.
    from microseg_ray.sources.raster import open_jpeg, open_png
    from microseg_ray.sources.tiff import TiffPixels
    from microseg_ray.sources.zarr_source import ZarrPixels

    kind = sniff(path)
    if labels and kind == "jpeg":
        raise InputError(path, "a JPEG cannot hold a mask, its compression changes labels", "save it as PNG or TIFF")
    makers: dict[Format, Callable[[str, bool], Pixels]] = {
        "tiff": TiffPixels,
        "png": open_png,
        "jpeg": lambda file, _labels: open_jpeg(file),
        "zarr": lambda file, _labels: ZarrPixels(file),
    }
    with reading(path, f"the {kind.upper()} cannot be opened"):
        return makers[kind](path, labels)


def sniff(path: str) -> Format:
    r"""The format of a file by its first bytes; a folder is zarr.

    Raises:
        InputError: Missing, empty, or none of the supported formats.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile(suffix=".jpg") as file:
        ...     _ = file.write(b"II*\0") + file.seek(0)
        ...     sniff(file.name)
        'tiff'
    """
    with reading(path, "the file cannot be read"):
        if Path(path).is_dir():
            return "zarr"
        with Path(path).open("rb") as file:
            head = file.read(64)
    if not head:
        raise InputError(path, "the file is empty (0 bytes)", "copy it again from the microscope")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise InputError(path, f"this is {what}, which is not supported", _EXPORT)
    what = "text" if head.isascii() and b"\0" not in head else "of an unknown format"
    raise InputError(path, f"this is no image: the content is {what} and begins with {head[:12]!r}", _EXPORT)
