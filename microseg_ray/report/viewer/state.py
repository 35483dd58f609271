"""What the server holds: the subject, its list, open micrographs, thumbnails."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import InputError, MicrosegError, StoreError
from microseg_ray.figures.pictures import thumbnail
from microseg_ray.files import delete_folder, local_folder, whole
from microseg_ray.names import text
from microseg_ray.report.viewer.encoding import jpeg, limits_of
from microseg_ray.report.viewer.hover import read_objects
from microseg_ray.report.viewer.listing import Listing, list_micrographs
from microseg_ray.report.viewer.opened import Shelf
from microseg_ray.report.viewer.subject import key_of, name_of, short_digest
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.sources import fingerprint, list_files, open_micrograph

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from microseg_ray.report.viewer.hover import ObjectRows
    from microseg_ray.report.viewer.subject import Subject

__all__ = ["State", "cache_folder", "find_truths"]

_THUMBNAIL = 160
_KEPT_BYTES = 20 << 30


@dataclass(eq=False)
class State:
    """What all requests share.

    Attributes:
        subject: The run or archive.
        cache: Folder for levels and thumbnails.
        truths: File of the true mask by name.
        learnt: The masks of a micrograph that were learnt from labels: the newest, and the one before it.
        token: The secret in the address.
    """

    subject: Subject
    cache: Path
    truths: Mapping[str, Path] = field(default_factory=dict)
    learnt: Callable[[str], tuple[MaskStore, ...]] = lambda _: ()
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    _objects: OrderedDict[str, ObjectRows | None] = field(default_factory=OrderedDict)

    @cached_property
    def listing(self) -> Listing:
        """The list of micrographs."""
        return list_micrographs(self.subject)

    @cached_property
    def shelf(self) -> Shelf:
        """The open micrographs."""
        return Shelf(self.subject, self.truths, self.cache, self.learnt)

    def name(self, key: str) -> str:
        """The micrograph of a key; nothing but the micrographs of the subject has one.

        Raises:
            InputError: There is no such micrograph.
        """
        try:
            name = name_of(key)
        except StoreError as error:
            raise InputError(key, "is no micrograph of this page", "open it from the list") from error
        if name not in self.subject.known:
            raise InputError(name, "is no micrograph of this page", "open it from the list")
        return name

    def row(self, place: int) -> dict[str, Any]:
        """One row of the list as plain JSON types."""
        listing, name = self.listing, self.subject.names[place]
        failure = self.subject.failures.get(name)
        return {
            "key": key_of(name),
            "name": listing.shown[place],
            "state": self._state_now(place, name),
            "reason": "" if failure is None else text(failure.reason),
            "missing": not self.subject.exists(name),
            "fractions": _plain(listing.fractions[place]),
            "areas_um2": _plain(listing.areas_um2[place]),
            "intervals": [_plain(pair) for pair in listing.intervals[place]],
            "outlier": _plain([listing.scores[place]])[0],
            "pixel_um": _plain([listing.pixel_um[place]])[0],
        }

    def objects(self, name: str) -> ObjectRows | None:
        """The objects of a micrograph, of the last few kept."""
        if name not in self._objects:
            run = self.subject.run
            self._objects[name] = None if run is None else read_objects(run.folder, name)
            while len(self._objects) > 4:
                self._objects.popitem(last=False)
        return self._objects[name]

    def thumbnail(self, name: str) -> bytes:
        """A small picture of a micrograph as JPEG, made when it is first asked for.

        Raises:
            InputError: The file cannot be read.
        """
        path = self.subject.path(name)
        identity = f"{path}\0{fingerprint(path, 'stat')}\0{self.subject.source}"
        kept = self.cache / "thumbnails" / f"{short_digest(identity)}.jpg"
        if kept.is_file():
            return kept.read_bytes()
        with open_micrograph(path, self.subject.source) as micrograph:
            pixels = thumbnail(micrograph.read, micrograph.info.shape, _THUMBNAIL)
        content = jpeg(pixels, limits_of([pixels]))
        with whole(kept, durable=False) as partial:
            partial.write_bytes(content)
        return content

    def close(self) -> None:
        """Close what is open."""
        self.shelf.close()

    def _state_now(self, place: int, name: str) -> str:
        """As the list says, but what a running job has finished since is looked up."""
        said, run = self.listing.states[place], self.subject.run
        if said != "unfinished" or run is None:
            return said
        try:
            return "finished" if MaskStore.open(run.store_path(name)).finished else said
        except MicrosegError:
            return said


def _plain(values: Any) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [None if value != value else float(value) for value in values]  # noqa: PLR0124 - NaN alone differs from itself


def cache_folder(wanted: str | None) -> Path:
    """The folder for levels and thumbnails, made; it may be deleted at any time.

    Above 20 GiB the oldest levels are deleted.

    Args:
        wanted: What the user gave; None for `microseg_ray/viewer` in the user's folder of caches.
    """
    if wanted is not None:
        folder = Path(wanted).expanduser().absolute()
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folder = Path(base) / "microseg_ray" / "viewer"
    try:
        (folder / "thumbnails").mkdir(parents=True, exist_ok=True)
    except OSError:
        if wanted is not None:
            raise
        # A home that cannot be written: levels last as long as the machine keeps them.
        folder = Path(tempfile.mkdtemp(prefix="microseg-view-"))
        (folder / "thumbnails").mkdir()
    _make_room(folder)
    return folder


def _make_room(folder: Path) -> None:
    """Delete the oldest levels where there are too many; other folders that lie there are not ours."""
    ours = (each for each in folder.iterdir() if re.match("[0-9a-f]{40}", each.name))
    made = [each for each in ours if each.is_dir() and (each / "complete").is_file()]
    made.sort(key=lambda each: (each / "complete").stat().st_mtime, reverse=True)
    held = 0
    for each in made:
        held += sum(file.stat().st_size for file in each.rglob("*") if file.is_file())
        if held > _KEPT_BYTES:
            with contextlib.suppress(OSError):
                delete_folder(each)


def find_truths(where: str | None, names: tuple[str, ...]) -> dict[str, Path]:
    """The true mask of each micrograph, by its name: the same folder and stem, or the only mask with that stem.

    Args:
        where: Folder, glob or file of masks; None for none.
        names: The micrographs.

    Raises:
        InputError: No mask is there.
    """
    if where is None:
        return {}
    by_stem: dict[str, list[Path]] = {}
    for file in list_files(where):
        by_stem.setdefault(file.stem, []).append(local_folder(file, "view"))
    found = {}
    for name in names:
        masks = by_stem.get(Path(name).stem, [])
        near = [
            mask for mask in masks if mask.with_suffix("").as_posix().endswith(Path(name).with_suffix("").as_posix())
        ]
        if len(masks) == 1 or len(near) == 1:
            found[name] = (near or masks)[0]
    if not found:
        raise InputError(where, "no mask here has the name of a micrograph", "name masks as micrographs: a.tif, a.png")
    return found
