"""The entries of a folder: links are followed once, hidden files and our own outputs are excluded."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from microseg_ray.files import BOOKS, is_partial
from microseg_ray.outputs import MANIFEST, outputs_in
from microseg_ray.recognition import is_ours

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["HIDDEN", "LOOP", "OURS", "Owned", "once", "walk"]

HIDDEN = "hidden"
OURS = "output of microseg_ray"
_BOOKS = frozenset({MANIFEST, *BOOKS})
LOOP = "link to a folder that is listed already"


class Owned:
    """Knows what below a folder a job of ours wrote, by manifests and by the mark of our stores."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, frozenset[str]] = {}

    def __call__(self, path: Path) -> bool:
        """Whether a file or folder below the root is an output, or lies in one."""
        if path.suffix.lower() == ".zarr" and is_ours(path):
            return True
        return self._listed(path, self._root)

    def behind(self, path: Path, link: Path) -> bool:
        """The same for a path that was reached through a link, whose target may lie in an output."""
        return self._listed(Path(os.path.realpath(link)) / path.relative_to(link), Path(path.anchor))

    def _listed(self, path: Path, root: Path) -> bool:
        for parent in path.parents:
            names = self._names(parent)
            if names:
                inside = PurePosixPath(path.relative_to(parent).as_posix())
                if any(str(each) in names for each in (inside, *inside.parents)):
                    return True
            if parent == root:
                break
        return False

    def _names(self, folder: Path) -> frozenset[str]:
        if folder not in self._known:
            self._known[folder] = outputs_in(folder)
        return self._known[folder]


def walk(root: Path, left: list[tuple[Path, str]], owned: Owned | None) -> Iterator[Path]:
    """Files and `.zarr` folders below a folder, in all its subfolders; folders behind links come last, and each only once.

    Args:
        root: The folder.
        left: Where to note what is passed over whole, with the reason.
        owned: Knows our outputs; None to take them as any other file.
    """
    seen: set[str] = set()
    links = [root]
    # A real folder comes before a link to it, so that a link that is added later renames nothing.
    while links:
        start = links.pop(0)
        found: list[Path] = []
        target = os.path.realpath(start)
        if start != root and (target in seen or os.path.realpath(root).startswith(f"{target.rstrip('/')}/")):
            left.append((start, LOOP))
            continue
        yield from _real(start, seen, left, found, owned)
        links += sorted(found)


def _real(
    start: Path, seen: set[str], left: list[tuple[Path, str]], links: list[Path], owned: Owned | None
) -> Iterator[Path]:
    pending, outside = [start], start.is_symlink() and owned is not None
    while pending:
        folder = pending.pop()
        real = os.path.realpath(folder)
        if real in seen:
            left.append((folder, LOOP))
            continue
        seen.add(real)
        for entry in _entries(folder):
            path = folder / entry.name
            is_folder = _is_dir(entry)
            if entry.name in _BOOKS or is_partial(entry.name):
                continue
            if entry.name.startswith("."):
                left.append((path, HIDDEN))
            elif owned is not None and (owned(path) or (outside and owned.behind(path, start))):
                left.append((path, OURS))
            elif not is_folder or path.suffix.lower() == ".zarr":
                yield path
            else:
                (links if entry.is_symlink() else pending).append(path)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: os.fsencode(entry.name))
    except OSError:
        return []


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def once(paths: Iterable[Path], root: Path, left: list[tuple[Path, str]]) -> list[Path]:
    """Paths without those that reach a folder a second time, through a link."""
    hits = list(paths)
    parents = sorted({path.parent for path in hits}, key=lambda each: (len(each.parts), each.as_posix()))
    folders = {folder: os.path.realpath(folder) for folder in parents}
    real_root = Path(os.path.realpath(root))
    # The folder itself before a link to it.
    first = {real: folder for folder, real in folders.items() if real == str(real_root / folder.relative_to(root))}
    for folder, real in folders.items():
        first.setdefault(real, folder)
    kept = [path for path in hits if first[folders[path.parent]] == path.parent]
    left += [(path, LOOP) for path in sorted(set(hits) - set(kept))]
    return kept
