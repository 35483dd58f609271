"""What headers claim, read before any library reads it: a claim of gigabytes of metadata must not be believed."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError
from microseg_ray.sources.bounds import bound_metadata

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["check_png_chunks", "check_tiff_tags"]

_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# Offsets and byte counts of strips and tiles grow with the image, and are checked against it.
_PER_SEGMENT = frozenset({273, 279, 288, 289, 324, 325})
_PNG_SIGNATURE = 8
_MAX_PNG_CHUNKS = 100_000
_MAX_DIRECTORIES = 100_000


def check_tiff_tags(path: str, file: BinaryIO, *, all_pages: bool = True) -> None:
    r"""Look at the sizes of the tags of each directory (TIFF 6.0 section 2; BigTIFF), not at their values.

    Args:
        path: For messages.
        file: The TIFF, of which some kilobytes a page are read; the position is moved.
        all_pages: False for the first directory only.

    Raises:
        InputError: A tag claims more than `source.max_metadata_mib`, or there are more than 100,000 directories.

    Example:
        >>> import io
        >>> tag = struct.pack("<HHII", 270, 2, 1 << 30, 8)
        >>> check_tiff_tags("a.tif", io.BytesIO(b"II*\0" + struct.pack("<IH", 8, 1) + tag))
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.tif: the TIFF tag 270 claims 1024 MiB of metadata (allowed: 64); ...
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in {b"+\0", b"\0+"}
    if len(head) < (16 if big else 8):
        return  # tifffile says what is wrong with it
    offset = struct.unpack_from(f"{order}Q" if big else f"{order}I", head, 8 if big else 4)[0]
    seen: set[int] = set()
    # tifffile names a chain that comes back to itself.
    while offset and offset not in seen:
        if len(seen) == _MAX_DIRECTORIES:
            raise InputError(path, f"the TIFF has more than {_MAX_DIRECTORIES} pages", "save its pages as files")
        seen.add(offset)
        offset = _check_directory(path, file, offset, order, big=big)
        if not all_pages:
            return


def _check_directory(path: str, file: BinaryIO, offset: int, order: str, *, big: bool) -> int:
    """Check the directory at an offset; the offset of the next one, 0 where there is none."""
    file.seek(min(offset, 1 << 62))
    counted, entry, link = ("Q", "HHQQ", "Q") if big else ("H", "HHII", "I")
    start = file.read(struct.calcsize(f"={counted}"))
    if len(start) < struct.calcsize(f"={counted}"):
        return 0
    # A tag number has 16 bits: more entries than that are no directory.
    count = min(struct.unpack(f"{order}{counted}", start)[0], 1 << 16)
    size, behind = struct.calcsize(f"={entry}"), struct.calcsize(f"={link}")
    content = file.read(size * count + behind)
    whole = content[: min(len(content) // size, count) * size]
    for code, kind, length, _ in struct.iter_unpack(f"{order}{entry}", whole):
        if code not in _PER_SEGMENT:
            bound_metadata(path, length * _TIFF_BYTES.get(kind, 1), f"the TIFF tag {code}")
    last = content[size * count :]
    return int(struct.unpack(f"{order}{link}", last)[0]) if len(last) == behind else 0


def check_png_chunks(path: str, file: BinaryIO) -> None:
    """Look at the lengths of the chunks before the pixels (PNG third edition, section 5.3), not at their content.

    Args:
        path: For messages.
        file: The PNG; the position is moved.

    Raises:
        InputError: A chunk claims more than `source.max_metadata_mib`, or there are more than 100,000.

    Example:
        >>> import io
        >>> check_png_chunks("a.png", io.BytesIO(bytes(8) + struct.pack(">I", 1 << 30) + b"tEXt"))
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.png: the PNG chunk tEXt claims 1024 MiB of metadata (allowed: 64); ...
    """
    place = _PNG_SIGNATURE
    for _ in range(_MAX_PNG_CHUNKS):
        file.seek(place)
        head = file.read(8)
        if len(head) < 8 or head[4:] in {b"IDAT", b"IEND"}:
            return
        length = int.from_bytes(head[:4], "big")
        bound_metadata(path, length, f"the PNG chunk {head[4:].decode('latin-1')}")
        place += 12 + length
    raise InputError(
        path, f"the PNG has more than {_MAX_PNG_CHUNKS} chunks before its pixels", "save the image again without them"
    )
