"""WebP, decoded whole by Pillow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.WebPImagePlugin import WebPImageFile

from microseg_ray.errors import InputError
from microseg_ray.sources.formats.raster import WholePixels, bounded, orientation_of
from microseg_ray.sources.remote import open_binary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.sources.choices import Wanted

__all__ = ["open_webp"]

_MAX_RATIO = 1e5


def open_webp(path: str, wanted: Wanted) -> WholePixels:
    """A still WebP; alpha is dropped; the pixels decide between gray and colour.

    Raises:
        InputError: Damaged, an animation, or it is to be a mask.
    """
    if wanted.labels:
        raise InputError(path, "a WebP may have changed labels by its compression", "save it as PNG or TIFF")
    with open_binary(path) as file:
        image = WebPImageFile(file)
        shape = bounded(path, image, 1, "WebP", _MAX_RATIO)
        if getattr(image, "n_frames", 1) > 1:
            raise InputError(path, f"the WebP is an animation of {image.n_frames} frames", "export one frame as PNG")
        orientation = orientation_of(image)
    pixels = WholePixels(path, "webp", shape, 3, np.dtype(np.uint8), wanted, lambda: _decode(path))
    pixels.orientation = orientation
    return pixels


def _decode(path: str) -> NDArray[Any]:
    with open_binary(path) as file:
        return np.asarray(WebPImageFile(file).convert("RGB"))
