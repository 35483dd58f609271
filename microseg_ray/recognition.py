"""What a file or folder is, by its content alone: a checkpoint, a zarr store, a record of ours.

`outputs` asks it what in an output folder is not ours, and readers ask it what they are given.
"""

from __future__ import annotations

import enum
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import RunMismatchError
from microseg_ray.files import ObjectPath, is_partial, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from microseg_ray.files import Place, Where

__all__ = [
    "Kind",
    "foreign_to",
    "is_checkpoint",
    "is_empty",
    "is_only_zarr",
    "is_ours",
    "is_record",
    "is_store",
    "read_record",
]

_CHECKPOINT = frozenset({"model.json", "model.safetensors"})
_SCRATCH = frozenset({"error.txt", "curves.png"})
_NO_SCRATCH = frozenset(
    {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".txt", ".md", ".pdf", ".docx", ".xlsx", ".npy", ".zip"}
)


class Kind(enum.StrEnum):
    """What an entry is, which says what may lie in it.

    `STORES` is a tree of folders with our zarr stores and nothing else, `CHECKPOINTS` a folder of checkpoints. `LINKED` is a zarr
    store whose arrays may be links to others; they are never followed. `SCRATCH` is the working folder of Ray.
    """

    FILE = "file"
    CHECKPOINT = "checkpoint"
    CHECKPOINTS = "checkpoints"
    STORE = "store"
    LINKED = "linked store"
    STORES = "stores"
    EVENTS = "events"
    SCRATCH = "scratch"


def foreign_to(path: Place, kind: Kind) -> list[Place]:
    """What in an entry its kind does not explain."""
    if path.is_symlink() or path.is_dir() == (kind is Kind.FILE):
        return [path]
    inner = _IN_KIND.get(kind)
    return [] if inner is None else [*inner(path)]


def is_record(path: Where, *keys: str) -> bool:
    """Whether a file is a JSON object with these keys: how outputs of versions without a manifest are known.

    Example:
        >>> is_record("/nowhere/run.json", "identity")
        False
    """
    try:
        document = json.loads(place(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(document, dict) and set(keys) <= set(document)


def read_record(path: Where, *keys: str) -> dict[str, Any] | None:
    """What an output was made from, as its job recorded it.

    Args:
        path: The JSON file.
        keys: That it must have.

    Returns:
        Its content; None where there is no file.

    Raises:
        RunMismatchError: It is damaged: what the output was made from is not known.

    Example:
        >>> read_record("/nowhere/export.json", "run")
    """
    path = place(path)
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(document, dict) and set(keys) <= set(document):
            return document
        problem = f"it has no {', '.join(keys)}"
    except (OSError, ValueError, RecursionError) as error:
        problem = str(error)
    raise RunMismatchError(
        f"{path}: damaged ({problem}), so what this output was made from is not known; give another output, or --overwrite"
    )


def is_ours(path: Where) -> bool:
    """Whether a zarr folder has the mark of our stores: masks of a run, or a tile store.

    Example:
        >>> is_ours("/nowhere")
        False
    """
    try:
        found = json.loads((place(path) / "zarr.json").read_text(encoding="utf-8"))
        return "microseg" in found.get("attributes", {})
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return False


def is_store(path: Where) -> bool:
    """Whether a folder is a zarr store of ours with nothing else in it.

    Example:
        >>> is_store("/nowhere")
        False
    """
    found = place(path)
    return is_only_zarr(found) and _is_marked(found)


def is_checkpoint(path: Where) -> bool:
    """Whether a folder holds the files of a checkpoint, or nothing, and nothing else.

    Example:
        >>> is_checkpoint("/nowhere")
        False
    """
    found = place(path)
    return found.is_dir() and not foreign_to(found, Kind.CHECKPOINT)


def is_only_zarr(path: Where) -> bool:
    """Whether a folder holds what zarr writes and nothing else.

    Example:
        >>> is_only_zarr("/nowhere")
        False
    """
    found = place(path)
    return found.is_dir() and not found.is_symlink() and not [*_foreign_in_store(found)]


def is_empty(path: Place) -> bool:
    """Whether a path is a folder with nothing in it.

    Example:
        >>> is_empty(Path("/nowhere"))
        False
    """
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _foreign_in_checkpoint(path: Place) -> Iterator[Place]:
    return (each for each in path.iterdir() if each.name not in _CHECKPOINT and not is_partial(each.name))


def _foreign_in_checkpoints(path: Place) -> Iterator[Place]:
    return (each for each in path.iterdir() if not is_checkpoint(each) and not is_partial(each.name))


def _foreign_in_events(path: Place) -> Iterator[Place]:
    return (each for each in path.iterdir() if not each.name.startswith("events.out.tfevents."))


def _foreign_in_store(path: Place) -> Iterator[Place]:
    if isinstance(path, ObjectPath):
        for each in path.below():
            found = ObjectPath(path.bucket, each["path"])
            if not _is_of_zarr(found.name, found.relative_to(path).parts[:-1]):
                yield found
        return
    for parent, folders, files in os.walk(path):
        yield from (Path(parent, name) for name in folders if Path(parent, name).is_symlink())
        inner = Path(parent).relative_to(path).parts
        for name in files:
            if not _is_of_zarr(name, inner) or Path(parent, name).is_symlink():
                yield Path(parent, name)


def _foreign_in_linked(path: Place) -> Iterator[Place]:
    return (each for each in _foreign_in_store(path) if not (each.is_symlink() and each.name.isdigit()))


def _is_of_zarr(name: str, inner: tuple[str, ...]) -> bool:
    """Whether zarr writes a file of this name into a folder of a store."""
    chunk = "c" in inner and name.isdigit()
    # zarr's own unfinished writes end in `.partial`.
    return name == "zarr.json" or chunk or name == "c" or name.endswith(".partial") or is_partial(name)


def _is_marked(path: Place) -> bool:
    """Our stores have the attribute `microseg`; a damaged one, or one whose creation was killed, may have none."""
    try:
        found = json.loads((path / "zarr.json").read_text(encoding="utf-8")).get("attributes", {})
    except (FileNotFoundError, ValueError, RecursionError):
        return True
    except (OSError, AttributeError):
        return False
    return not found or "microseg" in found


def _foreign_in_scratch(path: Place) -> Iterator[Place]:
    """Ray's files have no fixed list of names, so what people keep is looked for."""
    if isinstance(path, ObjectPath):
        yield path  # Ray works in folders only
        return
    for parent, folders, files in os.walk(path):
        yield from (Path(parent, name) for name in folders if Path(parent, name).is_symlink())
        for name in files:
            if name not in _SCRATCH and Path(name).suffix.lower() in _NO_SCRATCH:
                yield Path(parent, name)


def _foreign_in_stores(path: Place) -> Iterator[Place]:
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


_IN_KIND: Mapping[Kind, Callable[[Place], Iterator[Place]]] = {
    Kind.CHECKPOINT: _foreign_in_checkpoint,
    Kind.CHECKPOINTS: _foreign_in_checkpoints,
    Kind.STORE: _foreign_in_store,
    Kind.LINKED: _foreign_in_linked,
    Kind.STORES: _foreign_in_stores,
    Kind.EVENTS: _foreign_in_events,
    Kind.SCRATCH: _foreign_in_scratch,
}
