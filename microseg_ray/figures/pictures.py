"""Image parts of reports: thumbnails of huge micrographs, class colours, overlays, scale bars."""

from __future__ import annotations

import base64
import io
import math
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box, floor_to
from microseg_ray.settings import IGNORE_INDEX, ClassSpec, default_color

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from PIL import Image

__all__ = [
    "IGNORE_COLOR",
    "class_palette",
    "data_uri",
    "length_text",
    "overlay",
    "scale_bar_um",
    "stretched",
    "thumbnail",
]

IGNORE_COLOR = "#b9b9c4"
"""Colour of pixels without a class."""

_BLOCK_PIXELS = 1 << 24  # pixels read at once for a thumbnail
_TINT, _OUTLINE = 0.35, 0.9  # opacity of a class and of its border in the overlay


def scale_bar_um(width_px: int, pixel_size_um: float) -> float:
    """A round length (1, 2 or 5 times a power of ten) for a scale bar: a tenth to a quarter of the width.

    Args:
        width_px: Width of the image in pixels.
        pixel_size_um: Width of one of its pixels in micrometres.

    Returns:
        Length in micrometres.

    Raises:
        ValueError: Width or pixel size is not positive.

    Example:
        >>> scale_bar_um(512, 4.0), scale_bar_um(1000, 0.001)
        (500.0, 0.2)
    """
    longest = 0.25 * width_px * pixel_size_um
    if not (math.isfinite(longest) and longest > 0):
        raise ValueError(f"a scale bar needs a positive width and pixel size, not {width_px} px of {pixel_size_um} um")
    decade = math.floor(math.log10(longest))
    # Powers are parsed from text: 10.0**-7 is not the float nearest to 1e-7.
    steps = [float(f"{digit}e{decade + shift}") for shift in (-1, 0, 1) for digit in (1, 2, 5)]
    return max(step for step in steps if step <= longest * (1 + 1e-12))


def thumbnail(
    read: Callable[[Box], NDArray[Any]], shape: tuple[int, int], longest: int = 512, *, labels: bool = False
) -> NDArray[Any]:
    """Downsample a micrograph with region reads of at most 16 million pixels; each pixel is used once.

    Args:
        read: Returns the pixels of a box as (c, y, x).
        shape: (height, width) of the micrograph.
        longest: Maximum length of the longer side of the thumbnail.
        labels: If False, each pixel is the mean of a square, rounded for integers. If True (for masks), it is the most
            frequent class of the square, the lowest on a tie, and 255 only where nothing was measured.

    Returns:
        (c, ceil(height / step), ceil(width / step)) of the dtype read, with step = ceil(max(shape) / longest); a
        pixel of the thumbnail covers `step` x `step` pixels. Micrographs and masks of equal shape give equal shapes.

    Raises:
        ValueError: The shape is empty or `longest` is below 1.

    Example:
        >>> pixels = np.arange(16, dtype=np.uint8).reshape(1, 4, 4)
        >>> thumbnail(lambda box: pixels[(..., *box.slices)], (4, 4), longest=2)
        array([[[ 2, 4], [10, 12]]], dtype=uint8)
    """
    height, width = shape
    if min(height, width, longest) < 1:
        raise ValueError(f"no thumbnail of {height} x {width} pixels with a longest side of {longest}")
    step = -(-max(shape) // longest)
    columns = width if step * width <= _BLOCK_PIXELS else max(floor_to(_BLOCK_PIXELS // step, step), step)
    rows = max(floor_to(_BLOCK_PIXELS // columns, step), step)
    shrink = _shrink_labels if labels else _shrink_mean
    bands = []
    for y0 in range(0, height, rows):
        boxes = (Box(y0, x0, min(y0 + rows, height), min(x0 + columns, width)) for x0 in range(0, width, columns))
        bands.append(np.concatenate([shrink(np.asarray(read(box)), step) for box in boxes], axis=2))
    return np.concatenate(bands, axis=1)


def _sums(pixels: NDArray[Any], step: int) -> NDArray[np.float64]:
    """Sums over squares of `step` pixels; squares at the bottom and right may be smaller. Exact for integers."""
    across: NDArray[np.float64] = np.add.reduceat(pixels, np.arange(0, pixels.shape[2], step), axis=2, dtype=np.float64)
    total: NDArray[np.float64] = np.add.reduceat(across, np.arange(0, pixels.shape[1], step), axis=1)
    return total


def _shrink_mean(pixels: NDArray[Any], step: int) -> NDArray[Any]:
    sides = [np.minimum(step, side - np.arange(0, side, step)) for side in pixels.shape[1:]]
    means = _sums(pixels, step) / np.outer(*sides)
    shrunk: NDArray[Any] = (np.rint(means) if pixels.dtype.kind in "ui" else means).astype(pixels.dtype)
    return shrunk


def _shrink_labels(pixels: NDArray[Any], step: int) -> NDArray[Any]:
    cells = (pixels.shape[0], -(-pixels.shape[1] // step), -(-pixels.shape[2] // step))
    winner, most = np.full(cells, IGNORE_INDEX, pixels.dtype), np.zeros(cells)
    for value in np.unique(pixels):
        if value != IGNORE_INDEX:
            votes = _sums(pixels == value, step)
            winner[votes > most] = value
            np.maximum(most, votes, out=most)
    return winner


def data_uri(image: Image.Image, kind: str) -> str:
    """The encoded image as a data URI for HTML.

    Args:
        image: Image in any mode that `kind` supports.
        kind: `JPEG` or `PNG`.

    Example:
        >>> from PIL import Image
        >>> data_uri(Image.new("L", (1, 1)), "PNG")[:22]
        'data:image/png;base64,'
    """
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def stretched(image: NDArray[Any]) -> NDArray[np.uint8]:
    """Stretch the contrast; the lowest and highest 0.5 % of the intensities are clipped.

    Args:
        image: (y, x), (1, y, x) or (3, y, x), any numeric type; channels share one range.

    Returns:
        uint8 (y, x, 3).

    Example:
        >>> stretched(np.array([[10, 20]], np.uint16))[..., 0]
        array([[ 0, 255]], dtype=uint8)
    """
    pixels = image[None] if image.ndim == 2 else image
    low, high = (float(limit) for limit in np.percentile(pixels, (0.5, 99.5)))
    if high > low:
        gray = np.clip((pixels.astype(np.float32) - low) * (255 / (high - low)), 0, 255)
    else:
        gray = np.full(pixels.shape, 128, np.float32)
    spread = np.broadcast_to(np.rint(gray).astype(np.uint8), (3, *pixels.shape[1:]))
    return np.ascontiguousarray(np.moveaxis(spread, 0, -1))


def class_palette(classes: tuple[ClassSpec, ...]) -> NDArray[np.uint8]:
    """Colour of every mask value, uint8 (256, 3); values that are no class get `IGNORE_COLOR`.

    Example:
        >>> class_palette((ClassSpec(name="pore", color="#ff0000"),))[0].tolist()
        [255, 0, 0]
    """
    colors = [spec.color or default_color(index) for index, spec in enumerate(classes)]
    colors += [IGNORE_COLOR] * (256 - len(colors))
    return np.array([list(bytes.fromhex(color[1:])) for color in colors], np.uint8)


def overlay(gray: NDArray[np.uint8], mask: NDArray[np.uint8], palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The micrograph tinted by class, with outlines; class 0 (background) is not tinted.

    Args:
        gray: uint8 (y, x, 3).
        mask: uint8 (y, x).
        palette: uint8 (256, 3).

    Returns:
        uint8 (y, x, 3).

    Example:
        >>> palette = class_palette((ClassSpec(name="matrix"), ClassSpec(name="pore", color="#ff0000")))
        >>> overlay(np.full((1, 1, 3), 100, np.uint8), np.ones((1, 1), np.uint8), palette)[0, 0].tolist()
        [154, 65, 65]
    """
    border = np.zeros(mask.shape, bool)
    border[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    border[:-1] |= mask[:-1] != mask[1:]
    opacity = np.where(mask == 0, 0.0, np.where(border, _OUTLINE, _TINT)).astype(np.float32)[..., None]
    blended = gray * (1 - opacity) + palette[mask] * opacity
    return np.asarray(np.rint(blended), np.uint8)


def length_text(length_um: float) -> str:
    """A length in micrometres as text in a suitable unit.

    Example:
        >>> length_text(500.0), length_text(2000.0), length_text(0.2)
        ('500 µm', '2 mm', '200 nm')
    """
    for unit, factor in (("mm", 1e-3), ("µm", 1.0), ("nm", 1e3)):
        if length_um * factor >= 1:
            return f"{length_um * factor:g} {unit}"
    return f"{length_um * 1e3:g} nm"
