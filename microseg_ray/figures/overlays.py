"""Overlays that can be decoded: every pixel of the micrograph is tinted by its class alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ALPHA", "decode_tint", "tinted"]

ALPHA = 0.35
"""Opacity of the colours: the micrograph stays visible, and the classes can be distinguished."""


def tinted(
    gray: NDArray[np.uint8], mask: NDArray[np.uint8], palette: NDArray[np.uint8], alpha: float = ALPHA
) -> NDArray[np.uint8]:
    """The micrograph in the colours of its classes, pixel on pixel.

    All classes are tinted, the background included, and no outline is drawn, so that `decode_tint` can recover the mask.

    Args:
        gray: uint8 (y, x, 3).
        mask: uint8 (y, x).
        palette: uint8 (256, 3), as `class_palette` makes it.
        alpha: Opacity of the colours, above 0 and at most 1.

    Returns:
        uint8 (y, x, 3): (1 - alpha) * gray + alpha * colour, rounded.

    Raises:
        ValueError: Shapes do not match, or alpha is out of range.

    Example:
        >>> from microseg_ray.figures.pictures import class_palette
        >>> from microseg_ray.settings import ClassSpec
        >>> palette = class_palette((ClassSpec(name="clay", color="#000000"), ClassSpec(name="silt", color="#800000")))
        >>> tinted(np.full((1, 2, 3), 100, np.uint8), np.array([[0, 1]], np.uint8), palette, 0.5).tolist()
        [[[50, 50, 50], [114, 50, 50]]]
    """
    if gray.shape != (*mask.shape, 3) or not 0 < alpha <= 1:
        raise ValueError(f"gray {gray.shape} is not (*{mask.shape}, 3), or alpha {alpha} is not above 0 up to 1")
    # Lookup table: the arithmetic is done 256 * 3 times per class instead of once per pixel.
    table = _table(palette, alpha)
    colored = np.empty_like(gray)
    for channel in range(3):
        colored[..., channel] = table[mask, gray[..., channel], channel]
    return colored


def decode_tint(
    colored: NDArray[np.uint8], gray: NDArray[np.uint8], palette: NDArray[np.uint8], alpha: float = ALPHA
) -> NDArray[np.uint8]:
    """Recover the exact mask from an image that `tinted` made.

    Args:
        colored: uint8 (y, x, 3), result of `tinted`; from a lossless file.
        gray: The micrograph passed to `tinted`.
        palette: The palette passed to `tinted`.
        alpha: The opacity passed to `tinted`.

    Returns:
        uint8 (y, x); the lowest of mask values that share a colour (such as all that are no class), and 255 for
        `IGNORE_COLOR`.

    Raises:
        ValueError: A pixel matches no tint (another micrograph, palette or alpha, or a lossy file), or two classes have
            colours too similar to be distinguished.

    Example:
        >>> from microseg_ray.figures.pictures import class_palette
        >>> from microseg_ray.settings import ClassSpec
        >>> palette = class_palette((ClassSpec(name="clay", color="#000000"), ClassSpec(name="silt", color="#800000")))
        >>> gray, mask = np.full((1, 3, 3), 100, np.uint8), np.array([[0, 1, 255]], np.uint8)
        >>> decode_tint(tinted(gray, mask, palette), gray, palette).tolist()
        [[0, 1, 255]]
    """
    table = _table(palette, alpha)
    rest = palette[-1]
    values = [255, *(int(value) for value in np.flatnonzero((palette != rest).any(axis=1)))]
    mask = np.zeros(gray.shape[:2], np.uint8)
    fitting = np.zeros(gray.shape[:2], np.uint8)
    for value in values:
        fits = np.ones(gray.shape[:2], bool)
        for channel in range(3):
            fits &= table[value, gray[..., channel], channel] == colored[..., channel]
        mask[fits] = value
        fitting += fits
    if (fitting != 1).any():
        y, x = (int(place) for place in np.argwhere(fitting != 1)[0])
        reason = "is the tint of no class" if fitting[y, x] == 0 else "is the tint of several classes"
        raise ValueError(f"the pixel at (y, x) = ({y}, {x}) {reason}; check micrograph, colours and alpha")
    return mask


def _table(palette: NDArray[np.uint8], alpha: float) -> NDArray[np.uint8]:
    """uint8 (value, gray, channel)."""
    levels = np.arange(256, dtype=np.float64)[None, :, None]
    return np.rint(levels * (1 - alpha) + palette[:, None, :].astype(np.float64) * alpha).astype(np.uint8)
