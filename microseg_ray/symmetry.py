"""The 8 symmetries of the square, for pixels and for boxes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from microseg_ray.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SYMMETRIES", "Symmetry"]


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
        >>> import numpy as np
        >>> SYMMETRIES[4].name, SYMMETRIES[4].apply(np.array([[1, 2], [3, 4]])).tolist()
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

    @property
    def inverse(self) -> Symmetry:
        """The symmetry that undoes this one.

        Example:
            >>> SYMMETRIES[1].inverse.name
            'rotated by 90 degrees clockwise'
        """
        if not self.transposed:
            return self
        swapped = (True, self.left_right, self.up_down)
        return next(each for each in SYMMETRIES if (each.transposed, each.up_down, each.left_right) == swapped)

    def shape(self, shape: tuple[int, int]) -> tuple[int, int]:
        """(height, width) after it."""
        return (shape[1], shape[0]) if self.transposed else shape

    def origin(self, box: Box, shape: tuple[int, int]) -> Box:
        """Where the pixels of `box` come from in a rectangle of `shape` (before it).

        Example:
            >>> SYMMETRIES[4].origin(Box(0, 0, 2, 3), (4, 10))
            Box(y0=0, x0=7, y1=2, x1=10)
        """
        height, width = self.shape(shape)
        y0, y1 = (height - box.y1, height - box.y0) if self.up_down else (box.y0, box.y1)
        x0, x1 = (width - box.x1, width - box.x0) if self.left_right else (box.x0, box.x1)
        return Box(x0, y0, x1, y1) if self.transposed else Box(y0, x0, y1, x1)


SYMMETRIES = (
    Symmetry("the same pixels", "equal", transposed=False, up_down=False, left_right=False),
    Symmetry("rotated by 90 degrees counter-clockwise", "rotated", transposed=True, up_down=True, left_right=False),
    Symmetry("rotated by 180 degrees", "rotated", transposed=False, up_down=True, left_right=True),
    Symmetry("rotated by 90 degrees clockwise", "rotated", transposed=True, up_down=False, left_right=True),
    Symmetry("mirrored left-right", "mirrored", transposed=False, up_down=False, left_right=True),
    Symmetry("mirrored along the diagonal", "mirrored", transposed=True, up_down=False, left_right=False),
    Symmetry("mirrored up-down", "mirrored", transposed=False, up_down=True, left_right=False),
    Symmetry("mirrored along the other diagonal", "mirrored", transposed=True, up_down=True, left_right=True),
)
"""All 8; number `s` mirrors left and right where s >= 4, then rotates by (s % 4) quarter turns counter-clockwise."""
