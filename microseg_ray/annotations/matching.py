"""Which image a name in an annotation file means. No file is ever opened by such a name; it is only looked up."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from microseg_ray.files import name_below

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from microseg_ray.files import Place

__all__ = ["ImageIndex", "NoMatchError", "RefusedNameError"]

_DRIVE = re.compile(r"[A-Za-z]:")


class RefusedNameError(ValueError):
    """A name that leaves the folder: absolute, with `..`, or a URL."""


class NoMatchError(ValueError):
    """No image, or more than one, has this name; the message says which."""


class ImageIndex:
    """The images of a job by their names.

    Args:
        images: Absolute paths.
        root: What their names are relative to.
        suffix: What an image's stem has more than its annotation's.

    Example:
        >>> from pathlib import Path
        >>> index = ImageIndex([Path("/a/train/x #1.png"), Path("/a/test/y.png")], Path("/a"))
        >>> index.named("./data/train/x #1.png").as_posix()
        '/a/train/x #1.png'
        >>> index.named("../y.png")
        Traceback (most recent call last):
            ...
        microseg_ray.annotations.matching.RefusedNameError: the name leaves its folder
    """

    def __init__(self, images: Sequence[Place], root: Place, suffix: str = "") -> None:
        self._root = root
        self._names: dict[str, list[Place]] = defaultdict(list)
        self._keys: dict[str, list[Place]] = defaultdict(list)
        for image in images:
            relative = PurePosixPath(name_below(image, root))
            key = relative.with_name(relative.stem.removesuffix(suffix) or relative.stem)
            for tail in _tails(relative.parts):
                self._names[tail].append(image)
            for tail in _tails(key.parts):
                self._keys[tail].append(image)

    def named(self, name: str) -> Place:
        """The image that a name written in an annotation file means.

        The whole name counts first, then ever less of its folders, until one image has it; the suffix may differ, since
        images are often converted after they were annotated.

        Raises:
            RefusedNameError: The name leaves the folder.
            NoMatchError: No image has the name, or several have.
        """
        parts = _parts(name)
        stem = PurePosixPath(*parts).stem if parts else ""
        for table, wanted in ((self._names, parts), (self._keys, [*parts[:-1], stem])):
            for tail in _tails(wanted):
                found = table.get(tail, [])
                if found:
                    return _only(found, tail)
        raise NoMatchError("no image of this name")

    def beside(self, annotation: Place, root: Place, suffix: str = "") -> Place:
        """The image of an annotation file: the same stem, in the same sub-folder or the only one of that stem.

        Args:
            annotation: The file; its stem may also be an image's whole name, as in `a.tif.geojson`.
            root: What annotation files are relative to.
            suffix: What the annotation's stem has more than the image's.

        Raises:
            NoMatchError: No image has the stem, or several have.
        """
        key = annotation.stem.removesuffix(suffix) or annotation.stem
        folder = PurePosixPath(name_below(annotation, root)).parent.parts
        for table in (self._keys, self._names):
            for tail in ("/".join([*folder, key]), key):
                found = table.get(tail, [])
                if len(found) == 1 or (found and tail == key):
                    return _only(found, tail)
        raise NoMatchError(f"no image named {key}")


def _only(found: list[Place], name: str) -> Place:
    if len(found) > 1:
        raise NoMatchError(f"{name} fits {len(found)} images, such as {found[0]} and {found[1]}")
    return found[0]


def _parts(name: str) -> list[str]:
    text = name.replace("\\", "/")
    if "://" in text:
        raise RefusedNameError("the name is a URL")
    if text.startswith(("/", "~")) or _DRIVE.match(text):
        raise RefusedNameError("the name is an absolute path")
    parts = [part for part in text.split("/") if part not in {"", "."}]
    if ".." in parts or "\0" in text:
        raise RefusedNameError("the name leaves its folder")
    return parts


def _tails(parts: Iterable[str]) -> list[str]:
    """`a/b/c`, `b/c`, `c`."""
    whole = list(parts)
    return ["/".join(whole[start:]) for start in range(len(whole))]
