"""RGB files whose only colours lie in the info bar, such as a green scale bar: the micrograph is gray."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources.base import equal_channels
from microseg_ray.sources.bounds import reading
from microseg_ray.sources.scale.provenance import LARGEST_BAR
from microseg_ray.sources.specimen.info_bar import find_info_bar
from microseg_ray.sources.wrapped import Wrapped

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.settings.source import SourceSettings
    from microseg_ray.sources.base import Pixels

__all__ = ["GrayAboveBar", "gray_above_bar"]

_WHOLE_BYTES = 16 << 20  # a file that is read by region is checked whole up to this size
_WINDOW, _WINDOWS = 64, 5  # else in windows, this many along each axis


def gray_above_bar(path: str, pixels: Pixels, source: SourceSettings | None) -> Pixels:
    """The pixels as one gray channel where colours lie in the info bar only; else the pixels as they are.

    Args:
        path: The file, for messages.
        pixels: An open file.
        source: `info_bar` is used; the default where None.

    Raises:
        InputError: The pixels are damaged.
    """
    setting = "auto" if source is None else source.info_bar
    if pixels.channels != 3 or setting == "none":
        return pixels
    height, width = pixels.shape
    most = setting if isinstance(setting, int) else int(height * LARGEST_BAR)
    with reading(path, "its colours cannot be read"):
        if not 0 < most < height or not _is_gray(pixels, 0, height - most):
            return pixels
        # Without any colour it is plain gray, whatever lies at the bottom.
        if equal_channels(pixels.read(Box(height - most, 0, height, width))):
            return pixels
        rows = setting if isinstance(setting, int) else _bar(pixels)
        gray = rows > 0 and _is_gray(pixels, height - most, height - rows)
    return GrayAboveBar(path, pixels, rows) if gray else pixels


def _bar(pixels: Pixels) -> int:
    found = find_info_bar(pixels.read, pixels.shape)
    stated = getattr(pixels, "stated_bar", None)
    return found or (0 if stated is None else min(stated.rows, int(pixels.shape[0] * LARGEST_BAR)))


def _is_gray(pixels: Pixels, y0: int, y1: int) -> bool:
    """Whether rows are gray: all of them in a small file or one that is held whole, else in windows."""
    width = pixels.shape[1]
    if y1 <= y0:
        return True
    if not pixels.lazy or (y1 - y0) * width * 3 * pixels.dtype.itemsize <= _WHOLE_BYTES:
        return equal_channels(pixels.read(Box(y0, 0, y1, width)))
    return all(
        equal_channels(pixels.read(Box(y, x, min(y + _WINDOW, y1), min(x + _WINDOW, width))))
        for y in np.linspace(y0, max(y0, y1 - _WINDOW), _WINDOWS).astype(int).tolist()
        for x in np.linspace(0, max(0, width - _WINDOW), _WINDOWS).astype(int).tolist()
    )


class GrayAboveBar(Wrapped):
    """An RGB file as one gray channel; in its info bar, where colours are, the first channel is used.

    Args:
        path: The file, for messages.
        pixels: What it reads from, and closes.
        rows: Rows of the info bar.
    """

    def __init__(self, path: str, pixels: Pixels, rows: int) -> None:
        super().__init__(pixels)
        self._path, self._bar = path, pixels.shape[0] - rows
        self.channels = 1

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box: (1, y, x).

        Raises:
            InputError: A pixel above the info bar is coloured.
        """
        raw = self._pixels.read(box)
        specimen = raw[:, : max(0, self._bar - box.y0)]
        if not equal_channels(specimen):
            y, x = (int(value) for value in np.argwhere((specimen != specimen[0]).any(axis=0))[0])
            raise InputError(
                self._path,
                f"the RGB image looked gray above its info bar, but is coloured at (y, x) = ({box.y0 + y}, {box.x0 + x})",
                "remove coloured labels from the image, or convert it to gray",
            )
        return raw[:1]
