"""Images that are stored mirrored, turned or transposed, read as they are meant to be seen."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from microseg_ray.sources.wrapped import Wrapped
from microseg_ray.symmetry import SYMMETRIES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.base import Pixels

__all__ = ["Oriented", "upright"]

# What makes the seen image of the stored one, by orientation of TIFF (tag 274) and Exif.
_ORIENTATIONS = dict(zip(range(1, 9), (SYMMETRIES[number] for number in (0, 4, 2, 6, 5, 3, 7, 1)), strict=True))


def upright(pixels: Pixels) -> Pixels:
    """The image as its orientation tag says that it is to be seen; itself where it is stored so.

    Args:
        pixels: A reader; its attribute `orientation`, where it has one, is the value of the tag.
    """
    orientation = getattr(pixels, "orientation", 1)
    return Oriented(pixels, orientation) if orientation in range(2, 9) else pixels


class Oriented(Wrapped):
    """An image with an orientation tag; regions are mapped, so that a lazy reader stays lazy.

    Args:
        pixels: What it reads from, and closes.
        orientation: 2 to 8, as in TIFF and Exif.

    Example:
        >>> import numpy as np
        >>> from microseg_ray.geometry import Box
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
        super().__init__(pixels)
        self._symmetry = _ORIENTATIONS[orientation]
        self.shape = self._symmetry.shape(pixels.shape)
        if self._symmetry.transposed and self.pixel_size is not None:
            self.pixel_size = replace(self.pixel_size, y=self.pixel_size.x, x=self.pixel_size.y)
        # A stated bar lies at the bottom as stored: the pixels tell where it is now.
        self.stated_bar = None
        self.notes = (*self.notes, f"turned as its orientation tag ({orientation}) says")

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box as seen: (channels, y, x)."""
        return self._symmetry.apply(self._pixels.read(self._symmetry.origin(box, self._pixels.shape)))
