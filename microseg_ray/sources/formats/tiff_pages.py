"""Which images a TIFF holds: pages and channels as OME-XML, ImageJ or the file's directories say, never a thumbnail."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from microseg_ray.errors import InputError
from microseg_ray.sources.choices import Wanted, pick_page

if TYPE_CHECKING:
    import tifffile

__all__ = ["Found", "find_page", "ome_image"]

_MAX_DIRECTORIES = 4096  # above it a file is a movie: its directories are counted, not read
_MAX_XML = 16 << 20
_DAMAGED = "the file is damaged; copy it again"


@dataclass(frozen=True)
class Found:
    """One page of a TIFF.

    Attributes:
        planes: What tifffile calls pages: one for each channel that is stored by itself, else one.
        shifts: Images after the plane's own first byte at which its pixels lie, for stacks with one directory.
        page: Index of the page.
        pages: Pages of the file.
        series: Index of the OME image that the page is part of.
        names: Names of the channels that are planes.
    """

    planes: tuple[Any, ...]
    shifts: tuple[int, ...]
    page: int
    pages: int
    series: int = 0
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Stack:
    """A series of planes with its axes; channels innermost of what varies, if they do."""

    series: Any
    axes: str
    shape: tuple[int, ...]

    @property
    def pages(self) -> int:
        return math.prod(size for axis, size in zip(self.axes, self.shape, strict=True) if axis != "C")

    def planes(self, page: int) -> list[int]:
        """Row-major numbers of the planes of a page, one for each channel."""
        ranges = [range(size) for size in self.shape]
        members: dict[tuple[int, ...], list[int]] = {}
        for number, place in enumerate(itertools.product(*ranges)):
            key = tuple(index for axis, index in zip(self.axes, place, strict=True) if axis != "C")
            members.setdefault(key, []).append(number)
        return list(members.values())[page]


def find_page(path: str, file: tifffile.TiffFile, wanted: Wanted) -> Found:
    """The page that is asked for.

    OME-TIFF and ImageJ: every combination of series, time, depth and other axes but the channel is a page, in the file's
    order. Other files: every directory that is neither a reduced image nor a transparency mask. Pyramid levels and
    thumbnails are no pages.

    Raises:
        InputError: No image, no such page, or a plane that is missing.
    """
    try:
        first: Any = file.pages.first
    except IndexError as error:
        raise InputError(path, "the TIFF holds no image, only a header", "copy it again from the microscope") from error
    if file.is_ome:
        _refuse_entities(path, str(file.ome_metadata or ""))
    stacks = _stacks(file) if file.is_ome or file.is_imagej else []
    if not stacks:
        pages = _directories(file, first)
        page = pick_page(path, wanted, len(pages))
        return Found((_opened(pages[page]),), (0,), page, len(pages))
    page = rest = pick_page(path, wanted, sum(stack.pages for stack in stacks))
    number = 0
    while rest >= stacks[number].pages:
        rest -= stacks[number].pages
        number += 1
    stack = stacks[number]
    chosen = stack.planes(rest)
    planes, shifts = zip(*(_plane(path, file, stack.series, index) for index in chosen), strict=True)
    names = _names(file, number, len(chosen)) if len(chosen) > 1 else ()
    return Found(planes, shifts, page, sum(each.pages for each in stacks), number, names)


def ome_image(text: str | None, index: int) -> ET.Element | None:
    """One image of an OME-XML text, or None where there is none.

    Example:
        >>> ome_image('<OME><Image ID="0"/><Image ID="1"/></OME>', 1).attrib
        {'ID': '1'}
    """
    if not text or len(text) > _MAX_XML:
        return None
    try:
        # A document type is where entity bombs live; OME-XML has none.
        images = fromstring(text, forbid_dtd=True).findall("{*}Image")
    except (ET.ParseError, DefusedXmlException):
        return None
    return images[index] if index < len(images) else None


def _refuse_entities(path: str, text: str) -> None:
    """Refuse what tifffile would read: it uses Python's own parser, which expands entities."""
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        reason = "its OME-XML declares a document type or entities, which OME-XML never does"
        raise InputError(path, reason, "export it again; the file is damaged or hostile")


def _stacks(file: tifffile.TiffFile) -> list[_Stack]:
    """The series of an OME or ImageJ file; empty where its metadata cannot be understood."""
    try:
        stacks = [_stack(series) for series in file.series]
    except Exception:  # noqa: BLE001 - metadata that cannot be understood says nothing; the directories still count
        return []
    return [stack for stack in stacks if stack is not None]


def _stack(series: Any) -> _Stack | None:
    found = re.search(r"S?YXS?$", str(series.axes))
    if found is None:
        return None
    return _Stack(series, series.axes[: found.start()], tuple(int(size) for size in series.shape[: found.start()]))


def _plane(path: str, file: tifffile.TiffFile, series: Any, index: int) -> tuple[Any, int]:
    stored = len(series.pages)
    if stored == 1 and index > 0:
        # ImageJ writes one directory for a large stack; the images follow each other.
        if series.dataoffset is None:
            raise InputError(path, f"image {index} of the stack is missing", _DAMAGED)
        return _opened(series.pages[0]), index
    page = series.pages[index] if index < stored else None
    if page is None:
        raise InputError(path, f"the image for plane {index} is missing", _DAMAGED)
    if page.parent is not file:
        reason = f"plane {index} lies in another file, {page.parent.filename}"
        raise InputError(path, reason, "open that file, or export all planes into one")
    return _opened(page), 0


def _directories(file: tifffile.TiffFile, first: Any) -> list[Any]:
    """The directories that are images of their own."""
    try:
        count = len(file.pages)
        if count > _MAX_DIRECTORIES:
            return [_Later(file, index) for index in range(count)]
        pages: list[Any] = list(file.pages)
    except Exception:  # noqa: BLE001 - a chain of directories that breaks later leaves the first image readable
        return [first]
    good = [page for page in pages if not (_opened(page).is_reduced or _opened(page).is_mask)]
    return good or [first]


@dataclass(frozen=True)
class _Later:
    """A directory that is read when it is asked for."""

    file: Any
    index: int

    def aspage(self) -> Any:
        return self.file.pages[self.index]


def _opened(page: Any) -> Any:
    """The whole directory, where tifffile only kept its outline."""
    return page.aspage() if hasattr(page, "aspage") else page


def _names(file: tifffile.TiffFile, series: int, count: int) -> tuple[str, ...]:
    found: list[str] = []
    if file.is_ome:
        image = ome_image(file.ome_metadata, series)
        channels = [] if image is None else image.findall("{*}Pixels/{*}Channel")
        found = [channel.attrib["Name"] for channel in channels if "Name" in channel.attrib]
    elif file.imagej_metadata is not None:
        labels = file.imagej_metadata.get("Labels")
        found = [str(label) for label in labels] if isinstance(labels, (list, tuple)) else []
    return tuple(found) if len(found) == count else tuple(str(index) for index in range(count))
