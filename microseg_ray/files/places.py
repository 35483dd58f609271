"""Where an output lies: a folder of this machine, or one of an object store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeAlias

from microseg_ray.errors import StoreError
from microseg_ray.files.objects import ObjectPath, is_object_url

__all__ = [
    "BOOKS",
    "EPOCH_FILE",
    "LOCK_FILE",
    "Place",
    "Where",
    "absolute_text",
    "children",
    "lies_in",
    "local_folder",
    "name_below",
    "place",
]

LOCK_FILE = ".lock"
EPOCH_FILE = ".epoch"
"""Whose turn it is to write into a folder; see `microseg_ray.fence`."""
BOOKS = frozenset({LOCK_FILE, EPOCH_FILE})
"""Files that say who writes into a folder, and that are no result."""

Place: TypeAlias = Path | ObjectPath
"""A file or folder that is read and written the same way, wherever it lies."""
Where: TypeAlias = str | os.PathLike[str] | ObjectPath
"""A place as it was given."""


def place(where: Where) -> Place:
    """The place that a path or an address names.

    Raises:
        StoreError: The address is none of an object store.

    Example:
        >>> place("/data/run"), str(place("s3://bucket/run/"))
        (PosixPath('/data/run'), 's3://bucket/run')
    """
    if isinstance(where, ObjectPath):
        return where
    if isinstance(where, str) and is_object_url(where):
        return ObjectPath.of(where)
    return Path(where)


def absolute_text(where: Where) -> str:
    """A path from the root of this machine, for workers that begin in other folders; an address as it is.

    Example:
        >>> absolute_text("s3://bucket//model/best/"), absolute_text("/data/./a"), absolute_text("https://host/a.tif")
        ('s3://bucket/model/best', '/data/a', 'https://host/a.tif')
    """
    found = place(where)
    if isinstance(found, ObjectPath):
        return str(found)
    return str(where) if "://" in str(where) else str(found.expanduser().absolute())


def children(folder: Place) -> list[Place]:
    """Files and folders in a folder, sorted; nothing where there is none.

    Example:
        >>> children(Path("/nowhere"))
        []
    """
    if isinstance(folder, ObjectPath):
        return [*folder.iterdir()]
    return [*sorted(folder.iterdir())] if folder.is_dir() else []


def name_below(path: Place, folder: Place) -> str:
    """The name of a file below a folder, with slashes.

    Raises:
        ValueError: It does not lie there.

    Example:
        >>> name_below(place("s3://bucket/run/a/b"), place("s3://bucket/run"))
        'a/b'
    """
    if isinstance(path, ObjectPath) and isinstance(folder, ObjectPath):
        return str(path.relative_to(folder))
    if isinstance(path, Path) and isinstance(folder, Path):
        return path.relative_to(folder).as_posix()
    raise ValueError(f"{path} does not lie in {folder}")


def lies_in(path: Place, folder: Place) -> bool:
    """Whether a file or folder is a folder, or lies in it; links are not followed.

    Example:
        >>> lies_in(Path("/a/b"), Path("/a")), lies_in(place("s3://bucket/a"), Path("/a"))
        (True, False)
    """
    if isinstance(path, Path) and isinstance(folder, Path):
        return path.is_relative_to(folder)
    return isinstance(path, ObjectPath) and path.is_relative_to(folder)


def local_folder(where: Where, job: str) -> Path:
    """The folder of this machine that a job needs, which cannot work in an object store.

    Args:
        where: The place.
        job: What needs it, for the message.

    Raises:
        StoreError: It lies in an object store.

    Example:
        >>> local_folder("s3://bucket/run", "view")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.StoreError: s3://bucket/run: view works in folders of this machine only; copy it here first ...
    """
    found = place(where)
    if isinstance(found, ObjectPath):
        raise StoreError(
            f"{found}: {job} works in folders of this machine only; copy it here first (`aws s3 sync {found} FOLDER`), or give a "
            "folder"
        )
    return found
