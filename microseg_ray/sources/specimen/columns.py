"""Some columns of a file: for images of which one part was exposed and another only stores the charge."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources.wrapped import Wrapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.sources.base import Pixels

__all__ = ["Columns", "column_range"]


def column_range(
    path: str, columns: Literal["all", "left_half", "right_half"] | tuple[int, int], width: int
) -> tuple[int, int]:
    """First column and the one after the last. The halves meet: of an odd width the right one has one column more.

    Raises:
        InputError: A half of a single column, or a range that leaves the image.

    Example:
        >>> column_range("a.fits", "right_half", 2100), column_range("a.fits", (10, 20), 2100)
        ((1050, 2100), (10, 20))
    """
    match columns:
        case "all":
            x0, x1 = 0, width
        case "left_half":
            x0, x1 = 0, width // 2
        case "right_half":
            x0, x1 = width // 2, width
        case (first, last):
            x0, x1 = first, last
    if not 0 <= x0 < x1 <= width:
        reason = f"source.columns asks for columns {x0} to {x1 - 1}, and there are {width} (0 to {width - 1})"
        raise InputError(path, reason, "give other columns, or `all`")
    return x0, x1


class Columns(Wrapped):
    """The columns x0 to x1 - 1 of an image, as an image of their own: column x0 is x = 0.

    Args:
        pixels: What it reads from, and closes.
        x0: The first column.
        x1: The column after the last.
    """

    def __init__(self, pixels: Pixels, x0: int, x1: int) -> None:
        super().__init__(pixels)
        self._x0 = x0
        self.shape = (pixels.shape[0], x1 - x0)

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box inside these columns: (channels, y, x)."""
        return self._pixels.read(Box(box.y0, box.x0 + self._x0, box.y1, box.x1 + self._x0))
