"""The 8 ways to lay a rectangle on another: turned by quarters, mirrored, both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.sources import Micrograph

__all__ = ["SYMMETRIES", "Symmetry", "same_pixels"]

_BLOCK = 2048  # px: side of the regions that two micrographs are compared by


@dataclass(frozen=True)
class Symmetry:
    """Transpose y and x first, then mirror.

    Attributes:
        name: What was done, in words.
        kind: "equal" (nothing was), "mirrored" or "rotated".
        transposed: y and x change places.
        up_down: Mirrored along y.
        left_right: Mirrored along x.

    Example:
        >>> SYMMETRIES[1].name, SYMMETRIES[1].apply(np.array([[1, 2], [3, 4]])).tolist()
        ('mirrored left-right', [[2, 1], [4, 3]])
    """

    name: str
    kind: Literal["equal", "mirrored", "rotated"]
    transposed: bool
    up_down: bool
    left_right: bool

    def apply(self, pixels: NDArray[Any]) -> NDArray[Any]:
        """(..., y, x), a view."""
        turned = pixels.swapaxes(-1, -2) if self.transposed else pixels
        return turned[..., :: -1 if self.up_down else 1, :: -1 if self.left_right else 1]

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) after it."""
        return (shape[1], shape[0]) if self.transposed else shape

    def origin(self, box: Box, shape: tuple[int, int]) -> Box:
        """Where the pixels of `box` come from in a rectangle of `shape` (before it).

        Example:
            >>> SYMMETRIES[1].origin(Box(0, 0, 2, 3), (4, 10))
            Box(y0=0, x0=7, y1=2, x1=10)
        """
        height, width = self.shape(shape)
        y0, y1 = (height - box.y1, height - box.y0) if self.up_down else (box.y0, box.y1)
        x0, x1 = (width - box.x1, width - box.x0) if self.left_right else (box.x0, box.x1)
        return Box(x0, y0, x1, y1) if self.transposed else Box(y0, x0, y1, x1)


SYMMETRIES = (
    Symmetry("the same pixels", "equal", transposed=False, up_down=False, left_right=False),
    Symmetry("mirrored left-right", "mirrored", transposed=False, up_down=False, left_right=True),
    Symmetry("mirrored up-down", "mirrored", transposed=False, up_down=True, left_right=False),
    Symmetry("rotated by 180 degrees", "rotated", transposed=False, up_down=True, left_right=True),
    Symmetry("mirrored along the diagonal", "mirrored", transposed=True, up_down=False, left_right=False),
    Symmetry("rotated by 90 degrees clockwise", "rotated", transposed=True, up_down=False, left_right=True),
    Symmetry("rotated by 90 degrees counter-clockwise", "rotated", transposed=True, up_down=True, left_right=False),
    Symmetry("mirrored along the other diagonal", "mirrored", transposed=True, up_down=True, left_right=True),
)
"""All 8; the first changes nothing."""


def same_pixels(first: Micrograph, second: Micrograph, symmetry: Symmetry) -> bool:
    """Whether `first` is `second` after the symmetry, pixel by pixel; read block by block, up to the first difference.

    Raises:
        InputError: One of them is damaged.
    """
    shape = first.info.shape
    if symmetry.shape(second.info.shape) != shape or first.info.channels != second.info.channels:
        return False
    for y0 in range(0, shape[0], _BLOCK):
        for x0 in range(0, shape[1], _BLOCK):
            box = Box(y0, x0, min(y0 + _BLOCK, shape[0]), min(x0 + _BLOCK, shape[1]))
            other = symmetry.apply(second.read(symmetry.origin(box, second.info.shape)))
            if not np.array_equal(first.read(box), other):
                return False
    return True
