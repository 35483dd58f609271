"""Which files a folder, a glob or a path means, and what identifies a file's content."""

from __future__ import annotations

import glob
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISDIR
from typing import TYPE_CHECKING, Literal

from microseg_ray.errors import InputError
from microseg_ray.files import place
from microseg_ray.files.objects import is_object_url
from microseg_ray.recognition import is_ours
from microseg_ray.sources.patience import patience, within
from microseg_ray.sources.remote import is_url, location, require_regular
from microseg_ray.sources.remote_listing import list_urls, url_fingerprint, url_member, url_root
from microseg_ray.sources.suffixes import NAMED, SUFFIXES, is_listed
from microseg_ray.sources.tree import OURS, Owned, once, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from microseg_ray.accounts import NotTaken
    from microseg_ray.files import Place, Where

__all__ = [
    "SUFFIXES",
    "Listing",
    "fingerprint",
    "list_files",
    "listing_root",
    "member_path",
    "root_of",
    "survey_files",
    "survey_inputs",
]

NO_IMAGE = "of no image format"

LIST_SUFFIX = ".txt"
_MAX_LIST_BYTES = 1 << 28
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Listing:
    """What a folder, glob, file or URL means.

    Attributes:
        entries: (name below the root, absolute path or URL), sorted.
        not_taken: (name, reason) of what was met and is none of these.
    """

    entries: tuple[tuple[str, str], ...]
    not_taken: NotTaken = ()

    @property
    def files(self) -> list[Place]:
        """The entries as paths, or as addresses of an object store."""
        return [place(path) for _, path in self.entries]


def list_files(where: Where, suffixes: tuple[str, ...] = SUFFIXES, *, outputs: bool = True) -> list[Place]:
    """The micrographs (or masks) that a user means by a folder, a glob or a single file: the files of `survey_files`.

    Args:
        where: Folder, glob or file.
        suffixes: Lower-case suffixes to look for in folders and globs.
        outputs: Whether what our jobs wrote counts: for masks yes, for micrographs no.

    Returns:
        Absolute paths, sorted by their posix form.

    Raises:
        InputError: Nothing is there, or nothing with one of the suffixes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.tif", "a (1)#2.PNG", ".hidden.png", "notes.txt"):
        ...         (Path(folder) / name).touch()
        ...     [path.name for path in list_files(folder)]
        ['a (1)#2.PNG', 'b.tif']
    """
    return survey_files(where, suffixes, outputs=outputs).files


def survey_files(where: Where, suffixes: tuple[str, ...] = SUFFIXES, *, outputs: bool = True) -> Listing:
    """The files that a user means by a folder, a glob or a single file, and what lies beside them.

    A folder is searched with all its subfolders, those behind links too, each once. Hidden files and folders are skipped, and
    so is what lies inside a `.zarr` folder, which is itself one entry. A glob may use `**`. Local paths and addresses of
    object stores; `survey_inputs` takes other URLs too.

    Args:
        where: Folder, glob or file; a path that exists is never read as a glob, so names may hold `[`. A `.txt` lists files,
            a path a line, relative to its own folder and inside it; one that is missing is an error where it is opened.
        suffixes: Lower-case suffixes to look for in folders and globs.
        outputs: Whether what our jobs wrote (masks of a run, overlays, tile stores) counts as any other file. A file that is
            named itself always counts.

    Raises:
        InputError: Nothing is there, or nothing with one of the suffixes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.tif", ".hidden.png", "notes.txt"):
        ...         (Path(folder) / name).touch()
        ...     survey_files(folder).not_taken
        (('.hidden.png', 'hidden'), ('notes.txt', 'of no image format'))
    """
    if is_object_url(where):
        return _of_url(str(where), suffixes, outputs=outputs)
    if is_url(where):
        raise InputError(where, "a URL cannot be used here", "copy the files to a local folder")
    start, root = _absolute(where), _local_root(where)
    owned = None if outputs else Owned(root)
    left: list[tuple[Path, str]] = []
    if start.is_dir() and start.suffix.lower() != ".zarr" and not _is_zarr(start):
        found = _split(walk(start, left, owned), suffixes, left)
    elif start.suffix.lower() == LIST_SUFFIX and LIST_SUFFIX not in suffixes and start.is_file():
        found = _listed(start)
    elif start.exists():
        found = [start]
    elif glob.has_magic(str(start)):
        hits = {Path(hit) for hit in glob.glob(str(start), recursive=True)}  # noqa: PTH207 - Path.glob takes no absolute pattern
        files = once((path for path in hits if _is_entry(path, root)), root, left)
        ours = set() if owned is None else {path for path in files if owned(path)}
        left += [(path, OURS) for path in ours]
        found = _split((path for path in files if path not in ours), suffixes, left)
    else:
        raise InputError(start, "no such file or folder", "check the path")
    not_taken = tuple(sorted((path.relative_to(root).as_posix(), reason) for path, reason in left))
    if not found:
        ours_only = [name for name, reason in not_taken if reason == OURS]
        reason = f"no images found but outputs of microseg_ray ({ours_only[0]})" if ours_only else "no images found"
        raise InputError(start, reason, f"supported are {', '.join(suffixes)}")
    ordered = sorted(set(found), key=lambda path: path.as_posix())
    return Listing(tuple((path.relative_to(root).as_posix(), str(path)) for path in ordered), not_taken)


def _of_url(where: str, suffixes: tuple[str, ...], *, outputs: bool) -> Listing:
    """The files below an address; those of micrographs may have the names of formats that only content tells apart."""
    every = (*SUFFIXES, *NAMED) if suffixes is SUFFIXES else suffixes
    found, others = list_urls(where, every)
    left = [(name, NO_IMAGE if suffixes is SUFFIXES else "of another format") for name in others]
    if not outputs and is_object_url(where):
        ours = {name for name, url in found if url.lower().endswith(".zarr") and is_ours(url)}
        left += [(name, OURS) for name in sorted(ours)]
        found = [each for each in found if each[0] not in ours]
        if not found:
            raise InputError(where, f"no images found but outputs of microseg_ray ({min(ours)})", "give another folder")
    return Listing(tuple(found), tuple(sorted(left)))


def _split(paths: Iterable[Path], suffixes: tuple[str, ...], left: list[tuple[Path, str]]) -> list[Path]:
    """The paths that are meant; the others are noted."""
    found = []
    for path in paths:
        if is_listed(path, suffixes):
            found.append(path)
        else:
            left.append((path, NO_IMAGE if suffixes is SUFFIXES else "of another format"))
    return found


def listing_root(where: Where) -> Place:
    """The folder that names are relative to: the folder given, the parent of a file, the fixed part of a glob.

    The root does not depend on which files exist, so a file that is added later does not rename the others.

    Example:
        >>> listing_root("/data/batch_*/images/*.tif").as_posix()
        '/data'
    """
    if is_object_url(where):
        return place(url_root(str(where), (*SUFFIXES, *NAMED)))
    return _local_root(where)


def _local_root(where: Where) -> Path:
    start = _absolute(where)
    if start.is_dir() and start.suffix.lower() != ".zarr" and not _is_zarr(start):
        return start
    if start.exists() or not glob.has_magic(str(start)):
        return start.parent
    fixed = start
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    return fixed


def survey_inputs(where: Where) -> Listing:
    """What an archive (a folder, glob, file or URL of any of these) holds: micrographs, and what lies beside them.

    Args:
        where: As in `survey_files`, or a URL. Of a remote folder only `.zarr` folders count as stores.

    Returns:
        Names are posix paths relative to `root_of`. Outputs of ours (masks of a run, say) are not taken.

    Raises:
        InputError: As `survey_files`; the server cannot be reached.

    Example:
        >>> import fsspec
        >>> memory = fsspec.filesystem("memory")
        >>> memory.pipe({"/listing-doctest/b 1/a#2.tif": b"x", "/listing-doctest/notes.txt": b"x"})
        >>> survey_inputs("memory://listing-doctest").entries
        (('b 1/a#2.tif', 'memory://listing-doctest/b 1/a#2.tif'),)
    """
    if is_url(where):
        return _of_url(str(where), SUFFIXES, outputs=True)
    return survey_files(where, outputs=False)


def root_of(where: Where) -> str:
    """`listing_root` as text, for URLs too.

    Example:
        >>> root_of("s3://bucket/batch_*/a.tif"), root_of("/data/*.tif")
        ('s3://bucket', '/data')
    """
    return url_root(str(where), (*SUFFIXES, *NAMED)) if is_url(where) else str(_local_root(where))


def member_path(root: str, name: str) -> str:
    """Where the micrograph of a name lies: the inverse of the names that `survey_inputs` gives.

    Example:
        >>> member_path("/data", "b/a#1.tif"), member_path("https://host/data", "b/a#1.tif")
        ('/data/b/a#1.tif', 'https://host/data/b/a%231.tif')
    """
    return url_member(root, name) if is_url(root) else str(Path(root) / name)


def fingerprint(path: Where, kind: Literal["stat", "content"]) -> str:
    """What identifies an input file, so that a changed file is noticed.

    Args:
        path: A file, or a folder (zarr), which counts with all files inside, in sorted order; a path or a URL.
        kind: `stat` looks at size and time of the last change, `content` at every byte.

    Returns:
        `stat:<size>:<mtime_ns>` or `sha256:<hex>`; for a folder `stat:<total size>:<sha256 of names, sizes, times>`.
        For a URL the server's entity tag or time of change takes the place of the time.

    Raises:
        InputError: The file is missing or may not be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.bin"
        ...     _ = path.write_bytes(b"abc")
        ...     fingerprint(path, "content")[:20], fingerprint(path, "stat").split(":")[1]
        ('sha256:ba7816bf8f01c', '3')
    """
    return within(patience(None), str(path), lambda: _fingerprint(path, kind))


def _fingerprint(path: Where, kind: Literal["stat", "content"]) -> str:
    if is_url(path):
        return url_fingerprint(str(path), kind)
    path = Path(location(path))
    try:
        stat = path.stat()
        if not S_ISDIR(stat.st_mode):
            return f"stat:{stat.st_size}:{stat.st_mtime_ns}" if kind == "stat" else f"sha256:{_digest(path)}"
        files = sorted((file.relative_to(path).as_posix(), file) for file in _inside(path))
        listing = hashlib.sha256()
        total = 0
        for name, file in files:
            stat = file.stat()
            total += stat.st_size
            token = str(stat.st_mtime_ns) if kind == "stat" else _digest(file)
            listing.update(f"{name}\0{stat.st_size}\0{token}\n".encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error
    return f"stat:{total}:{listing.hexdigest()}" if kind == "stat" else f"sha256:{listing.hexdigest()}"


def _inside(folder: Path) -> Iterator[Path]:
    """The files in a folder; what is neither file nor folder would block whoever reads it."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield path
        elif not path.is_dir() and path.exists():
            require_regular(path)


def _digest(path: Path) -> str:
    require_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _listed(path: Path) -> list[Path]:
    """The files that a text names; names of micrographs start at its folder, so nothing may lie outside."""
    if path.stat().st_size > _MAX_LIST_BYTES:
        raise InputError(path, f"larger than {_MAX_LIST_BYTES} bytes", "a list holds a path a line")
    lines = path.read_text(encoding="utf-8-sig", errors="surrogateescape").splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        file = _absolute(path.parent / line.strip())
        if not file.is_relative_to(path.parent):
            reason = f"line {number}: {line.strip()} lies outside the list's folder"
            raise InputError(path, reason, "put the list into a folder that holds all of the files")
        found.append(file)
    return found


def _absolute(where: Where) -> Path:
    # Not resolve(): a symlink to a file keeps the name that the user gave it.
    return Path(os.path.abspath(Path(location(where)).expanduser()))  # noqa: PTH100


def _is_entry(path: Path, root: Path) -> bool:
    """Whether a hit of a glob is a file or a zarr folder, and is not inside a zarr folder or hidden."""
    if path == root:
        return False
    inside = path.relative_to(root).parts
    if any(part.startswith(".") for part in inside) or any(part.lower().endswith(".zarr") for part in inside[:-1]):
        return False
    return not path.is_dir() or path.suffix.lower() == ".zarr"


def _is_zarr(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zarray", ".zgroup"))
