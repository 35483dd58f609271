"""What in an output folder is ours: the manifest, and the only way to delete or replace what a user could have put there.

A job calls `claim` with everything that it will create, before it creates it. `claim` refuses what exists and is not in the
folder's manifest (`.microseg.json`), and `drop` deletes nothing that the manifest and the structure on disk do not prove.
"""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import RunMismatchError
from microseg_ray.files import LOCK_FILE, delete_empty_folder, delete_file, delete_folder, is_partial, write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = [
    "MANIFEST",
    "Kind",
    "check",
    "claim",
    "drop",
    "foreign_in",
    "has_manifest",
    "is_checkpoint",
    "is_ours",
    "is_record",
    "is_store",
    "is_zarr",
    "outputs_in",
    "refuse",
    "require_store",
    "settle",
]

MANIFEST = ".microseg.json"
_FORMAT = 1
_CHECKPOINT = frozenset({"model.json", "model.safetensors"})
_SCRATCH = frozenset({"error.txt", "curves.png"})
_NO_SCRATCH = frozenset(
    {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".txt", ".md", ".pdf", ".docx", ".xlsx", ".npy", ".zip"}
)
_MAKES_MICROGRAPHS = frozenset({"simulate", "demo", "divide"})
_ABOUT = "Entries that microseg_ray created here. It replaces and deletes nothing else."


class Kind(enum.StrEnum):
    """What an entry is, which says what may lie in it.

    `STORES` is a tree of folders with our zarr stores and nothing else, `CHECKPOINTS` a folder of checkpoints. `SCRATCH` is
    the working folder of Ray.
    """

    FILE = "file"
    CHECKPOINT = "checkpoint"
    CHECKPOINTS = "checkpoints"
    STORE = "store"
    STORES = "stores"
    EVENTS = "events"
    SCRATCH = "scratch"


_REPLACED_WHOLE = frozenset({Kind.FILE, Kind.CHECKPOINT, Kind.STORE})


def claim(folder: str | os.PathLike[str], job: str, entries: Mapping[str, Kind], *, proven: bool = False) -> None:
    """Record what a job is about to create in a folder, or refuse.

    Args:
        folder: The output folder, made if need be.
        job: Who creates. An entry of one job is not replaced by another.
        entries: Posix path below the folder, and what it is.
        proven: The folder has no manifest, but the caller knows it by its content (a run.json, a tile store).

    Raises:
        RunMismatchError: An entry exists that is not ours, or is another job's, or lies behind a link.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "evaluate", {"metrics.json": Kind.FILE})
        ...     _ = Path(place, "notes.txt").write_text("mine")
        ...     claim(place, "tile", {"notes.txt": Kind.FILE})
        Traceback (most recent call last):
            ...
        microseg_ray.errors.RunMismatchError: .../notes.txt: exists and is not known as an output of the job tile; ...
    """
    folder = Path(folder).absolute()
    known = check(folder, job, entries, proven=proven)
    added = {name: {"kind": str(kind), "job": job} for name, kind in entries.items()}
    if any(known.get(name) != entry for name, entry in added.items()):
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder, {**known, **added})


def check(
    folder: str | os.PathLike[str], job: str, entries: Mapping[str, Kind], *, proven: bool = False
) -> dict[str, dict[str, str]]:
    """What `claim` checks, without recording anything.

    Returns:
        The manifest's entries.

    Raises:
        RunMismatchError: As `claim`.

    Example:
        >>> check("/nowhere", "tile", {"tiles.parquet": Kind.FILE})
        {}
    """
    folder = Path(folder).absolute()
    known = _read(folder)
    _require_inside(entries)
    for name, kind in entries.items():
        path = folder / name
        _refuse_links(folder, path)
        if not os.path.lexists(path):
            continue
        entry = known.get(name)
        if entry is not None and entry["job"] != job and kind is Kind.FILE:
            raise RunMismatchError(f"{path}: belongs to the job {entry['job']}; give another output folder")
        foreign = _foreign(path, kind)
        held = entry is not None or (proven and not known and not foreign)
        if not (held or _is_empty(path)) or (foreign and kind in _REPLACED_WHOLE):
            raise refuse(foreign[0] if held else path, job)
    return known


def refuse(path: Path, job: str) -> RunMismatchError:
    """The error for something that is not ours."""
    return RunMismatchError(
        f"{path}: exists and is not known as an output of the job {job}; nothing was changed; give another output folder"
    )


def drop(folder: str | os.PathLike[str], job: str, names: Iterable[str] | None = None) -> None:
    """Delete entries of a job, all or none.

    Args:
        folder: The output folder.
        job: Only what this job created is deleted.
        names: Entries, or folders with entries. Default: all. What the manifest does not name is left alone.

    Raises:
        RunMismatchError: Something else lies in one of them; nothing is deleted then.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "evaluate", {"metrics.json": Kind.FILE})
        ...     for name in ("metrics.json", "notes.txt"):
        ...         _ = Path(place, name).write_text("")
        ...     drop(place, "evaluate", ["metrics.json", "notes.txt"])
        ...     sorted(path.name for path in Path(place).iterdir())
        ['.microseg.json', 'notes.txt']
    """
    folder = Path(folder).absolute()
    wanted = None if names is None else tuple(names)
    found: list[tuple[Path, Kind]] = []
    for name, entry in _read(folder).items():
        if entry["job"] != job or not os.path.lexists(folder / name):
            continue
        if wanted is None or any(PurePosixPath(name).is_relative_to(each) for each in wanted):
            found.append((folder / name, Kind(entry["kind"])))
    for path, kind in found:
        _refuse_links(folder, path)
        for other in _foreign(path, kind):
            raise refuse(other, job)
    for path, kind in found:
        if kind is Kind.FILE:
            delete_file(path)
        else:
            delete_folder(path)
        for parent in path.parents:
            if parent == folder or not delete_empty_folder(parent):
                break


def settle(folder: str | os.PathLike[str], job: str) -> None:
    """Forget what a job claimed and did not create, so that a file put there later is not taken for the job's.

    Call it when the job is done.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "evaluate", {"curves.png": Kind.FILE})
        ...     settle(place, "evaluate")
        ...     _ = Path(place, "curves.png").write_text("mine")
        ...     drop(place, "evaluate")
        ...     Path(place, "curves.png").exists()
        True
    """
    folder = Path(folder).absolute()
    known = _read(folder)
    kept = {name: entry for name, entry in known.items() if entry["job"] != job or os.path.lexists(folder / name)}
    if kept != known:
        _write(folder, kept)


def is_record(path: str | os.PathLike[str], *keys: str) -> bool:
    """Whether a file is a JSON object with these keys: how outputs of versions without a manifest are known.

    Example:
        >>> is_record("/nowhere/run.json", "identity")
        False
    """
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and set(keys) <= set(document)


def has_manifest(folder: str | os.PathLike[str]) -> bool:
    """Whether jobs of ours wrote into a folder.

    Example:
        >>> has_manifest("/nowhere")
        False
    """
    return (Path(folder) / MANIFEST).is_file()


def foreign_in(folder: str | os.PathLike[str]) -> list[Path]:
    """Everything in a folder that no manifest proves, its folders' own manifests included; sorted.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "evaluate", {"metrics.json": Kind.FILE})
        ...     for name in ("metrics.json", "notes.txt"):
        ...         _ = Path(place, name).write_text("")
        ...     [path.name for path in foreign_in(place)]
        ['notes.txt']
    """
    folder = Path(folder).absolute()
    known = _read(folder)
    found: list[Path] = []

    def look(path: Path) -> None:
        name = path.relative_to(folder).as_posix()
        if name in known:
            found.extend(_foreign(path, Kind(known[name]["kind"])))
        elif path.is_dir() and not path.is_symlink():
            if has_manifest(path):
                found.extend(foreign_in(path))
                return
            for inner in sorted(path.iterdir()):
                look(inner)
        elif name not in {MANIFEST, LOCK_FILE} and not is_partial(path.name):
            found.append(path)

    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        look(path)
    return found


def outputs_in(folder: str | os.PathLike[str]) -> frozenset[str]:
    """What jobs wrote into a folder, by its manifest, but for micrographs: simulated ones, and regions that divide cut.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     claim(place, "simulate", dict.fromkeys(("images/a.tif", "masks/a.png"), Kind.FILE))
        ...     outputs_in(place)
        frozenset({'masks/a.png'})
    """
    folder = Path(folder)
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


def is_ours(path: str | os.PathLike[str]) -> bool:
    """Whether a zarr folder has the mark of our stores: masks of a run, or a tile store.

    Example:
        >>> is_ours("/nowhere")
        False
    """
    try:
        found = json.loads((Path(path) / "zarr.json").read_text(encoding="utf-8"))
        return "microseg" in found.get("attributes", {})
    except (OSError, ValueError, AttributeError, TypeError):
        return False


def is_store(path: str | os.PathLike[str]) -> bool:
    """Whether a folder is a zarr store of ours with nothing else in it.

    Example:
        >>> is_store("/nowhere")
        False
    """
    path = Path(path)
    return is_zarr(path) and _is_marked(path)


def is_checkpoint(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds the files of a checkpoint, or nothing, and nothing else.

    Example:
        >>> is_checkpoint("/nowhere")
        False
    """
    path = Path(path)
    return path.is_dir() and not _foreign(path, Kind.CHECKPOINT)


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Whether a folder holds what zarr writes and nothing else.

    Example:
        >>> is_zarr("/nowhere")
        False
    """
    path = Path(path)
    return path.is_dir() and not path.is_symlink() and not [*_foreign_in_store(path)]


def require_store(path: str | os.PathLike[str]) -> None:
    """Refuse to replace a folder that is not a store of ours.

    Raises:
        RunMismatchError: It is something else.

    Example:
        >>> require_store("/nowhere")
    """
    if os.path.lexists(path) and not is_store(path):
        raise refuse(Path(path), "that writes this store")


def _read(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / MANIFEST
    if not os.path.lexists(path):
        return {}
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        entries = document["entries"]
        known = {str(name): {"kind": Kind(entry["kind"]), "job": str(entry["job"])} for name, entry in entries.items()}
        _require_inside(known)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunMismatchError(
            f"{path}: this list of our files cannot be read ({error}), so nothing here is replaced or deleted; give another "
            "output folder"
        ) from error
    return known


def _write(folder: Path, entries: Mapping[str, Mapping[str, str]]) -> None:
    write_json(folder / MANIFEST, {"format": _FORMAT, "about": _ABOUT, "entries": entries}, sort_keys=True)


def _require_inside(names: Iterable[str]) -> None:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{name!r} is no path inside the folder")


def _refuse_links(folder: Path, path: Path) -> None:
    for parent in path.parents:
        if parent == folder:
            return
        if parent.is_symlink() or (os.path.lexists(parent) and not parent.is_dir()):
            raise RunMismatchError(f"{parent}: no folder of ours; nothing was changed; give another output folder")


def _foreign(path: Path, kind: Kind) -> list[Path]:
    """What in an entry its kind does not explain."""
    if path.is_symlink() or path.is_dir() == (kind is Kind.FILE):
        return [path]
    inner = _IN_KIND.get(kind)
    return [] if inner is None else [*inner(path)]


def _foreign_in_checkpoint(path: Path) -> Iterator[Path]:
    return (each for each in path.iterdir() if each.name not in _CHECKPOINT and not is_partial(each.name))


def _foreign_in_checkpoints(path: Path) -> Iterator[Path]:
    return (each for each in path.iterdir() if not is_checkpoint(each) and not is_partial(each.name))


def _foreign_in_events(path: Path) -> Iterator[Path]:
    return (each for each in path.iterdir() if not each.name.startswith("events.out.tfevents."))


def _foreign_in_store(path: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(path):
        yield from (Path(parent, name) for name in folders if Path(parent, name).is_symlink())
        inner = Path(parent).relative_to(path).parts
        for name in files:
            chunk = "c" in inner and name.isdigit()
            # zarr's own unfinished writes end in `.partial`.
            known = name == "zarr.json" or chunk or name == "c" or name.endswith(".partial") or is_partial(name)
            if not known or Path(parent, name).is_symlink():
                yield Path(parent, name)


def _is_marked(path: Path) -> bool:
    """Our stores have the attribute `microseg`; a damaged one, or one whose creation was killed, may have none."""
    try:
        found = json.loads((path / "zarr.json").read_text(encoding="utf-8")).get("attributes", {})
    except (FileNotFoundError, ValueError):
        return True
    except (OSError, AttributeError):
        return False
    return not found or "microseg" in found


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _foreign_in_scratch(path: Path) -> Iterator[Path]:
    """Ray's files have no fixed list of names, so what people keep is looked for."""
    for parent, folders, files in os.walk(path):
        yield from (Path(parent, name) for name in folders if Path(parent, name).is_symlink())
        for name in files:
            if name not in _SCRATCH and Path(name).suffix.lower() in _NO_SCRATCH:
                yield Path(parent, name)


def _foreign_in_stores(path: Path) -> Iterator[Path]:
    for each in path.iterdir():
        if each.is_symlink():
            yield each
        elif each.is_dir():
            if (each / "zarr.json").exists():
                if not is_store(each):
                    yield each
            else:
                yield from _foreign_in_stores(each)
        elif not is_partial(each.name):
            yield each


_IN_KIND: Mapping[Kind, Callable[[Path], Iterator[Path]]] = {
    Kind.CHECKPOINT: _foreign_in_checkpoint,
    Kind.CHECKPOINTS: _foreign_in_checkpoints,
    Kind.STORE: _foreign_in_store,
    Kind.STORES: _foreign_in_stores,
    Kind.EVENTS: _foreign_in_events,
    Kind.SCRATCH: _foreign_in_scratch,
}
