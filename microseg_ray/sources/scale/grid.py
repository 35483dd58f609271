"""The grid that a statement was written for, compared with the grid of the file.

Private tags and sidecars survive halving, doubling and cropping in an editor. A pixel size or an info bar that they state is
right for the columns and rows that the microscope wrote. Each statement carries that grid; it is corrected where the file was
certainly resampled, kept where it was certainly cropped, and not used where neither is certain.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fit", "Grid", "fit"]

_ROUNDING = 1.0  # rows that an editor may round away


@dataclass(frozen=True)
class Grid:
    """Columns and rows that a statement was written for.

    Attributes:
        width: Columns.
        heights: Rows that the file may have: of the scanned image, and with the info bar below it. Empty where not stated.

    Example:
        >>> str(Grid(1024, (884, 943)))
        '1024 x 884 or 943'
    """

    width: int
    heights: tuple[int, ...] = ()

    def __str__(self) -> str:
        rows = " or ".join(str(height) for height in dict.fromkeys(self.heights))
        return f"{self.width} x {rows}" if rows else f"{self.width} columns"


@dataclass(frozen=True)
class Fit:
    """How the file's grid follows from the stated one.

    Attributes:
        how: "same", "resampled", "cropped", or "unknown".
        ratio: Pixels of the file for a stated pixel; 1 unless resampled.

    Example:
        >>> Fit("same").ratio
        1.0
    """

    how: str
    ratio: float = 1.0


def fit(grid: Grid, shape: tuple[int, int]) -> Fit:
    """Compare a stated grid with the file's (height, width).

    * Equal width: nothing was resampled; rows may be cut off or added.
    * Equal height, fewer columns: columns were cut off.
    * One ratio along both axes: resampled. A square image is the exception: a square part of it has one ratio, too.
    * Anything else: cropped, resampled, or both.

    Example:
        >>> fit(Grid(1024, (884, 943)), (472, 512)).how, fit(Grid(1024, (884,)), (400, 900)).how
        ('resampled', 'unknown')
        >>> fit(Grid(1024, (1024,)), (512, 512)).how
        'unknown'
    """
    height, width = shape
    if width == grid.width:
        if not grid.heights or height in grid.heights:
            return Fit("same")
        return Fit("cropped")
    if height in grid.heights and width < grid.width:
        return Fit("cropped")
    ratio = width / grid.width
    for rows in grid.heights:
        if abs(height - rows * ratio) <= _ROUNDING and rows != grid.width:
            return Fit("resampled", ratio)
    return Fit("unknown")
