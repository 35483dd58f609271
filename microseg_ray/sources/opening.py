"""open_micrograph: the format is what the first bytes say, never what the suffix says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError
from microseg_ray.sources.base import Micrograph, Pixels
from microseg_ray.sources.bounds import reading
from microseg_ray.sources.choices import Wanted
from microseg_ray.sources.formats.rosetta import microscope_format
from microseg_ray.sources.remote import is_url, location, open_binary
from microseg_ray.sources.specimen.bar_colors import gray_above_bar
from microseg_ray.sources.specimen.columns import Columns, column_range

if TYPE_CHECKING:
    import os

    from microseg_ray.settings import SourceSettings
    from microseg_ray.sources.info import Format

__all__ = ["open_micrograph", "open_pixels", "sniff"]

_HEAD_BYTES = 256
_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"BM", "bmp"),
    (b"SIMPLE  =", "fits"),
)
_FOREIGN = (
    (b"GIF8", "a GIF"),
    (b"ZISRAWFILE", "a Zeiss CZI"),
    (b"\0\0\0\x0cjP", "a JPEG 2000"),
    (b"RIFF", "a WebP"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"%PDF", "a PDF"),
)
_EXPORT = "export the micrograph as TIFF, PNG or OME-Zarr"


def open_micrograph(path: str | os.PathLike[str], source: SourceSettings | None = None) -> Micrograph:
    """Open a micrograph for reading by region.

    Reads headers only, except where an RGB file may be gray: then some or all of its pixels are compared. Alpha is
    dropped, palettes are looked up, RGB(A) is gray where the channels are equal, those of an info bar not counted. Of a
    pyramid the full-resolution level is read.

    Args:
        path: A file, a zarr folder, or the URL of one; docs/formats.md lists the formats.
        source: Which page, channel and columns of the file are the micrograph; the defaults where None: the first page,
            gray or RGB as they are, all columns.

    Returns:
        The micrograph; close it, or use it in a `with` statement.

    Raises:
        InputError: The file is missing, empty, damaged, not supported, or claims an absurd size; it has no such page or
            channel, or a choice of channel is needed; a library for its format is not installed.

    Example:
        >>> open_micrograph("missing.tif")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: missing.tif: no such file or folder; check the path
    """
    name = location(path)
    pixels = open_pixels(name, source)
    try:
        if source is not None and source.columns != "all":
            pixels = Columns(pixels, *column_range(name, source.columns, pixels.shape[1]))
        return Micrograph(name, gray_above_bar(name, pixels, source), source)
    except BaseException:
        pixels.close()
        raise


def open_pixels(path: str, source: SourceSettings | None = None, *, labels: bool = False) -> Pixels:
    """The reader of the format that the content says.

    Args:
        path: File or zarr folder; a path or a URL.
        source: Page and channel.
        labels: Keep the numbers that the file stores (palette indices, 1 for a set bit): it is a mask.

    Raises:
        InputError: As `open_micrograph`; JPEG where `labels`.
    """
    wanted = Wanted(labels=labels) if source is None else Wanted(source.page, source.channel, labels=labels)
    kind = sniff(path)
    with reading(path, f"the {kind.upper()} cannot be opened"):
        return _made(path, wanted, kind)


def _made(path: str, wanted: Wanted, kind: Format) -> Pixels:
    # Each library is loaded only by a process that reads such files.
    match kind:
        case "tiff":
            from microseg_ray.sources.formats.tiff import TiffPixels

            return TiffPixels(path, wanted)
        case "png" | "jpeg" | "bmp":
            from microseg_ray.sources.formats import raster

            maker = {"png": raster.open_png, "jpeg": raster.open_jpeg, "bmp": raster.open_bmp}[kind]
            return maker(path, wanted)
        case "zarr":
            from microseg_ray.sources.formats.zarr_array import ZarrPixels

            return ZarrPixels(path, wanted)
        case "fits":
            from microseg_ray.sources.formats.fits import FitsPixels

            return FitsPixels(path, wanted)
        case _:
            from microseg_ray.sources.formats.rosetta import RosettaPixels

            return RosettaPixels(path, wanted, kind)


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
        if _is_folder(path):
            return "zarr"
        with open_binary(path) as file:
            head = file.read(_HEAD_BYTES)
    if not head:
        raise InputError(path, "the file is empty (0 bytes)", "copy it again from the microscope")
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if kind_of_microscope := microscope_format(head):
        return kind_of_microscope
    for magic, what in _FOREIGN:
        if head.startswith(magic):
            raise InputError(path, f"this is {what}, which is not supported", _EXPORT)
    what = "text" if head.isascii() and b"\0" not in head else "of an unknown format"
    raise InputError(path, f"this is no image: the content is {what} and begins with {head[:12]!r}", _EXPORT)


def _is_folder(path: str) -> bool:
    if not is_url(path):
        return Path(path).is_dir()
    from microseg_ray.sources.formats.zarr_array import is_zarr

    # What a folder is, only some protocols know; a file of this suffix is none of the other formats.
    return path.rstrip("/").lower().endswith(".zarr") and is_zarr(path)
