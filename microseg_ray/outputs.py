"""What in an output folder is ours: the manifest, and the only way to delete or replace what a user could have put there.

A job calls `claim` with everything that it will create, before it creates it. `claim` refuses what exists and is not in the
folder's manifest (`.microseg.json`), and `drop` deletes nothing that the manifest and the structure on disk do not prove.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import UNREADABLE, RunMismatchError
from microseg_ray.files import (
    BOOKS,
    ObjectPath,
    children,
    delete_empty_folder,
    delete_file,
    delete_folder,
    is_partial,
    name_below,
    place,
    write_json,
)
from microseg_ray.recognition import Kind, foreign_to, is_empty, is_record, is_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from microseg_ray.files import Place, Where

__all__ = [
    "MANIFEST",
    "Kind",
    "check",
    "claim",
    "drop",
    "foreign_in",
    "has_manifest",
    "outputs_in",
    "refuse",
    "require_store",
    "settle",
]

MANIFEST = ".microseg.json"
_FORMAT = 1
_LISTED = 2  # names in one folder of an object store from which a listing is fewer requests
_MAKES_MICROGRAPHS = frozenset({"simulate", "demo", "divide"})
_ABOUT = "Entries that microseg_ray created here. It replaces and deletes nothing else."


_REPLACED_WHOLE = frozenset({Kind.FILE, Kind.CHECKPOINT, Kind.STORE, Kind.LINKED})


def claim(folder: Where, job: str, entries: Mapping[str, Kind], *, proven: bool = False) -> None:
    """Record what a job is about to create in a folder, or refuse.

    Args:
        folder: The output folder, made if need be.
        job: Who creates. An entry of one job is not replaced by another.
        entries: Posix path below the folder, and what it is.
        proven: The folder has no manifest, but the caller knows it by its content (a run.json, a tile store).

    Raises:
        RunMismatchError: An entry exists that is not ours, or is another job's, or lies behind a link.

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "evaluate", {"metrics.json": Kind.FILE})
        ...     _ = Path(place, "notes.txt").write_text("mine")
        ...     claim(place, "tile", {"notes.txt": Kind.FILE})
        Traceback (most recent call last):
            ...
        microseg_ray.errors.RunMismatchError: .../notes.txt: exists and is not known as an output of the job tile; ...
    """
    folder = place(folder).absolute()
    known = check(folder, job, entries, proven=proven)
    added = {name: {"kind": str(kind), "job": job} for name, kind in entries.items()}
    if any(known.get(name) != entry for name, entry in added.items()):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, {**known, **added})


def check(folder: Where, job: str, entries: Mapping[str, Kind], *, proven: bool = False) -> dict[str, dict[str, str]]:
    """What `claim` checks, without recording anything.

    Returns:
        The manifest's entries.

    Raises:
        RunMismatchError: As `claim`.

    Example:
        >>> check("/nowhere", "tile", {"tiles.parquet": Kind.FILE})
        {}
    """
    folder = place(folder).absolute()
    known = _read(folder)
    _require_inside(entries)
    there = _present(folder, entries)
    for name, kind in entries.items():
        path = folder / name
        _refuse_links(folder, path)
        if name not in there:
            continue
        entry = known.get(name)
        if entry is not None and entry["job"] != job and kind is Kind.FILE:
            raise RunMismatchError(f"{path}: belongs to the job {entry['job']}; give another output folder")
        foreign = foreign_to(path, kind)
        held = entry is not None or (proven and not known and not foreign)
        if not (held or is_empty(path)) or (foreign and kind in _REPLACED_WHOLE):
            raise refuse(foreign[0] if held else path, job)
    return known


def refuse(path: Place, job: str) -> RunMismatchError:
    """The error for something that is not ours."""
    return RunMismatchError(
        f"{path}: exists and is not known as an output of the job {job}; nothing was changed; give another output folder"
    )


def drop(folder: Where, job: str, names: Iterable[str] | None = None) -> None:
    """Delete entries of a job, all or none.

    Args:
        folder: The output folder.
        job: Only what this job created is deleted.
        names: Entries, or folders with entries. Default: all. What the manifest does not name is left alone.

    Raises:
        RunMismatchError: Something else lies in one of them; nothing is deleted then.

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "evaluate", {"metrics.json": Kind.FILE})
        ...     for name in ("metrics.json", "notes.txt"):
        ...         _ = Path(place, name).write_text("")
        ...     drop(place, "evaluate", ["metrics.json", "notes.txt"])
        ...     sorted(path.name for path in Path(place).iterdir())
        ['.microseg.json', 'notes.txt']
    """
    folder = place(folder).absolute()
    wanted = None if names is None else tuple(names)
    meant = {
        name: Kind(entry["kind"])
        for name, entry in _read(folder).items()
        if entry["job"] == job and (wanted is None or any(PurePosixPath(name).is_relative_to(each) for each in wanted))
    }
    there = _present(folder, meant)
    found = [(folder / name, kind) for name, kind in meant.items() if name in there]
    for path, kind in found:
        _refuse_links(folder, path)
        for other in foreign_to(path, kind):
            raise refuse(other, job)
    for path, kind in found:
        if kind is Kind.FILE:
            delete_file(path)
        else:
            delete_folder(path)
        for parent in path.parents:
            if parent == folder or not delete_empty_folder(parent):
                break


def settle(folder: Where, job: str) -> None:
    """Forget what a job claimed and did not create, so that a file put there later is not taken for the job's.

    Call it when the job is done.

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "evaluate", {"curves.png": Kind.FILE})
        ...     settle(place, "evaluate")
        ...     _ = Path(place, "curves.png").write_text("mine")
        ...     drop(place, "evaluate")
        ...     Path(place, "curves.png").exists()
        True
    """
    folder = place(folder).absolute()
    known = _read(folder)
    there = _present(folder, [name for name, entry in known.items() if entry["job"] == job])
    kept = {name: entry for name, entry in known.items() if entry["job"] != job or name in there}
    if kept != known:
        _write(folder, kept)


def has_manifest(folder: Where) -> bool:
    """Whether jobs of ours wrote into a folder.

    Example:
        >>> has_manifest("/nowhere")
        False
    """
    return (place(folder) / MANIFEST).is_file()


def foreign_in(folder: Where) -> list[Place]:
    """Everything in a folder that no manifest proves, its folders' own manifests included; sorted.

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "evaluate", {"metrics.json": Kind.FILE})
        ...     for name in ("metrics.json", "notes.txt"):
        ...         _ = Path(place, name).write_text("")
        ...     [path.name for path in foreign_in(place)]
        ['notes.txt']
    """
    folder = place(folder).absolute()
    known = _read(folder)
    found: list[Place] = []

    def look(path: Place) -> None:
        name = name_below(path, folder)
        if name in known:
            found.extend(foreign_to(path, Kind(known[name]["kind"])))
        elif path.is_dir() and not path.is_symlink():
            if has_manifest(path):
                found.extend(foreign_in(path))
                return
            for inner in children(path):
                look(inner)
        elif name not in {MANIFEST, *BOOKS} and not is_partial(path.name):
            found.append(path)

    for path in children(folder):
        look(path)
    return found


def outputs_in(folder: Where) -> frozenset[str]:
    """What jobs wrote into a folder, by its manifest, but for micrographs: simulated ones, and regions that divide cut.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "simulate", dict.fromkeys(("images/a.tif", "masks/a.png"), Kind.FILE))
        ...     outputs_in(place)
        frozenset({'masks/a.png'})
    """
    folder = place(folder)
    try:
        known = _read(folder)
    except RunMismatchError:
        # Who writes here learns of the damage; what is listed without it is opened and told apart by its content.
        known = {}
    names = {
        name
        for name, entry in known.items()
        if entry["job"] not in _MAKES_MICROGRAPHS or PurePosixPath(name).parts[0] != "images"
    }
    if not known and is_record(folder / "run.json", "identity", "classes"):
        # A run of an earlier version has no manifest.
        names = {"masks", "overlays"}
    return frozenset(names)


def require_store(path: Where) -> None:
    """Refuse to replace a folder that is not a store of ours.

    Raises:
        RunMismatchError: It is something else.

    Example:
        >>> require_store("/nowhere")
    """
    if _is_there(path) and not is_store(path):
        raise refuse(place(path), "that writes this store")


def _is_there(path: Where) -> bool:
    """Whether something is there, a broken link included."""
    found = place(path)
    return found.exists() if isinstance(found, ObjectPath) else os.path.lexists(found)


def _present(folder: Place, names: Iterable[str]) -> set[str]:
    """Which of these are there; of many in one folder of an object store a listing says it, in place of a request for each."""
    together: dict[Place, list[str]] = defaultdict(list)
    for name in names:
        together[(folder / name).parent].append(name)
    found: set[str] = set()
    for parent, own in together.items():
        if isinstance(parent, ObjectPath) and len(own) > _LISTED:
            inside = {path.name for path in parent.iterdir()}
            found.update(name for name in own if PurePosixPath(name).name in inside)
        else:
            found.update(name for name in own if _is_there(folder / name))
    return found


def _read(folder: Place) -> dict[str, dict[str, str]]:
    path = folder / MANIFEST
    if not _is_there(path):
        return {}
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        entries = document["entries"]
        known = {str(name): {"kind": Kind(entry["kind"]), "job": str(entry["job"])} for name, entry in entries.items()}
        _require_inside(known)
    except (OSError, *UNREADABLE) as error:
        raise RunMismatchError(
            f"{path}: this list of our files cannot be read ({error}), so nothing here is replaced or deleted; give another "
            "output folder"
        ) from error
    return known


def _write(folder: Place, entries: Mapping[str, Mapping[str, str]]) -> None:
    write_json(folder / MANIFEST, {"format": _FORMAT, "about": _ABOUT, "entries": entries}, sort_keys=True)


def _require_inside(names: Iterable[str]) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{name!r} is no path inside the folder")


def _refuse_links(folder: Place, path: Place) -> None:
    if isinstance(path, ObjectPath):
        return
    for parent in path.parents:
        if parent == folder:
            return
        if parent.is_symlink() or (_is_there(parent) and not parent.is_dir()):
            raise RunMismatchError(f"{parent}: no folder of ours; nothing was changed; give another output folder")
