"""open_micrograph: the format is what the first bytes say, never what the suffix says."""

from __future__ import annotations

import os
from dataclasses import replace
from importlib import import_module
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError
from microseg_ray.sources.base import Micrograph, Pixels
from microseg_ray.sources.bounds import limits_of, reading
from microseg_ray.sources.choices import Wanted
from microseg_ray.sources.magic import EXPORT, foreign, known
from microseg_ray.sources.narrowed import narrowed
from microseg_ray.sources.oriented import upright
from microseg_ray.sources.patience import patience, within
from microseg_ray.sources.remote import is_url, location, open_binary
from microseg_ray.sources.specimen.bar_colors import gray_above_bar
from microseg_ray.sources.specimen.columns import Columns, column_range

if TYPE_CHECKING:
    from microseg_ray.files import Where
    from microseg_ray.settings import SourceSettings
    from microseg_ray.sources.info import Format

__all__ = ["open_micrograph", "open_pixels", "sniff"]

_HEAD_BYTES = 256
_SUFFIXES: dict[str, Format] = {
    ".tif": "tiff", ".tiff": "tiff", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".bmp": "bmp", ".jp2": "jpeg2000",
    ".webp": "webp", ".czi": "czi", ".nd2": "nd2", ".dm3": "dm3", ".dm4": "dm4", ".emd": "emd", ".ser": "ser", ".mrc": "mrc",
    ".fits": "fits",
}  # fmt: skip
_READERS: dict[Format, tuple[str, str]] = {
    "tiff": ("tiff", "TiffPixels"),
    "png": ("raster", "open_png"),
    "jpeg": ("raster", "open_jpeg"),
    "bmp": ("raster", "open_bmp"),
    "jpeg2000": ("jpeg2000", "open_jpeg2000"),
    "webp": ("webp", "open_webp"),
    "czi": ("czi", "CziPixels"),
    "nd2": ("nd2", "Nd2Pixels"),
    "mrc": ("mrc", "MrcPixels"),
    "zarr": ("zarr_array", "ZarrPixels"),
    "fits": ("fits", "FitsPixels"),
}
"""Module and name of each format's reader; what is not listed is read by rosettasciio."""


def open_micrograph(path: Where, source: SourceSettings | None = None) -> Micrograph:
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
    return within(patience(source), name, lambda: _open(name, source))


def _open(name: str, source: SourceSettings | None) -> Micrograph:
    pixels = open_pixels(name, source)
    try:
        pixels = narrowed(name, pixels)
        if source is not None and source.columns != "all":
            pixels = Columns(pixels, *column_range(name, source.columns, pixels.shape[1]))
        return _named(Micrograph(name, gray_above_bar(name, pixels, source), source))
    except BaseException:
        pixels.close()
        raise


def _named(micrograph: Micrograph) -> Micrograph:
    """The micrograph, with a note where its name says another format than its content."""
    info = micrograph.info
    said = _SUFFIXES.get(PurePosixPath(info.path).suffix.lower(), info.format)
    if said != info.format:
        note = f"the file is {info.format.upper()} although its name says {said.upper()}; it is read as what it is"
        micrograph.info = replace(info, notes=(note, *info.notes))
    return micrograph


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
    with limits_of(source), reading(path, f"the {kind.upper()} cannot be opened"):
        return upright(_made(path, wanted, kind))


def _made(path: str, wanted: Wanted, kind: Format) -> Pixels:
    # Each library is loaded only by a process that reads such files.
    module, name = _READERS.get(kind, ("rosetta", "RosettaPixels"))
    reader = getattr(import_module(f"microseg_ray.sources.formats.{module}"), name)
    pixels: Pixels = reader(path, wanted) if kind in _READERS else reader(path, wanted, kind)
    return pixels


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
    if kind := known(head):
        # Nikon's older files are JPEG 2000 in a container of their own.
        return "nd2" if kind == "jpeg2000" and path.lower().endswith(".nd2") else kind
    if other := foreign(head):
        raise InputError(path, f"this is {other[0]}", other[1])
    what = "text" if head.isascii() and b"\0" not in head else "of an unknown format"
    raise InputError(path, f"this is no image: the content is {what} and begins with {head[:12]!r}", EXPORT)


def _is_folder(path: str) -> bool:
    if not is_url(path):
        return os.path.isdir(path)  # noqa: PTH112 - asked of every file of an archive
    from microseg_ray.sources.formats.zarr_array import is_zarr

    # What a folder is, only some protocols know; a file of this suffix is none of the other formats.
    return path.rstrip("/").lower().endswith(".zarr") and is_zarr(path)
