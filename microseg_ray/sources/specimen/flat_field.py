"""Uneven illumination taken away: one smooth background for the whole micrograph, never one per tile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources.base import Micrograph

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["FlatField", "FlatMicrograph", "estimate_flat_field"]

_CELLS = 32  # cells of the grid along an axis, at most
_SMALLEST = 32  # px: a cell is no smaller, so that grains do not become background
_WINDOW = 128  # px of a cell that are read, in its middle: 16 Mpx in all at most
_SMOOTHING = 1 / 8  # of the micrograph's side: the standard deviation of the Gaussian; finer shading is left alone
_DARKEST = 1 / 8  # of the mean background: dark corners are not amplified beyond 8 times
_ROWS = 256  # rows that are corrected at a time


@dataclass(frozen=True, eq=False)
class FlatField:
    """The background of one micrograph, and how it is taken away.

    A pixel's correction depends on its place in the micrograph and its value alone, so that no tile or region shows.

    Attributes:
        mode: `divide`: value * mean background / background here. `subtract`: value - background here + mean background.
            Channels are corrected each by its own background and keep its mean.
        background: (channel, row, column) float32 at the centres of a regular grid of cells; between them it is
            interpolated bilinearly, beyond the outermost it stays as it is there.
        shape: (height, width) of the micrograph in pixels, its info bar not counted.

    Example:
        >>> ramp = FlatField("divide", np.array([[[50.0, 150.0]]], np.float32), shape=(1, 4))
        >>> ramp.correct(np.array([[[50, 75, 125, 150]]], np.uint8), Box(0, 0, 1, 4)).tolist()
        [[[100, 100, 100, 100]]]
        >>> ramp.correct(np.array([[[125]]], np.uint8), Box(0, 2, 1, 3)).tolist()
        [[[100]]]
    """

    mode: Literal["divide", "subtract"]
    background: NDArray[np.float32]
    shape: tuple[int, int]

    def correct(self, pixels: NDArray[Any], box: Box) -> NDArray[Any]:
        """Correct a region.

        Args:
            pixels: (channel, y, x) of the box: uint8, int16, uint16, uint32 or float32.
            box: Where they lie in the micrograph.

        Returns:
            The same shape and dtype; integers are rounded to the nearest (halves to even) and clipped to their range.
        """
        result = np.empty_like(pixels)
        # In float32 throughout, value by value in one order: the same for a pixel in any region.
        level = self.background.mean(axis=(1, 2), keepdims=True, dtype=np.float64).astype(np.float32)
        for top in range(0, box.height, _ROWS):
            strip = Box(box.y0 + top, box.x0, min(box.y0 + top + _ROWS, box.y1), box.x1)
            part = slice(top, top + strip.height)
            field = self._interpolated(strip)
            # float32 holds no 32-bit integer exactly.
            values: NDArray[Any] = pixels[:, part].astype(np.float64 if pixels.dtype == np.uint32 else np.float32)
            if self.mode == "divide":
                values *= level / np.maximum(field, level * np.float32(_DARKEST))
            else:
                values -= field - level
            if pixels.dtype.kind in "iu":
                np.clip(np.rint(values), np.iinfo(pixels.dtype).min, np.iinfo(pixels.dtype).max, out=values)
            result[:, part] = values
        return result

    def _interpolated(self, box: Box) -> NDArray[np.float32]:
        """(channel, y, x) background of a box."""
        above, below, down = _between(box.y0, box.y1, self.shape[0], self.background.shape[1])
        left, right, across = _between(box.x0, box.x1, self.shape[1], self.background.shape[2])
        rows = self.background[:, above] * (1 - down)[:, None] + self.background[:, below] * down[:, None]
        return np.asarray(rows[:, :, left] * (1 - across) + rows[:, :, right] * across, dtype=np.float32)


def _between(
    start: int, stop: int, length: int, cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """For each pixel of a stretch of an axis: the cells before and after its centre, and the weight of the one after."""
    place = np.clip((np.arange(start, stop) + 0.5) * (cells / length) - 0.5, 0, cells - 1)
    before = np.floor(place).astype(np.int64)
    return before, np.minimum(before + 1, cells - 1), (place - before).astype(np.float32)


def estimate_flat_field(micrograph: Micrograph, mode: Literal["divide", "subtract"]) -> FlatField:
    """The background of a micrograph: medians of a regular subsample, smoothed.

    The micrograph is cut into at most 32 x 32 equal cells of at least 32 px. The median of up to 128 x 128 px in the
    centre of each cell represents it, and a Gaussian of an eighth of the micrograph's side smooths the grid. At most
    16 Mpx are read, a window at a time. What is larger than about a quarter of the micrograph counts as background: a
    micrograph with few large objects is better left uncorrected.

    Args:
        micrograph: An open micrograph.
        mode: What the background will be used for.

    Raises:
        InputError: The data are damaged; or `divide` on a micrograph whose background is zero or negative.

    Example:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> from microseg_ray.sources import open_micrograph
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.png"
        ...     Image.fromarray(np.full((40, 70), 9, np.uint8)).save(path)
        ...     with open_micrograph(path) as micrograph:
        ...         estimate_flat_field(micrograph, "divide").background.tolist()
        [[[9.0, 9.0, 9.0], [9.0, 9.0, 9.0]]]
    """
    from scipy import ndimage

    height, width = shape = micrograph.info.specimen.shape
    rows, columns = (min(_CELLS, -(-side // _SMALLEST)) for side in shape)
    medians = np.empty((micrograph.info.channels, rows, columns))
    for row, column in np.ndindex(rows, columns):
        y0, y1 = _middle(row * height // rows, (row + 1) * height // rows)
        x0, x1 = _middle(column * width // columns, (column + 1) * width // columns)
        medians[:, row, column] = np.median(micrograph.read(Box(y0, x0, y1, x1)), axis=(1, 2))
    smooth = ndimage.gaussian_filter(
        medians, sigma=(0, rows * _SMOOTHING, columns * _SMOOTHING), mode="nearest"
    ).astype(np.float32)
    if mode == "divide" and smooth.mean(axis=(1, 2)).min() <= 0:
        raise InputError(
            micrograph.info.path,
            f"its background is {smooth.mean(axis=(1, 2)).min():g} on average, which nothing can be divided by",
            "set scaling.flat_field to subtract or none",
        )
    return FlatField(mode, smooth, shape)


def _middle(start: int, stop: int) -> tuple[int, int]:
    spare = max(0, stop - start - _WINDOW)
    return start + spare // 2, stop - (spare - spare // 2)


class FlatMicrograph(Micrograph):
    """An open micrograph whose regions come corrected; the background is estimated once, when it is made.

    Args:
        micrograph: What it reads from, and closes.
        mode: `divide` or `subtract`.

    Raises:
        InputError: As `estimate_flat_field`.
    """

    def __init__(self, micrograph: Micrograph, mode: Literal["divide", "subtract"]) -> None:
        self._micrograph = micrograph
        self.info = micrograph.info
        self.flat_field = estimate_flat_field(micrograph, mode)

    def read(self, box: Box) -> NDArray[Any]:
        """Corrected pixels of a region; as `Micrograph.read`."""
        return self.flat_field.correct(self._micrograph.read(box), box)

    def close(self) -> None:
        """Release file handles and memory; twice is fine."""
        self._micrograph.close()
