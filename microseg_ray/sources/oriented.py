"""Images that are stored mirrored, turned or transposed, read as they are meant to be seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from microseg_ray.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.sources.base import Pixels

__all__ = ["Oriented", "upright"]

# Of the eight orientations of TIFF (tag 274) and Exif: which transpose, and which mirror rows or columns afterwards.
_TRANSPOSED, _ROWS_MIRRORED, _COLUMNS_MIRRORED = (
    frozenset({5, 6, 7, 8}),
    frozenset({3, 4, 7, 8}),
    frozenset({2, 3, 6, 7}),
)


def upright(pixels: Pixels) -> Pixels:
    """The image as its orientation tag says that it is to be seen; itself where it is stored so.

    Args:
        pixels: A reader; its attribute `orientation`, where it has one, is the value of the tag.
    """
    orientation = getattr(pixels, "orientation", 1)
    return Oriented(pixels, orientation) if orientation in range(2, 9) else pixels


class Oriented:
    """An image with an orientation tag; regions are mapped, so that a lazy reader stays lazy.

    Args:
        pixels: What it reads from, and closes.
        orientation: 2 to 8, as in TIFF and Exif.

    Example:
        >>> import numpy as np
        >>> from types import SimpleNamespace
        >>> stored = np.arange(6).reshape(1, 2, 3)
        >>> pixels = SimpleNamespace(
        ...     shape=(2, 3), pixel_size=None, format="tiff", channels=1, dtype=stored.dtype, lazy=True, decoded_bytes=0,
        ...     parts=None, read=lambda box: stored[(..., *box.slices)],
        ... )
        >>> Oriented(pixels, 6).read(Box(0, 0, 3, 2)).tolist()
        [[[3, 0], [4, 1], [5, 2]]]
    """

    def __init__(self, pixels: Pixels, orientation: int) -> None:
        self._pixels = pixels
        self._transposed = orientation in _TRANSPOSED
        self._mirrored = (orientation in _ROWS_MIRRORED, orientation in _COLUMNS_MIRRORED)
        self.format, self.channels, self.dtype = pixels.format, pixels.channels, pixels.dtype
        self.lazy, self.decoded_bytes, self.parts = pixels.lazy, pixels.decoded_bytes, pixels.parts
        self.shape, self.pixel_size = pixels.shape, pixels.pixel_size
        if self._transposed:
            self.shape = (pixels.shape[1], pixels.shape[0])
            if self.pixel_size is not None:
                self.pixel_size = replace(self.pixel_size, y=self.pixel_size.x, x=self.pixel_size.y)
        # A stated bar lies at the bottom as stored: the pixels tell where it is now.
        self.stated_bar = None
        self.size_notes = getattr(pixels, "size_notes", ())
        self.bits = getattr(pixels, "bits", None)
        self.notes = (*getattr(pixels, "notes", ()), f"turned as its orientation tag ({orientation}) says")

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box as seen: (channels, y, x)."""
        (y0, y1), (x0, x1) = (
            (length - stop, length - start) if mirrored else (start, stop)
            for mirrored, length, start, stop in zip(
                self._mirrored, self.shape, (box.y0, box.x0), (box.y1, box.x1), strict=True
            )
        )
        stored = Box(x0, y0, x1, y1) if self._transposed else Box(y0, x0, y1, x1)
        pixels = self._pixels.read(stored)
        if self._transposed:
            pixels = pixels.transpose(0, 2, 1)
        return pixels[:, :: -1 if self._mirrored[0] else 1, :: -1 if self._mirrored[1] else 1]

    def close(self) -> None:
        """Release file handles and memory; twice is fine."""
        self._pixels.close()
