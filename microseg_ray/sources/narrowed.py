"""Wide integers whose values fit 16 bits, as cameras of electron microscopes write them, read as uint16 without loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources.bounds import reading
from microseg_ray.sources.wrapped import Wrapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.sources.base import Pixels

__all__ = ["Narrowed", "narrowed"]

_WIDE = frozenset({"int32"})  # 64-bit integers are labels or counts, not what a camera writes
_BAND_BYTES = 16 << 20
_MOST = (1 << 16) - 1


def narrowed(path: str, pixels: Pixels) -> Pixels:
    """The image as uint16 where it holds wide integers that all fit; itself where it is of another type.

    The whole frame decides, so that no region can differ from another. It is read once, a band of rows at a time.

    Args:
        path: For the message.
        pixels: The reader of the whole frame.

    Raises:
        InputError: A value does not fit 16 bits.
    """
    name = pixels.dtype.newbyteorder("=").name
    if name not in _WIDE:
        return pixels
    height, width = pixels.shape
    rows = max(1, _BAND_BYTES // (width * pixels.channels * pixels.dtype.itemsize))
    with reading(path, "the image cannot be read"):
        for y0 in range(0, height, rows):
            band = pixels.read(Box(y0, 0, min(y0 + rows, height), width))
            low, high = int(band.min()), int(band.max())
            if low < 0 or high > _MOST:
                reason = (
                    f"pixels are {name}, and rows {y0} to {min(y0 + rows, height) - 1} hold values from {low} to {high}"
                )
                reason += ", which do not fit 16 bits without a sign"
                raise InputError(path, reason, "save it as 32-bit float, or scale it to 16-bit gray")
    return Narrowed(pixels)


class Narrowed(Wrapped):
    """Integers that are known to fit, as uint16.

    Args:
        pixels: What it reads from, and closes.
    """

    def __init__(self, pixels: Pixels) -> None:
        super().__init__(pixels)
        self.dtype = np.dtype(np.uint16)
        if self.bits is not None and self.bits >= 16:
            self.bits = None
        name = pixels.dtype.newbyteorder("=").name
        self.notes = (*self.notes, f"{name} whose values all fit 16 bits is read as uint16")

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box: (channels, y, x)."""
        return self._pixels.read(box).astype(np.uint16)
