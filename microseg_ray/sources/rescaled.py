"""A micrograph at another pixel size, resampled as it is read.

A pixel of the rescaled micrograph depends on its place and on the file alone, never on which region it is read with, so that
tiles and shards of it fit without a seam. Shrinking averages over the pixels that fall together (a triangle filter as wide
as two of the new pixels, as in Pillow's and PyTorch's anti-aliased bilinear resampling), enlarging interpolates bilinearly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.sources.base import Micrograph

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Rescaled"]

_READ_PIXELS = 1 << 21  # pixels of the file that are read at a time


class Rescaled(Micrograph):
    """An open micrograph whose regions come resampled; specimen and info bar each by themselves.

    The new pixel size is that of the file times file pixels over new pixels, so that areas in um2 stay what they are.

    Args:
        micrograph: What it reads from, and closes.
        shape: (height, width) of its specimen after resampling.

    Example:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> from microseg_ray.sources import open_micrograph
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.png"
        ...     Image.fromarray(np.array([[0, 0, 8, 8]], np.uint8)).save(path)
        ...     with Rescaled(open_micrograph(path), (1, 8)) as micrograph:
        ...         micrograph.read(Box(0, 0, 1, 8)).tolist()
        [[[0, 0, 0, 2, 6, 8, 8, 8]]]
    """

    def __init__(self, micrograph: Micrograph, shape: tuple[int, int]) -> None:
        info = micrograph.info
        self._path, self._micrograph = info.path, micrograph
        specimen, size = info.specimen.shape, info.pixel_size_um
        bar = max(1, round(info.info_bar_rows * shape[0] / specimen[0])) if info.info_bar_rows else 0
        self.info = replace(
            info,
            shape=(shape[0] + bar, shape[1]),
            info_bar_rows=bar,
            file_shape=info.shape,
            pixel_size_um=None
            if size is None
            else (size[0] * specimen[0] / shape[0], size[1] * specimen[1] / shape[1]),
            pixel_size_source=f"{info.pixel_size_source}, rescaled" if info.pixel_size_source else "",
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Resampled pixels of a region: (channels, y, x) of the file's type, integers rounded to the nearest.

        Args:
            box: A box inside the rescaled micrograph.

        Raises:
            InputError: As `Micrograph.read`.
            ValueError: The box leaves the micrograph.
        """
        if not Box.of_shape(self.info.shape).contains(box):
            raise ValueError(f"{self._path}: {box} leaves the micrograph of {self.info.shape} (height, width)")
        out = np.empty((self.info.channels, *box.shape), self.info.dtype)
        here, there = self.info.specimen, self._micrograph.info
        # The strip below is resampled by itself, so that none of it runs into the specimen.
        strips = (
            (here, there.specimen),
            (
                Box(here.y1, 0, self.info.shape[0], here.x1),
                Box(there.specimen.y1, 0, there.shape[0], there.shape[1]),
            ),
        )
        for strip, origin in strips:
            part = strip.intersection(box)
            if part.area:
                columns = _Taps(part.x0, part.x1, origin.width, strip.width)
                for y0, y1 in self._bands(part, strip, origin, columns):
                    rows = _Taps(y0 - strip.y0, y1 - strip.y0, origin.height, strip.height)
                    out[:, y0 - box.y0 : y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0] = self._resampled(
                        rows, columns, origin
                    )
        return out

    def close(self) -> None:
        """Release file handles and memory; twice is fine."""
        self._micrograph.close()

    @staticmethod
    def _bands(part: Box, strip: Box, origin: Box, columns: _Taps) -> list[tuple[int, int]]:
        """Rows that are made at a time, so that what is read for them does not grow with the factor."""
        wide = columns.stop - columns.start
        rows = max(1, int(_READ_PIXELS / wide * strip.height / origin.height))
        return [(y0, min(y0 + rows, part.y1)) for y0 in range(part.y0, part.y1, rows)]

    def _resampled(self, rows: _Taps, columns: _Taps, origin: Box) -> NDArray[Any]:
        box = Box(origin.y0 + rows.start, columns.start, origin.y0 + rows.stop, columns.stop)
        pixels = self._micrograph.read(box)
        # float32 holds 24 bits, which is not enough for 32-bit integers.
        kind = np.float64 if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 2 else np.float32
        values = columns.apply(rows.apply(pixels.astype(kind), axis=1), axis=2)
        if pixels.dtype.kind in "iu":
            limits = np.iinfo(pixels.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        resampled: NDArray[Any] = values.astype(pixels.dtype)
        return resampled


class _Taps:
    """Which pixels of an axis make up the new ones from `start` to `stop`, and by how much each counts."""

    def __init__(self, start: int, stop: int, length: int, new_length: int) -> None:
        ratio = length / new_length
        reach = max(1.0, ratio)
        centre = (np.arange(start, stop) + 0.5) * ratio - 0.5
        first = np.floor(centre - reach).astype(np.int64) + 1
        index = first[:, None] + np.arange(int(2 * reach) + 1)
        weights = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / reach)
        weights[(index < 0) | (index >= length)] = 0.0
        self._weights = weights / weights.sum(axis=1, keepdims=True)
        index = index.clip(0, length - 1)
        self.start, self.stop = int(index.min()), int(index.max()) + 1
        self._index = index - self.start

    def apply(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Values along an axis, resampled; term by term in one order, the same for a pixel in any region."""
        shape = [1] * values.ndim
        shape[axis] = -1
        total: NDArray[Any] | None = None
        for tap in range(self._index.shape[1]):
            weight = self._weights[:, tap].astype(values.dtype).reshape(shape)
            term = values.take(self._index[:, tap], axis=axis) * weight
            total = term if total is None else np.add(total, term, out=total)
        if total is None:
            raise ValueError("an axis without pixels")
        return total
