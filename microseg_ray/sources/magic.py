"""What a file is by its first 256 bytes: a format that is read, or another that is known by name."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microseg_ray.sources.info import Format

__all__ = ["foreign", "known"]

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),
    (b"MM\0+", "tiff"),
    (b"BM", "bmp"),
    (b"SIMPLE  =", "fits"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "jpeg2000"),
    (b"\xff\x4f\xff\x51", "jpeg2000"),
    (b"ZISRAWFILE", "czi"),
    (b"\xda\xce\xbe\x0a", "nd2"),
    (b"II\x97\x01", "ser"),
    (b"\x89HDF\r\n\x1a\n", "emd"),
)
_MRC_MODES = frozenset({0, 1, 2, 3, 4, 6, 12})
_MRC_SIDE = 1 << 20  # columns, rows or sections of a header that is believed without a stamp
EXPORT = "export the micrograph as TIFF, PNG or OME-Zarr"
"""What to do with a file that cannot be read."""

_FIJI = "open it in Fiji (Bio-Formats) and save it as OME-TIFF"
_FOREIGN: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"version https://git-lfs", "a Git LFS pointer, not the image itself", "run `git lfs pull` in its repository"),
    (0, b"GIF8", "a GIF, which is not supported", EXPORT),
    (128, b"DICM", "a DICOM file, which is not supported", "save its image as TIFF"),
    (0, b"\xd0\xcf\x11\xe0", "an OLE file (Olympus OIB, Zeiss ZVI), which is not supported", _FIJI),
    (0, b"JK\0\x02", "a TIA EMI, which holds metadata only", "name the .ser file beside it, which holds the pixels"),
    (4, b"ftypheic", "a HEIC photograph, which is not supported", EXPORT),
    (4, b"ftypmif1", "a HEIF photograph, which is not supported", EXPORT),
    (4, b"ftypavif", "an AVIF, which is not supported", EXPORT),
    (0, b"\xff\x0a", "a JPEG XL, which is not supported", EXPORT),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL, which is not supported", EXPORT),
    (0, b"v/1\x01", "an OpenEXR, which is not supported", EXPORT),
    (0, b"8BPS", "a Photoshop document, which is not supported", EXPORT),
    (0, b"NRRD", "an NRRD, which is not supported", EXPORT),
    (344, b"n+1\0", "a NIfTI, which is not supported", EXPORT),
    (0, b"P5\n", "a PGM, which is not supported", EXPORT),
    (0, b"P6\n", "a PPM, which is not supported", EXPORT),
    (0, b"PK\x03\x04", "a ZIP archive, which is not supported", "unpack it"),
    (0, b"\x1f\x8b", "compressed by gzip", "unpack it (gunzip)"),
    (0, b"%PDF", "a PDF, which is not supported", EXPORT),
)


def known(head: bytes) -> Format | None:
    r"""The format of a file that is read, None where it is none of them.

    Args:
        head: Its first 256 bytes.

    Example:
        >>> known(b"II*\0"), known(b"\0\0\0\x03" + b"\0\0\x10\0" + b"\0\0\0\x01"), known(b"text")
        ('tiff', 'dm3', None)
    """
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[:4] == b"\0\0\0\x03" and head[8:12] in {b"\0\0\0\0", b"\0\0\0\x01"}:
        return "dm3"
    if head[:4] == b"\0\0\0\x04" and head[12:16] in {b"\0\0\0\0", b"\0\0\0\x01"}:
        return "dm4"
    return "mrc" if _looks_like_mrc(head) else None


def foreign(head: bytes) -> tuple[str, str] | None:
    """What a file of a format that is not read is, and what to do with it; None where it is unknown.

    Args:
        head: Its first bytes.

    Example:
        >>> foreign(b"GIF89a")[0]
        'a GIF, which is not supported'
    """
    for offset, magic, what, advice in _FOREIGN:
        if head[offset:].startswith(magic):
            return what, advice
    # Leica's LIF: a block mark, and a test byte behind its length.
    if head[:4] == b"\x70\0\0\0" and head[8:9] == b"*":
        return "a Leica LIF, which is not supported", _FIJI
    return None


def _looks_like_mrc(head: bytes) -> bool:
    """Whether the first 256 bytes are an MRC header: its stamp, or numbers that only such a header has.

    Example:
        >>> _looks_like_mrc(struct.pack("<4i", 64, 64, 1, 2).ljust(64, bytes(1)) + struct.pack("<3i", 1, 2, 3).ljust(192))
        True
    """
    if len(head) < 256:
        return False
    if head[208:212] in {b"MAP ", b"MAP\0"}:
        return True
    # Older writers leave the stamp out.
    for order in "<>":
        *sides, mode = struct.unpack_from(f"{order}4i", head)
        axes = struct.unpack_from(f"{order}3i", head, 64)
        if all(0 < side <= _MRC_SIDE for side in sides) and mode in _MRC_MODES and tuple(sorted(axes)) == (1, 2, 3):
            return True
    return False
