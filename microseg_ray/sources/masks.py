"""read_mask: a label image as class indices, exactly as the file stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.settings import SourceSettings
from microseg_ray.sources.agreement import page_objection
from microseg_ray.sources.base import equal_channels
from microseg_ray.sources.bounds import bound_decoded, reading
from microseg_ray.sources.choices import Parts
from microseg_ray.sources.opening import open_pixels
from microseg_ray.sources.patience import patience, within
from microseg_ray.sources.remote import location

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.files import Where
    from microseg_ray.sources.base import Pixels

__all__ = ["read_mask"]


_ONE_PAGE = Parts()


def read_mask(path: Where, image: Parts | None = _ONE_PAGE) -> NDArray[np.uint8]:
    """The labels of a whole mask.

    Palette images keep their indices, 1-bit images are 0 and 1, gray PNGs of 2 and 4 bits keep the stored numbers.

    Args:
        path: PNG, BMP, TIFF, a zarr array, or an OME-Zarr group such as the mask of a run (its full-resolution level).
        image: Pages of the micrograph, and which one is read: a mask of as many pages has one for each, a mask of one page
            belongs to the page that is read. None: the first page of the mask, whatever the micrograph has.

    Returns:
        uint8 (y, x), class indices; 255 is the ignore index.

    Raises:
        InputError: JPEG, colour, fractions, numbers outside 0 to 255, pages that do not belong to the micrograph's, or
            whatever makes a micrograph unreadable.

    Example:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.png"
        ...     Image.fromarray(np.array([[0, 1], [2, 255]], np.uint8)).save(path)
        ...     read_mask(path).tolist()
        [[0, 1], [2, 255]]
    """
    name = location(path)
    return within(patience(None), name, lambda: _read(name, image))


def _read(name: str, image: Parts | None) -> NDArray[np.uint8]:
    pixels = _page_of(name, image)
    try:
        height, width = pixels.shape
        bound_decoded(name, height * width * pixels.channels * pixels.dtype.itemsize, "a mask")
        with reading(name, "the mask cannot be read"):
            raw = pixels.read(Box(0, 0, height, width))
    finally:
        pixels.close()
    if raw.shape[0] > 1 and not equal_channels(raw):
        y, x = (int(value) for value in np.argwhere((raw != raw[0]).any(axis=0))[0])
        raise InputError(
            name,
            f"the mask is a colour image, with {tuple(raw[:, y, x].tolist())} at (y, x) = ({y}, {x})",
            "convert colours to class indices first (microseg annotate)",
        )
    return _as_labels(name, raw[0])


def _page_of(name: str, image: Parts | None) -> Pixels:
    """The open page of a mask that belongs to the page of the micrograph that is read."""
    pixels = open_pixels(name, labels=True)
    pages = pixels.parts.pages
    if image is None or pages == 1:
        return pixels
    pixels.close()
    reason = page_objection(pages, image.pages)
    if reason:
        advice = "save the page that belongs to the micrograph as a mask, or one page for each of the micrograph's"
        raise InputError(name, reason, advice)
    return open_pixels(name, SourceSettings(page=image.page), labels=True)


def _as_labels(name: str, raw: NDArray[Any]) -> NDArray[np.uint8]:
    if raw.dtype.kind not in "buif":
        raise InputError(name, f"labels are {raw.dtype}", "save the mask as 8-bit integers")
    if raw.dtype.kind != "b" and raw.dtype != np.uint8:
        # NaN compares false everywhere, so it is caught here too.
        wrong = ~((raw >= 0) & (raw <= 255))
        if raw.dtype.kind == "f":
            wrong |= raw != np.rint(raw)
        if wrong.any():
            y, x = (int(value) for value in np.argwhere(wrong)[0])
            raise InputError(
                name,
                f"the label at (y, x) = ({y}, {x}) is {raw[y, x].item()!r}, not a whole number from 0 to 255",
                "save class indices; instance labels must become classes first",
            )
    return np.array(raw, dtype=np.uint8, order="C", copy=True)
