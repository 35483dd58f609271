"""Simulated CCD detector images: background, glowing edge, hot lines, charge clusters, with masks of what was drawn.

The numbers are those of the earlier system (its v0, v1 and v2 simulators): counts, positions and intensities. Its pickled
library of clusters is replaced by a generator that was fitted to the published quantiles of their height, width, number
of pixels and charge. Its labels were thresholds of colours; here, masks contain what was drawn, even where noise or
rounding hides it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from microseg_ray.errors import SettingsError
from microseg_ray.settings import ClassSpec
from microseg_ray.simulation.canvas import random_stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["CCD_CLASSES", "CCD_PIXEL_SIZE_UM", "VERSIONS", "ccd_bands", "draw_cluster"]

BACKGROUND, GLOWING, HOT, CLUSTER = 0, 1, 2, 3
CCD_CLASSES = tuple(
    ClassSpec(name=name, color=color)
    for name, color in (
        ("background", "#000000"),
        ("glowing", "#59ff40"),
        ("hot pixel", "#0080ff"),
        ("cluster", "#ff3333"),
    )
)
CCD_PIXEL_SIZE_UM = (15.0, 15.0)
_FRAME = 256

# Quantiles of the cluster library (share of the clusters, value), interpolated in the logarithm. The number of pixels is
# limited by the box, so its table is above the published quantiles, and the result matches them.
_HEIGHTS = ((0, 1), (0.05, 3), (0.25, 6.5), (0.5, 12), (0.75, 23), (0.95, 55.9), (1, 127))
_WIDTHS = ((0, 1), (0.05, 3), (0.25, 6.2), (0.5, 11), (0.75, 20.5), (0.95, 49), (1, 109))
_PIXELS = ((0, 1), (0.05, 6), (0.25, 36), (0.5, 98), (0.75, 188), (0.95, 490), (1, 892))
_VALUES = ((0, 1e-3), (0.05, 8e-3), (0.5, 0.126), (0.74, 0.5), (0.95, 1.73), (1, 16.965))


@dataclass(frozen=True)
class _Version:
    """Parameters of one simulator for a frame of 256 columns; ranges include both ends."""

    clusters: tuple[int, int] | None  # None: from a random index to the end of the library of 803
    cluster_x: int
    cluster_gain: float
    hot: tuple[int, int]
    hot_x: tuple[int, int | None]
    hot_level: int
    hot_adds: bool
    glow: tuple[int, int]
    glow_level: tuple[int, int]
    glow_offset: tuple[int, int]
    no_glow: float  # share of the frames without a glowing edge
    pedestal: float
    noise: float


VERSIONS = {
    "ccd_v0": _Version((5, 12), 15, 1.0, (2, 6), (15, None), 25, False, (0, 14), (10, 10), (0, 0), 0.0, 0.0, 0.0),
    "ccd_v1": _Version(None, 162, 1.0, (500, 500), (67, 161), 25, False, (62, 66), (10, 10), (0, 0), 0.0, 0.0, 0.0),
    "ccd_v2": _Version(
        None, 144, 200.0, (400, 500), (66, 144), 2200, True, (40, 61), (1400, 1500), (0, 4), 0.375, 8800.0, 60 / 10**0.5
    ),
}
_LIBRARY = 803


def _drawn(table: tuple[tuple[float, float], ...], share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quantiles from a table, interpolated in the logarithm."""
    places, values = (np.array(column, np.float64) for column in zip(*table, strict=True))
    return np.exp(np.interp(share, places, np.log(values)))


def draw_cluster(rng: np.random.Generator) -> NDArray[np.float64]:
    """One charge cluster: a winding track that touches all four sides of its box.

    Args:
        rng: Random number generator.

    Returns:
        Charge float64 (y, x), 0 outside the track.

    Example:
        >>> cluster = draw_cluster(random_stream(1))
        >>> cluster.ndim, bool((cluster >= 0).all()), bool(cluster.any())
        (2, True, True)
    """
    # Height, width and pixel count of a cluster are correlated: the three shares have a common part.
    common = rng.normal()
    shares = ndtr_of(0.75 * common + 0.661 * rng.normal(size=3))
    height = round(float(_drawn(_HEIGHTS, shares[:1])[0]))
    width = round(float(_drawn(_WIDTHS, shares[1:2])[0]))
    pixels = int(np.clip(round(float(_drawn(_PIXELS, shares[2:])[0])), max(height, width), height * width))
    track = _track(rng, height, width, pixels)
    charge = np.zeros((height, width))
    charge[track] = _drawn(_VALUES, rng.random(int(track.sum())))
    return charge


def ndtr_of(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cumulative distribution function of the standard normal distribution.

    Example:
        >>> float(ndtr_of(np.zeros(1))[0])
        0.5
    """
    from scipy.special import ndtr

    return np.asarray(ndtr(values), np.float64)


def _track(rng: np.random.Generator, height: int, width: int, pixels: int) -> NDArray[np.bool_]:
    """A connected track of about `pixels` pixels that touches all four sides of the box."""
    steps = 48
    direction = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.5, steps))
    y, x = np.cumsum(np.sin(direction)), np.cumsum(np.cos(direction))
    y = (y - y.min()) / max(float(np.ptp(y)), 1e-9) * (height - 1)
    x = (x - x.min()) / max(float(np.ptp(x)), 1e-9) * (width - 1)
    fine = np.linspace(0, steps - 1, 4 * steps + 4 * (height + width))
    track = np.zeros((height, width), bool)
    rows = np.rint(np.interp(fine, np.arange(steps), y)).astype(int)
    columns = np.rint(np.interp(fine, np.arange(steps), x)).astype(int)
    track[rows, columns] = True
    grown = track
    while (missing := pixels - int(track.sum())) > 0:
        grown = ndimage.binary_dilation(track, iterations=1)
        edge = np.flatnonzero(grown & ~track)
        if not len(edge):
            break
        chosen = edge if len(edge) <= missing else rng.choice(edge, missing, replace=False)
        track.flat[chosen] = True
    return track


def _integers(rng: np.random.Generator, low: float, high: float) -> int:
    """`round(U(low, high))`, as in the earlier simulators."""
    return round(float(rng.uniform(low, high)))


def ccd_bands(
    size: tuple[int, int], seed: int, preset: str, band_rows: int = 512, clusters: tuple[int, int] | None = None
) -> Iterator[tuple[int, NDArray[np.uint16], NDArray[np.uint8]]]:
    """A CCD image in bands of rows: first row, intensities uint16 (y, x), mask uint8 (y, x).

    Counts are per 256 x 256 pixels, so that larger frames have the density of the original ones.

    Args:
        size: (height, width) in pixels; at least 170 columns for `ccd_v1` and `ccd_v2`.
        seed: Zero or more.
        preset: "ccd_v0", "ccd_v1" or "ccd_v2".
        band_rows: Rows per band; the result does not depend on it.
        clusters: Minimum and maximum of clusters per 256 x 256 pixels; None for the preset's.

    Raises:
        SettingsError: The frame is too narrow for the preset.

    Example:
        >>> ((y0, image, mask),) = ccd_bands((256, 256), 0, "ccd_v0")
        >>> image.shape, image.dtype.name, int(mask.max()) <= 3
        ((256, 256), 'uint16', True)
    """
    version = VERSIONS[preset]
    if clusters is not None:
        version = replace(version, clusters=clusters)
    if size[1] < version.cluster_x + 8:
        raise SettingsError(f"size {size}: {preset} needs at least {version.cluster_x + 8} columns; use 256 or more")
    glow = _glow(random_stream(seed, 0), version)
    for y0 in range(0, size[0], band_rows):
        y1 = min(y0 + band_rows, size[0])
        image = np.zeros((y1 - y0, size[1]))
        mask = np.zeros(image.shape, np.uint8)
        # A cluster can extend into the frame below; one that would leave the detector is moved up.
        frames = range(max(0, y0 // _FRAME - 1), min(-(-size[0] // _FRAME), -(-y1 // _FRAME) + 1))
        for frame in frames:
            _draw_clusters(random_stream(seed, 1, frame), version, size, frame, (y0, image, mask))
        mask_clusters = mask == CLUSTER
        _add_glow(glow, image, mask)
        for frame in frames:
            _draw_hot(random_stream(seed, 2, frame), version, size, frame, (y0, image, mask))
        mask[mask_clusters & (mask != HOT)] = CLUSTER
        image += _background(seed, version, y0, image.shape)
        yield y0, np.clip(np.rint(image), 0, 65535).astype(np.uint16), mask


def _background(seed: int, version: _Version, y0: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    background = np.full(shape, version.pedestal)
    if version.noise:
        for row in range(shape[0]):
            background[row] += random_stream(seed, 3, y0 + row).normal(0, version.noise, shape[1])
    return background


def _glow(rng: np.random.Generator, version: _Version) -> tuple[int, int, int]:
    """First column, end column and level of the glowing edge; both columns equal if a frame has none."""
    offset = _integers(rng, *version.glow_offset)
    width = _integers(rng, *version.glow)
    level = _integers(rng, *version.glow_level)
    return (offset, offset + width, level) if rng.random() >= version.no_glow else (0, 0, 0)


def _add_glow(glow: tuple[int, int, int], image: NDArray[np.float64], mask: NDArray[np.uint8]) -> None:
    start, end, level = glow
    image[:, start:end] += level
    mask[:, start:end] = GLOWING


def _draw_clusters(
    rng: np.random.Generator,
    version: _Version,
    size: tuple[int, int],
    frame: int,
    band: tuple[int, NDArray[np.float64], NDArray[np.uint8]],
) -> None:
    """Draw the part inside the band of the clusters that start in 256 rows of the detector."""
    count = _LIBRARY - int(rng.integers(0, _LIBRARY)) if version.clusters is None else _integers(rng, *version.clusters)
    for _ in range(max(1, round(count * size[1] / _FRAME))):
        charge = draw_cluster(rng)[: size[0], : size[1] - version.cluster_x]
        height, width = charge.shape
        top = frame * _FRAME + int(rng.uniform(0, min(_FRAME, size[0] - frame * _FRAME)))
        top = min(top, size[0] - height)
        left = int(rng.uniform(version.cluster_x, max(version.cluster_x + 1, size[1] - width)))
        levels = np.rint(charge * version.cluster_gain)
        _place(band, top, left, levels)


def _place(
    band: tuple[int, NDArray[np.float64], NDArray[np.uint8]], top: int, left: int, levels: NDArray[np.float64]
) -> None:
    y0, image, mask = band
    start, end = max(top, y0), min(top + len(levels), y0 + len(image))
    if start >= end:
        return
    part = levels[start - top : end - top]
    where = (slice(start - y0, end - y0), slice(left, left + levels.shape[1]))
    image[where] += part
    mask[where][part > 0] = CLUSTER


def _draw_hot(
    rng: np.random.Generator,
    version: _Version,
    size: tuple[int, int],
    frame: int,
    band: tuple[int, NDArray[np.float64], NDArray[np.uint8]],
) -> None:
    """Draw the hot lines that start in 256 rows: horizontal or vertical, with a random end."""
    y0, image, mask = band
    low, high = version.hot_x[0], version.hot_x[1] or size[1]
    for _ in range(_integers(rng, *version.hot)):
        upright = rng.random() < 0.5
        rows = min(_FRAME, size[0] - frame * _FRAME)
        y, x = frame * _FRAME + int(rng.uniform(0, rows)), int(rng.uniform(low, min(high, size[1])))
        if upright:
            end_y, end_x = int(rng.uniform(y, frame * _FRAME + rows)) + 1, x + 1
        else:
            end_y, end_x = y + 1, int(rng.uniform(x, min(high, size[1]))) + 1
        start_y, stop_y = max(y, y0), min(end_y, y0 + len(image))
        if start_y >= stop_y:
            continue
        where = (slice(start_y - y0, stop_y - y0), slice(x, end_x))
        # In v2, lines add to the image, only once where they cross; in the earlier versions they replace it.
        image[where] = (
            image[where] + version.hot_level * (mask[where] != HOT) if version.hot_adds else version.hot_level
        )
        mask[where] = HOT
