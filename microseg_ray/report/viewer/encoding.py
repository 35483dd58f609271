"""Tiles as image files for the browser."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.report.doubt import stored_doubt
from microseg_ray.settings import IGNORE_INDEX, default_color

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec

__all__ = ["DIFFERENT", "difference", "jpeg", "limits_of", "map_png", "mask_png", "png_of_palette"]

_QUALITY = 90
DIFFERENT = 1
"""The value of a pixel that is not what the truth says; 0 where both agree."""


def limits_of(samples: Sequence[NDArray[Any]]) -> tuple[float, float]:
    """The intensities that are shown as black and white: 0.5 % of the samples lie below and 0.5 % above.

    Example:
        >>> limits_of([np.array([10, 20], np.uint8)])
        (10.05, 19.95)
    """
    low, high = np.percentile(np.concatenate([each.ravel() for each in samples]), (0.5, 99.5))
    return float(round(low, 9)), float(round(high, 9))


def jpeg(pixels: NDArray[Any], limits: tuple[float, float]) -> bytes:
    """A tile of a micrograph as JPEG.

    Args:
        pixels: (1, y, x) or (3, y, x), any numeric type.
        limits: What is shown as black and as white.
    """
    low, high = limits
    if high > low:
        shown = np.clip((pixels.astype(np.float32) - low) * (255 / (high - low)) + 0.5, 0, 255).astype(np.uint8)
    else:
        shown = np.full(pixels.shape, 128, np.uint8)
    # Here and not above: the list is shown before a picture is made.
    from PIL import Image

    image = Image.fromarray(shown[0] if len(shown) == 1 else np.ascontiguousarray(np.moveaxis(shown, 0, -1)))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
    return buffer.getvalue()


def png_of_palette(values: NDArray[np.uint8], colors: NDArray[np.uint8]) -> bytes:
    """A tile as PNG with a palette.

    Args:
        values: (y, x).
        colors: (256, 4), red, green, blue and opacity of each value.
    """
    from PIL import Image

    image = Image.fromarray(values)
    image.putpalette(colors[:, :3].tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1, transparency=colors[:, 3].tobytes())
    return buffer.getvalue()


def mask_png(mask: NDArray[np.uint8], classes: Sequence[ClassSpec], hidden: Collection[int] = ()) -> bytes:
    """A tile of a mask in the colours of its classes; hidden classes and what is no class are transparent.

    Example:
        >>> from microseg_ray.settings import ClassSpec
        >>> png = mask_png(np.array([[0, 1, 255]], np.uint8), (ClassSpec(name="a", color="#010203"), ClassSpec(name="b")), {1})
        >>> from PIL import Image
        >>> np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))[0, :, :].tolist()
        [[1, 2, 3, 255], [230, 159, 0, 0], [0, 0, 0, 0]]
    """
    colors = np.zeros((256, 4), np.uint8)
    for index, spec in enumerate(classes):
        opacity = 0 if index in hidden else 255
        colors[index] = [*bytes.fromhex((spec.color or default_color(index))[1:]), opacity]
    return png_of_palette(mask, colors)


def difference(mask: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where a mask is not what the truth says: 1; 0 where they agree, 255 where one of them says nothing.

    Example:
        >>> difference(np.array([0, 1, 1, 255], np.uint8), np.array([0, 0, 255, 1], np.uint8)).tolist()
        [0, 1, 255, 255]
    """
    found: NDArray[np.uint8] = (mask != truth).astype(np.uint8)
    found[(mask == IGNORE_INDEX) | (truth == IGNORE_INDEX)] = IGNORE_INDEX
    return found


def map_png(values: NDArray[np.uint8], *, low_is_bad: bool) -> bytes:
    """A tile of a margin or entropy map: what is uncertain is opaque and yellow to red, what is certain is transparent.

    Args:
        values: (y, x), 0 to 254; 255 is not measured.
        low_is_bad: Small values are uncertain (margin), else large ones (entropy).
    """
    doubt = stored_doubt(np.arange(255, dtype=np.uint8), "margin" if low_is_bad else "entropy")
    colors = np.zeros((256, 4), np.uint8)
    colors[:255, 0] = 255
    colors[:255, 1] = np.rint(230 * (1 - doubt))
    colors[:255, 3] = np.rint(255 * doubt)
    return png_of_palette(values, colors)
