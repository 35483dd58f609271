"""Overlays that can be decoded: every pixel of the micrograph is tinted by its class alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ALPHA", "tinted"]

ALPHA = 0.35
"""Opacity of the colours: the micrograph stays visible, and the classes can be distinguished."""


def tinted(
    gray: NDArray[np.uint8], mask: NDArray[np.uint8], palette: NDArray[np.uint8], alpha: float = ALPHA
) -> NDArray[np.uint8]:
    """The micrograph in the colours of its classes, pixel on pixel.

    All classes are tinted, the background included, and no outline is drawn, so that the mask can be recovered from the
    picture and the micrograph.

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
    # A lookup table (value, gray, channel): the arithmetic is done 256 * 3 times per class instead of once per pixel.
    levels = np.arange(256, dtype=np.float64)[None, :, None]
    table = np.rint(levels * (1 - alpha) + palette[:, None, :].astype(np.float64) * alpha).astype(np.uint8)
    colored = np.empty_like(gray)
    for channel in range(3):
        colored[..., channel] = table[mask, gray[..., channel], channel]
    return colored
