"""TIFF and BigTIFF, with OME-XML, ImageJ's or a vendor's tags, local or remote: pages and channels by region."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import numpy as np
import tifffile

from microseg_ray.errors import InputError
from microseg_ray.sources.choices import Parts, Wanted, pick_channels
from microseg_ray.sources.formats.headers import check_tiff_tags
from microseg_ray.sources.formats.tiff_page import TiffPage
from microseg_ray.sources.formats.tiff_pages import Found, find_page, ome_image
from microseg_ray.sources.remote import is_url, open_binary
from microseg_ray.sources.scale.pixel_size import of_ome_xml
from microseg_ray.sources.scale.statement import Statement, fitted
from microseg_ray.sources.scale.tiff_tags import of_tiff

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.info import Format

__all__ = ["TiffPixels"]

_ORIENTATION, _MAX_SAMPLE = 274, 281

# tifffile logs what it forgives; what matters to us is checked and raised.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)


class TiffPixels:
    """A page of a TIFF.

    Args:
        path: The file; a path or a URL.
        wanted: Page, channel, and whether it is a mask.

    Raises:
        InputError: Damaged, truncated, not an image of intensities, or an absurd size; no such page or channel.
    """

    format: Format = "tiff"

    def __init__(self, path: str, wanted: Wanted) -> None:
        self._lock = threading.Lock()
        with contextlib.ExitStack() as stack:
            # A path by its name, so that tifffile knows that it can be mapped.
            source: Any = stack.enter_context(contextlib.closing(open_binary(path))) if is_url(path) else path
            with contextlib.nullcontext(source) if is_url(path) else open_binary(path) as head:
                # Behind a URL each directory is a request.
                check_tiff_tags(path, head, all_pages=not is_url(path))
                # A URL stays open and is read from its begin.
                head.seek(0)
            file = stack.enter_context(tifffile.TiffFile(source))
            found = find_page(path, file, wanted)
            self._open_planes(path, file, found, wanted)
            stated = _stated(file, found)
            self.pixel_size, self.stated_bar, self.size_notes = stated.pixel_size, stated.bar, stated.notes
            self.orientation = _orientation(found.planes[0])
            self.bits = _bits(file, found, self.dtype)
            self._stack = stack.pop_all()

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels (channels, y, x) of a box; a view where they are held."""
        if len(self._planes) == 1:
            return self._planes[0].read(box)
        with self._lock:
            return np.concatenate([plane.read(box) for plane in self._planes])

    def close(self) -> None:
        """Close the file and release its memory."""
        for plane in self._planes:
            plane.close()
        self._stack.close()

    def _open_planes(self, path: str, file: tifffile.TiffFile, found: Found, wanted: Wanted) -> None:
        """One reader for a page with its channels, or one for each channel that is stored by itself."""
        chosen, channel = slice(None), None
        if found.names:
            chosen, channel = pick_channels(path, wanted, found.names)
            wanted = Wanted(wanted.page, "auto", labels=wanted.labels)
        members = zip(found.planes[chosen], found.shifts[chosen], strict=True)
        self._planes = [TiffPage(path, file, plane, wanted, shift) for plane, shift in members]
        first = self._planes[0]
        if len(found.planes) > 1 and any(plane.channels != 1 or plane.shape != first.shape for plane in self._planes):
            raise InputError(path, "the channels are colour images or differ in size", "export them one a file")
        self.shape, self.dtype = first.shape, first.dtype
        self.channels = sum(plane.channels for plane in self._planes)
        self.lazy = all(plane.lazy for plane in self._planes)
        self.decoded_bytes = sum(plane.decoded_bytes for plane in self._planes)
        channel = first.channel if not found.names else channel
        self.parts = Parts(found.page, found.pages, channel, found.names or first.names)


def _orientation(page: Any) -> int:
    found = page.tags.valueof(_ORIENTATION, 1)
    return int(found) if isinstance(found, int) else 1


def _bits(file: tifffile.TiffFile, found: Found, dtype: np.dtype[Any]) -> int | None:
    """Significant bits where the tags or OME-XML state fewer than the type has."""
    if dtype.kind not in "ui":
        return None
    page = found.planes[0]
    stated = [page.bitspersample]
    most = page.tags.valueof(_MAX_SAMPLE)
    if isinstance(most, int) and most > 0:
        stated.append(most.bit_length())
    image = ome_image(file.ome_metadata, found.series) if file.is_ome else None
    pixels = None if image is None else image.find("{*}Pixels")
    if pixels is not None and pixels.attrib.get("SignificantBits", "").isdigit():
        stated.append(int(pixels.attrib["SignificantBits"]))
    bits = min(value for value in stated if value)
    return bits if bits < 8 * dtype.itemsize else None


def _stated(file: tifffile.TiffFile, found: Found) -> Statement:
    if found.series == 0:
        return of_tiff(file, found.planes[0])
    # Each image of an OME file has a size of its own.
    image = ome_image(file.ome_metadata, found.series) if file.is_ome else None
    size = None if image is None else of_ome_xml(f"<OME>{ET.tostring(image, encoding='unicode')}</OME>")
    page = found.planes[0]
    return fitted([size], None, (int(page.imagelength), int(page.imagewidth)))
