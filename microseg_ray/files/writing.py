"""Files: writes that are whole or absent, and the lock of a folder.

Every file and folder of an output is written under a temporary name beside its target, synced to the disk and then
renamed. A killed process leaves the older file or the new one, never a part, and at most a `.microseg-*.partial` beside it.
An object of an object store is written in a temporary folder of this machine and then sent, which the store does whole or not.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import RunMismatchError, StoreError
from microseg_ray.files.lease import leased
from microseg_ray.files.objects import ObjectPath
from microseg_ray.files.places import LOCK_FILE, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from microseg_ray.files.places import Place, Where

__all__ = [
    "delete_empty_folder",
    "delete_file",
    "delete_folder",
    "is_partial",
    "move",
    "rotate",
    "sole_writer",
    "sync",
    "whole",
    "whole_folder",
    "write_json",
    "write_text",
]

_PARTIAL = re.compile(r"\.microseg-[0-9a-f]{32}\.(partial|old)(\.\w{1,16})?")
_NO_LOCKS = frozenset({errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


def _temporary(target: Path, kind: str = "partial") -> Path:
    # Independent of the target's name, which may fill the file system's limit already. The suffix stays, because some
    # libraries choose the format by it.
    suffix = target.suffix if re.fullmatch(r"\.\w{1,16}", target.suffix, re.ASCII) else ""
    return target.with_name(f".microseg-{uuid.uuid4().hex}.{kind}{suffix}")


def is_partial(name: str) -> bool:
    """Whether a file name is one that this module gives to an unfinished write.

    Example:
        >>> is_partial(".microseg-00000000000000000000000000000000.partial.csv"), is_partial("a.partial")
        (True, False)
    """
    return _PARTIAL.fullmatch(name) is not None


@contextlib.contextmanager
def whole(path: Where, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path that becomes `path` when the block ends, and that is deleted when the block raises.

    Args:
        path: The target file. Its parent folders are made. An older file is replaced.
        durable: Sync to the disk before the rename. Off: only for files that nobody needs after a power cut.

    Yields:
        The path to write to, with the target's suffix; in its folder, or in a temporary one for an object.

    Raises:
        StoreError: The target is a folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole(f"{folder}/a.txt") as partial:
        ...         _ = partial.write_text("done")
        ...     [(file.name, file.read_text()) for file in Path(folder).iterdir()]
        [('a.txt', 'done')]
    """
    target = place(path)
    if isinstance(target, ObjectPath):
        with tempfile.TemporaryDirectory(prefix="microseg-") as folder:
            kept = _temporary(Path(folder, target.name))
            yield kept
            target.write(kept)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.is_dir():
        raise StoreError(f"{target}: a folder is where a file is to be written; give another output folder")
    partial = _temporary(target)
    try:
        yield partial
        if durable:
            sync(partial)
        os.replace(partial, target)  # noqa: PTH105
        if durable:
            sync(target.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: str | os.PathLike[str], may_replace: Callable[[Path], bool] = lambda _: False) -> Iterator[Path]:
    """A temporary folder that becomes `path` when the block ends, and that is deleted when the block raises.

    A folder cannot be renamed over one that is not empty. The older one is therefore renamed to `.NAME.HEX.old` first and
    deleted last; a kill between the two renames leaves it under that name.

    Args:
        path: The target folder. Its parents are made.
        may_replace: Whether a folder that is there already may be deleted. Default: never.

    Yields:
        The path to write to, which does not exist yet.

    Raises:
        StoreError: Something is there that must not be replaced.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with whole_folder(f"{place}/best") as partial:
        ...         partial.mkdir()
        ...         _ = (partial / "a").write_text("done")
        ...     [path.name for path in Path(place).iterdir()]
        ['best']
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = _temporary(target)
    try:
        yield partial
        older = os.path.lexists(target)
        if older and (target.is_symlink() or not target.is_dir() or not may_replace(target)):
            raise StoreError(f"{target}: exists and is not replaced; give another output folder")
        for parent, _, files in os.walk(partial):
            for name in (*files, ""):
                sync(Path(parent) / name)
        aside = target.with_name(f".{target.name[:64]}.{uuid.uuid4().hex}.old")
        if older:
            target.rename(aside)
        try:
            partial.rename(target)
        except OSError:
            if older:
                aside.rename(target)
            raise
        sync(target.parent)
        if older:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def sync(path: Where) -> None:
    """Push a file or the entries of a folder from the cache to the disk, where the operating system can.

    An object store has none: what it has accepted, it keeps.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     sync(folder)
    """
    if isinstance(path, ObjectPath):
        return
    folder = Path(path).is_dir()
    if folder and os.name == "nt":
        return  # Windows cannot open a folder.
    handle = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(handle)
    except OSError as error:
        if not folder or error.errno not in _NO_LOCKS:  # some network file systems refuse it for folders
            raise
    finally:
        os.close(handle)


def write_text(path: Where, text: str, *, errors: str = "strict", durable: bool = True) -> None:
    r"""Write UTF-8 text, whole or not at all.

    Args:
        path: Target.
        text: With `\n` at the end of each line.
        errors: What happens with text that is not UTF-8, as for `str.encode`.
        durable: As for `whole`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/a.txt", "µm")
        ...     Path(f"{folder}/a.txt").read_bytes()
        b'\xc2\xb5m'
    """
    with whole(path, durable=durable) as partial:
        partial.write_bytes(text.encode("utf-8", errors))


def write_json(
    path: Where,
    document: object,
    *,
    sort_keys: bool = False,
    default: Callable[[Any], Any] | None = None,
    durable: bool = True,
) -> None:
    """Write JSON with an indent of 2, whole or not at all.

    Args:
        path: Target.
        document: Plain values. NaN and infinity are refused, because JSON has none.
        sort_keys: Sort the keys of mappings.
        default: Called with a value that JSON does not know.
        durable: As for `whole`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_json(f"{folder}/a.json", {"a": 1})
        ...     json.loads(Path(f"{folder}/a.json").read_text())
        {'a': 1}
    """
    text = json.dumps(document, indent=2, allow_nan=False, sort_keys=sort_keys, default=default)
    write_text(path, text + "\n", durable=durable)


def move(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Rename a file to a name that is free.

    Raises:
        StoreError: The name is taken.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/a", "")
        ...     move(f"{folder}/a", f"{folder}/b")
        ...     [path.name for path in Path(folder).iterdir()]
        ['b']
    """
    if os.path.lexists(target):
        raise StoreError(f"{target}: exists and is not replaced; give another output folder")
    Path(source).rename(target)


def rotate(path: Place, older: Place) -> None:
    """Rename a log over the one before it, which the caller wrote, too.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/a.jsonl", "")
        ...     rotate(Path(folder, "a.jsonl"), Path(folder, "a.1.jsonl"))
        ...     [path.name for path in Path(folder).iterdir()]
        ['a.1.jsonl']
    """
    if isinstance(path, ObjectPath):
        if isinstance(older, ObjectPath):
            older.write(path.read_bytes())
        path.unlink(missing_ok=True)
    elif isinstance(older, Path):
        path.replace(older)


def delete_file(path: Where) -> None:
    """Delete a file that the caller wrote itself, if it is there.

    Where a user could have put a file of his own, go through `microseg_ray.outputs`.

    Example:
        >>> delete_file("/nowhere/at/all")
    """
    place(path).unlink(missing_ok=True)


def delete_folder(path: Where) -> None:
    """Delete a folder that the caller wrote itself, if it is there; a link is left alone.

    Example:
        >>> delete_folder("/nowhere/at/all")
    """
    found = place(path)
    if isinstance(found, ObjectPath):
        found.delete_below()
    elif found.is_dir() and not found.is_symlink():
        shutil.rmtree(found)


def delete_empty_folder(path: Where) -> bool:
    """Delete a folder if nothing is in it; whether it is gone.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_text(f"{folder}/a/b", "")
        ...     delete_empty_folder(f"{folder}/a")
        False
    """
    found = place(path)
    if isinstance(found, ObjectPath):
        return not found.is_dir()
    try:
        found.rmdir()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def sole_writer(folder: Where) -> Iterator[None]:
    """Keep a second job out of a folder, which is made if need be. The lock ends with the process, however that ends.

    In an object store it is a lease, which ends some time after a process that was killed (`microseg_ray.files.lease`).

    Raises:
        RunMismatchError: Another job is writing there.
        StoreError: The file system has no locks.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder, sole_writer(folder), sole_writer(folder):
        ...     pass
        Traceback (most recent call last):
            ...
        microseg_ray.errors.RunMismatchError: ...: another job is writing here; wait for it, or give another output
    """
    target = place(folder)
    if isinstance(target, ObjectPath):
        with leased(target):
            yield
        return
    from filelock import FileLock, Timeout

    folder = target.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    # A lock that is only a file outlives a killed process, so it is never taken in place of a real one.
    lock = FileLock(folder / LOCK_FILE, timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunMismatchError(f"{folder}: another job is writing here; wait for it, or give another output") from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS:
            raise
        raise StoreError(
            f"{folder}: this file system has no file locks ({error}), so a second job could write here at the same time; "
            "give an output on a local disk"
        ) from error
    try:
        yield
    finally:
        lock.release()
