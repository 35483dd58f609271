"""Which files of a folder are opened: those of formats that are read, and those of known formats that are not.

A file of a known format that is not read is listed all the same, so that opening it says what it is and what to do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from microseg_ray.sources.magic import foreign, known

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["NAMED", "SUFFIXES", "is_listed"]

SUFFIXES = (
    ".tif", ".tiff", ".btf", ".tf8", ".png", ".jpg", ".jpeg", ".bmp", ".zarr", ".fits", ".fit", ".fts", ".dm3", ".dm4", ".emd",
    ".ser", ".mrc", ".mrcs", ".map", ".ccp4", ".jp2", ".j2k", ".jpx", ".webp", ".czi", ".nd2", ".lsm",
)  # fmt: skip
"""Suffixes of the formats that are read, in lower case; a file that is named itself may have any."""

NAMED = (
    ".gif", ".dcm", ".dicom", ".lif", ".oib", ".oif", ".zvi", ".vsi", ".emi", ".heic", ".heif", ".avif", ".jxl", ".exr", ".psd",
    ".nii", ".nrrd", ".mha", ".ims", ".svs", ".ndpi", ".scn", ".mrxs", ".jfif", ".jpe", ".j2c", ".dm2", ".stk", ".pgm", ".ppm",
    ".tga", ".hspy", ".bcf",
)  # fmt: skip
"""Suffixes of other image formats. Their files are listed too: each is read by its content, or refused by name."""

_HEAD_BYTES = 256


def is_listed(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether a file of a folder or a glob is one that is meant.

    A file without a suffix, or with a number in its place, is one where its first bytes are those of an image. A TIA `.emi`
    is none where the `.ser` with its pixels is in the same folder.

    Args:
        path: The file.
        suffixes: Lower-case suffixes; with the default those of `NAMED` count, too.

    Example:
        >>> from pathlib import Path
        >>> is_listed(Path("a.TIF")), is_listed(Path("a.dcm")), is_listed(Path("a.dcm"), (".tif",)), is_listed(Path("a.txt"))
        (True, True, False, False)
    """
    suffix = path.suffix.lower()
    if suffix in suffixes or suffixes is not SUFFIXES:
        return suffix in suffixes
    if suffix == ".emi":
        return not _has_series(path)
    return suffix in NAMED or (re.fullmatch(r"(\.\d+)?", suffix) is not None and _is_image(path))


def _has_series(path: Path) -> bool:
    name = re.compile(rf"{re.escape(path.stem)}_\d+\.ser", re.IGNORECASE)
    return any(name.fullmatch(other.name) for other in path.parent.iterdir()) if path.parent.is_dir() else False


def _is_image(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError:
        return False
    return known(head) is not None or foreign(head) is not None
