"""Masks on disk: PNG, and BigTIFF in tiles where the mask would be too large to decode whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.files import whole
from microseg_ray.geometry import Box
from microseg_ray.settings.classes import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from microseg_ray.files import Place

__all__ = ["PNG_PIXELS", "write_mask"]

PNG_PIXELS = 1 << 28
"""Pixels of the largest mask that is written as PNG, which can only be read whole (16 384 squared)."""

_TILE = 512
_BAND_PIXELS = 1 << 24


def write_mask(
    stem: Place, shape: tuple[int, int], read: Callable[[Box], NDArray[np.uint8]], png_pixels: int = PNG_PIXELS
) -> tuple[Place, NDArray[np.int64]]:
    """Write a mask, whole or not at all, and count its pixels.

    Args:
        stem: Path without a suffix.
        shape: (height, width).
        read: Gives the mask values of a box, uint8 (y, x). It is asked for bands from the top down; a mask that becomes
            a PNG is held whole, a larger one a band at a time.
        png_pixels: A larger mask becomes a TIFF.

    Returns:
        The file, and how many pixels have each value: int64 (256,).

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stem = pathlib.Path(folder) / "a.b (1)"
        ...     path, counts = write_mask(stem, (2, 3), lambda box: np.ones(box.shape, np.uint8))
        ...     path.name, counts[1]
        ('a.b (1).png', np.int64(6))
    """
    counts = np.zeros(IGNORE_INDEX + 1, np.int64)
    rows = max(_TILE, _BAND_PIXELS // shape[1] // _TILE * _TILE)
    boxes = [Box(y0, 0, min(y0 + rows, shape[0]), shape[1]) for y0 in range(0, shape[0], rows)]

    def bands() -> Iterator[NDArray[np.uint8]]:
        for box in boxes:
            band = read(box)
            counts[:] += np.bincount(band.ravel(), minlength=len(counts))
            yield band

    small = shape[0] * shape[1] <= png_pixels
    target = stem.with_name(stem.name + (".png" if small else ".tif"))
    with whole(target) as partial:
        if small:
            mask = np.empty(shape, np.uint8)
            for box, band in zip(boxes, bands(), strict=True):
                mask[box.slices] = band
            _write_png(partial, mask)
        else:
            _write_tiff(partial, shape, bands())
    return target, counts


def _write_png(path: Place, mask: NDArray[np.uint8]) -> None:
    from PIL import Image

    with path.open("wb") as file:
        Image.fromarray(mask).save(file, format="PNG")


def _write_tiff(path: Place, shape: tuple[int, int], bands: Iterator[NDArray[np.uint8]]) -> None:
    import tifffile

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for band in bands:
            for y0 in range(0, band.shape[0], _TILE):
                for x0 in range(0, band.shape[1], _TILE):
                    yield np.ascontiguousarray(band[y0 : y0 + _TILE, x0 : x0 + _TILE])

    with path.open("wb") as file:
        tifffile.imwrite(
            file, tiles(), shape=shape, dtype=np.uint8, tile=(_TILE, _TILE), compression="zlib", bigtiff=True,
            photometric="minisblack",
        )  # fmt: skip
