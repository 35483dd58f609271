"""A file name is three things: bytes on the disk, a key that is compared, and a text that is shown.

Inside the program a name is a `str` as `os.fsdecode` gives it, with a lone surrogate for each byte that is not UTF-8. So the path
stays the bytes that it is. `key` makes a name comparable, `text` makes it printable, `fits` bounds its length.
"""

from __future__ import annotations

import os
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO

from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LONGEST", "below", "fits", "in_table", "key", "never_raise", "require_room", "text"]

LONGEST = 255
"""Bytes of one part of a path on nearly every file system."""


def key(name: str) -> str:
    """A name to compare by: `é` is the same, written as one character or as a letter and an accent.

    Example:
        >>> key("e\u0301.tif") == key("\u00e9.tif")
        True
    """
    return unicodedata.normalize("NFC", name)


def text(name: str) -> str:
    r"""A name for tables, pages and the console: valid UTF-8 on one line, with escapes for what cannot be shown.

    Bytes that are not UTF-8 become `\xff`, control characters (a line break, an escape sequence of a terminal, a mark that turns
    the direction of writing) their escapes. Everything else stays as it is.

    Example:
        >>> text("µ 1.tif"), text("a\udcff\n.tif")
        ('µ 1.tif', 'a\\xff\\n.tif')
    """
    # What Python calls printable holds none of the categories that are escaped; nearly every name is.
    return name if name.isprintable() else "".join(_shown(sign) for sign in name)


def _shown(sign: str) -> str:
    code = ord(sign)
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if unicodedata.category(sign) in {"Cc", "Cf", "Cs", "Zl", "Zp"}:
        return sign.encode("unicode_escape").decode("ascii")
    return sign


def in_table(row: Mapping[str, Any]) -> dict[str, Any]:
    r"""A row for a table in Arrow's formats, which hold valid UTF-8 only: names by their text.

    Example:
        >>> in_table({"micrograph": "a\udcff.tif", "pixels": 4})
        {'micrograph': 'a\\xff.tif', 'pixels': 4}
    """
    return {key: text(value) if isinstance(value, str) else value for key, value in row.items()}


def below(name: str) -> str:
    """A relative name as a path that stays below the folder that it is joined to; different names stay different.

    A table of micrographs names files relative to itself, as `../images/a.tif`.

    Example:
        >>> below("../images/a.tif"), below("images/a.tif"), below("/data/a.tif")
        ('_up/images/a.tif', 'images/a.tif', '_root/data/a.tif')
    """
    parts = ["_up" if part == ".." else part for part in name.split("/") if part not in {"", "."}]
    return "/".join(["_root", *parts] if name.startswith("/") else parts)


def fits(name: str, suffix: str = "") -> bool:
    """Whether each part of a path below a folder, with a suffix at the end, is short enough for a file system.

    Example:
        >>> fits("a" * 250 + ".tif", ".zarr"), fits("folder/a.tif", ".zarr")
        (False, True)
    """
    whole = f"{name}{suffix}"
    # UTF-8 takes at most 4 bytes a character: most names need not be encoded to know.
    return 4 * len(whole) <= LONGEST or all(len(os.fsencode(part)) <= LONGEST for part in whole.split("/"))


def require_room(path: str | os.PathLike[str], name: str, suffix: str) -> None:
    """Refuse a file whose name leaves no room for what an output's name adds to it.

    Args:
        path: The file, for the message.
        name: Its name below a folder.
        suffix: What is added at the end.

    Raises:
        InputError: The output's name would be too long.

    Example:
        >>> require_room("a.tif", "a.tif", ".zarr")
    """
    if not fits(name, suffix):
        reason = f"its name leaves no room for {suffix} at its end: a name has at most {LONGEST} bytes"
        raise InputError(path, reason, "give the file a shorter name")


def never_raise(*streams: TextIO) -> None:
    """Make streams print escapes for what their encoding lacks, in place of an exception after all work is done.

    Example:
        >>> import io
        >>> stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
        >>> never_raise(stream)
        >>> stream.write("\u03b1")
        1
    """
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
