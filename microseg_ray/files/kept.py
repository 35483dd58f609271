"""Copies of objects on this machine: many workers load one checkpoint, and each version of it is fetched once.

A copy is named by the store, the address and the entity tag of the object, so that a new version
is another copy. Copies lie in a folder that no other user may enter, and those that were not used for longest are deleted first.
They save requests and decide nothing: where the folder cannot be written, the object is fetched each time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.files.client import endpoint
from microseg_ray.files.objects import ObjectPath

if TYPE_CHECKING:
    from microseg_ray.files.places import Place

__all__ = ["MOST_BYTES", "content_of", "copies_folder"]

MOST_BYTES = 4 << 30
"""That all copies may take together."""


def content_of(path: Place) -> bytes:
    """The bytes of a file or of an object; of an object a copy is kept on this machine.

    Args:
        path: A small table, or a checkpoint: all of it is held in memory.

    Raises:
        FileNotFoundError: There is no such file.
        ObjectStoreError: The store cannot be reached.

    Example:
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "a").write_bytes(b"done")
        ...     content_of(Path(folder, "a"))
        b'done'
    """
    if not isinstance(path, ObjectPath):
        return path.read_bytes()
    kept = _copy_of(path, path.entity_tag())
    with contextlib.suppress(OSError):
        content = kept.read_bytes()
        os.utime(kept)
        return content
    content, tag = path.read_version()
    with contextlib.suppress(OSError):
        _keep(_copy_of(path, tag), content)
    return content


def copies_folder() -> Path:
    """Where copies lie: in the temporary folder of this machine (`TMPDIR`), one for each user.

    Example:
        >>> copies_folder().name.startswith("microseg-copies-")
        True
    """
    owner = os.getuid() if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    return Path(tempfile.gettempdir()) / f"microseg-copies-{owner}"


def _copy_of(path: ObjectPath, tag: str) -> Path:
    name = hashlib.sha256("\0".join((endpoint(), str(path), tag)).encode()).hexdigest()
    return copies_folder() / name


def _keep(copy: Path, content: bytes) -> None:
    """Write a copy, whole or not at all, into a folder that is certainly ours.

    Raises:
        OSError: The folder cannot be written, or is another user's.
    """
    folder = copy.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    _require_own(folder)
    if len(content) > MOST_BYTES:
        return
    _make_room(folder, MOST_BYTES - len(content))
    partial = folder / f"{uuid.uuid4().hex}.partial"
    try:
        partial.write_bytes(content)
        partial.replace(copy)
    finally:
        partial.unlink(missing_ok=True)


def _require_own(folder: Path) -> None:
    """Anybody may make a folder of this name in the temporary folder."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or (
        hasattr(os, "getuid") and (found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077)
    ):
        raise PermissionError(folder)


def _make_room(folder: Path, most: int) -> None:
    """Delete those that were not used for longest, until the others take no more than `most` bytes."""
    copies = []
    for each in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # another process makes room too
            found = each.stat()
            copies.append((found.st_mtime, found.st_size, each))
    total = sum(size for _, size, _ in copies)
    for _, size, copy in sorted(copies):
        if total <= most:
            return
        copy.unlink(missing_ok=True)
        total -= size
