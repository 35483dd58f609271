"""What the page shows: a run, or an archive without masks."""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError, StoreError
from microseg_ray.files import local_folder, place
from microseg_ray.files.objects import is_object_url
from microseg_ray.runs.folder import Run
from microseg_ray.settings import SourceSettings
from microseg_ray.sources import member_path, root_of, survey_inputs
from microseg_ray.sources.remote import is_url

if TYPE_CHECKING:
    from microseg_ray.quarantine import Failure
    from microseg_ray.settings import ClassSpec

__all__ = ["Subject", "key_of", "name_of", "open_subject", "short_digest"]


@dataclass(frozen=True)
class Subject:
    """A run, or an archive.

    Attributes:
        title: What the page calls it.
        root: The folder or URL below which the micrographs lie.
        names: Micrographs by their path below the root, sorted; those without a mask as well.
        source: How they are opened.
        run: The run; None for an archive.
        failures: Inputs that the run has set aside, by name.
    """

    title: str
    root: str
    names: tuple[str, ...]
    source: SourceSettings
    run: Run | None
    failures: dict[str, Failure]

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """The classes of the run's model; none for an archive."""
        return () if self.run is None else self.run.classes

    @cached_property
    def known(self) -> frozenset[str]:
        """The names, to look them up."""
        return frozenset(self.names)

    def path(self, name: str) -> str:
        """Where a micrograph lies: a path or a URL."""
        return member_path(self.root, name)

    def exists(self, name: str) -> bool:
        """Whether the file is still there; of a URL this is not asked."""
        return is_url(self.root) or os.path.lexists(self.path(name))


def open_subject(where: str) -> Subject:
    """The run in a folder, or the archive that a folder, glob, file or URL means.

    Args:
        where: A folder with a run.json is a run, everything else an archive.

    Raises:
        StoreError: The run.json is damaged.
        InputError: Nothing is there, or no image.

    Example:
        >>> open_subject("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: /nowhere: neither a run nor an archive (no such file or folder); check the path
    """
    if is_object_url(where) and (place(where) / "run.json").is_file():
        local_folder(where, "view")
    folder = Path(where).expanduser()
    if not is_url(where) and (folder / "run.json").exists():
        run = Run.open(folder)
        failures = {each.path: each for each in run.failures()}
        names = sorted({*run.names(), *(name for name in failures if not os.path.isabs(name))})  # noqa: PTH117
        source = SourceSettings(**run.document["settings"].get("source", {}))
        return Subject(run.folder.name, str(run.document["archive"]), tuple(names), source, run, failures)
    try:
        listed = survey_inputs(where)
    except InputError as error:
        raise InputError(where, f"neither a run nor an archive ({error.reason})", error.advice) from error
    names = [name for name, _ in listed.entries]
    return Subject(Path(where).name or where, root_of(where), tuple(names), SourceSettings(), None, {})


def key_of(name: str) -> str:
    r"""A name as a part of a URL, whatever bytes it has.

    Example:
        >>> key_of("a/b \udcff.tif")
        'YS9iIP8udGlm'
    """
    return base64.urlsafe_b64encode(os.fsencode(name)).decode("ascii").rstrip("=")


def short_digest(name: str) -> str:
    r"""A file name for a name or an identity of any length and bytes.

    Example:
        >>> short_digest("a\udcff.tif")[:8], len(short_digest(""))
        ('e8cd1ea5', 40)
    """
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()[:40]


def name_of(key: str) -> str:
    r"""The name that `key_of` was given.

    Raises:
        StoreError: It is not such a key.

    Example:
        >>> name_of("YS9iIP8udGlm")
        'a/b \udcff.tif'
    """
    try:
        return os.fsdecode(base64.b64decode(key + "=" * (-len(key) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError) as error:
        raise StoreError(f"{key!r} is no key of a micrograph") from error
