"""The inputs of a classifier: views of one size, whatever the size, type and channels of the file."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources import intensity_limits, open_prepared
from microseg_ray.sources.rescaled import Rescaled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.files import Where
    from microseg_ray.settings import Scaling, SourceSettings, ViewSettings
    from microseg_ray.sources import ScaleRule
    from microseg_ray.sources.base import Micrograph

__all__ = ["Seeing", "Views", "read_views"]

_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_MAX_PAD = 8  # a crop of a micrograph smaller than an eighth of it would be reflections only


@dataclass(frozen=True)
class Seeing:
    """How a classifier sees.

    Attributes:
        views: Whole or crops.
        size: (height, width) of a view in pixels.
        channels: 1 or 3.
        scaling: Which intensities become 0 and 1.
    """

    views: ViewSettings
    size: tuple[int, int]
    channels: int
    scaling: Scaling


@dataclass(frozen=True)
class Views:
    """A micrograph as a classifier sees it.

    Attributes:
        pixels: (view, channel, y, x) of the micrograph's type.
        limits: Intensities that become 0 and 1, one pair for the whole micrograph.
        shape: (height, width) of the file.
        pixel_size_um: (y, x) of the file, if known.
    """

    pixels: NDArray[Any]
    limits: tuple[float, float]
    shape: tuple[int, int]
    pixel_size_um: tuple[float, float] | None


def read_views(
    path: Where,
    seeing: Seeing,
    source: SourceSettings | None = None,
    scale: ScaleRule | None = None,
) -> Views:
    """The views of a micrograph; an info bar is in none of them.

    `whole` averages the specimen down (or interpolates it up) to the size, each axis by itself, so an aspect ratio that
    is not the size's is squashed, the same way in training and prediction. A huge micrograph is read band by band.

    Args:
        path: As in `open_micrograph`.
        seeing: What the classifier sees.
        source: Page, channel, info bar; the defaults where None.
        scale: What to do about another pixel size than the trained one; it counts for crops.

    Raises:
        InputError: As `open_prepared`; channels that are neither gray nor RGB; too small for crops.
    """
    crops = seeing.views.kind == "crops"
    with open_prepared(path, seeing.scaling, source, scale if crops else None) as micrograph:
        limits = intensity_limits(micrograph, seeing.scaling)
        info = micrograph.info
        _require_channels(micrograph, seeing.channels)
        if crops:
            pixels = _crops(micrograph, seeing)
        elif info.specimen.shape == seeing.size:
            pixels = micrograph.read(info.specimen)[None]
        else:
            pixels = Rescaled(micrograph, seeing.size).read(Box.of_shape(seeing.size))[None]
        return Views(as_channels(pixels, seeing.channels), limits, info.file_shape or info.shape, info.pixel_size_um)


def as_channels(pixels: NDArray[Any], channels: int) -> NDArray[Any]:
    """Gray as three equal channels, or RGB as its luma (ITU-R BT.601), of the same type.

    Args:
        pixels: (view, channel, y, x) with 1 or 3 channels.
        channels: 1 or 3.

    Example:
        >>> as_channels(np.full((1, 1, 2, 2), 7, np.uint8), 3).shape
        (1, 3, 2, 2)
        >>> as_channels(np.array([10, 20, 30], np.uint8).reshape(1, 3, 1, 1), 1).ravel().tolist()
        [18]
    """
    if pixels.shape[1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=1)
    luma = np.tensordot(pixels.astype(np.float64), _LUMA, axes=(1, 0))[:, None]
    return np.asarray(np.rint(luma) if pixels.dtype.kind in "iu" else luma).astype(pixels.dtype)


def window_starts(shape: tuple[int, int], size: tuple[int, int], most: int) -> list[tuple[int, int]]:
    """Upper left corners (y, x) of evenly spread windows that cover a shape, thinned out where they are too many.

    Example:
        >>> window_starts((10, 25), (10, 10), 16), window_starts((5, 5), (10, 10), 16)
        ([(0, 0), (0, 8), (0, 15)], [(0, 0)])
        >>> len(window_starts((1000, 1000), (10, 10), 16))
        16
    """
    counts = [max(1, math.ceil(length / side)) for length, side in zip(shape, size, strict=True)]
    if counts[0] * counts[1] > most:
        shrink = math.sqrt(most / (counts[0] * counts[1]))
        rows = min(max(1, round(counts[0] * shrink)), most)
        counts = [rows, max(1, min(counts[1], most // rows))]
    ys, xs = (
        [round(max(0, length - side) * index / max(1, count - 1)) for index in range(count)]
        for length, side, count in zip(shape, size, counts, strict=True)
    )
    return [(y, x) for y in ys for x in xs]


def _crops(micrograph: Micrograph, seeing: Seeing) -> NDArray[Any]:
    specimen, (height, width) = micrograph.info.specimen, seeing.size
    if specimen.height * _MAX_PAD < height or specimen.width * _MAX_PAD < width:
        raise InputError(
            micrograph.info.path,
            f"{specimen.height} x {specimen.width} px are too few for crops of {height} x {width}",
            "take a larger micrograph",
        )
    views = []
    for y0, x0 in window_starts(specimen.shape, seeing.size, seeing.views.most):
        box = Box(y0, x0, min(y0 + height, specimen.height), min(x0 + width, specimen.width))
        room = ((0, 0), (0, height - box.height), (0, width - box.width))
        views.append(np.pad(micrograph.read(box), room, mode="symmetric"))
    return np.stack(views)


def _require_channels(micrograph: Micrograph, channels: int) -> None:
    found = micrograph.info.channels
    if found not in {1, 3}:
        raise InputError(
            micrograph.info.path,
            f"it has {found} channels, the classifier sees {'RGB' if channels == 3 else 'gray'}",
            "pick one with source.channel",
        )
