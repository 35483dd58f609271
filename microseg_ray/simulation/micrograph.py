"""Draws and exposes one simulated micrograph.

A micrograph is drawn in bands of rows, so that memory beyond the two results does not grow with it. Everything that
crosses a band is a function of the absolute pixel position; only noise, which has no memory, is drawn per band. What
makes the preset hard for a global threshold is what makes real micrographs hard: uneven illumination over the whole
micrograph, grains that differ from each other, and noise. What makes it learnable is local: contrast, edges, texture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from microseg_ray.errors import SettingsError
from microseg_ray.settings import ClassSpec, default_color

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PRESETS", "Simulated", "simulate_micrograph"]

PRESETS = ("grains",)
MATRIX, GRAIN, PORE = 0, 1, 2
_CLASSES = tuple(
    ClassSpec(name=name, color=default_color(index)) for index, name in enumerate(("matrix", "grain", "pore"))
)
_PIXEL_SIZE_UM = (0.5, 0.5)

_BAND_ROWS = 512
_MARGIN = 4  # beyond the reach of the blur, so that neither bands nor the micrograph's border show
_BLUR_SIGMA = 0.8
_GRAY = 130.0  # of the matrix in even light
_LIGHT = (0.5, 1.25)  # the darkest and the brightest place of a micrograph
_SHOT, _READ = 0.2, 2.0  # variance per gray level, standard deviation in gray levels
_TEXTURE = np.array([0.05, 0.03, 0.12], np.float32)  # relative, by class
_TEXTURE_PERIODS = (379, 509)  # coprime: their sum does not visibly repeat
_GRAIN_CELL, _GRAIN_SHARE = 68, 0.85  # one grain for that share of the cells
_PORE_CELL, _PORE_SHARE = 84, 0.65
_MAX_SIDES = 9

Mask = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated micrograph and the truth about it.

    Attributes:
        image: uint8 (y, x).
        mask: Class index of every pixel, uint8 (y, x); exact, no pixel is ignored.
        classes: Names and colours; a class's index is its place.
        pixel_size_um: (y, x) in micrometres.

    Example:
        >>> simulated = simulate_micrograph((20, 30), seed=1)
        >>> simulated.image.shape, [item.name for item in simulated.classes]
        ((20, 30), ['matrix', 'grain', 'pore'])
    """

    image: Mask
    mask: Mask
    classes: tuple[ClassSpec, ...]
    pixel_size_um: tuple[float, float]


@dataclass(frozen=True, eq=False)
class _Grains:
    """Polygons: the points on the inner side of up to nine lines; (n, ...) arrays, pixels."""

    center: Doubles  # (n, 2): y, x
    reach: Doubles  # (n,): half the side of the square that is drawn into
    normals: Doubles  # (n, sides, 2)
    distance: Doubles  # (n, sides); infinite for the sides that a polygon does not have
    gray: Doubles  # (n,)
    stripes: Doubles  # (n, 2): wave vector of the lamellae, radians per pixel
    phase: Doubles  # (n,)


@dataclass(frozen=True, eq=False)
class _Pores:
    """Wobbly ellipses; (n, ...) arrays, pixels."""

    center: Doubles  # (n, 2): y, x
    reach: Doubles  # (n,)
    axes: Doubles  # (n, 2): half axes
    angle: Doubles  # (n,)
    wobble: Doubles  # (n, 2): amplitude, phase
    gray: Doubles  # (n,)


@dataclass(frozen=True, eq=False)
class _Canvas:
    """A band with its margin: absolute position of its first row and column, and what is drawn so far."""

    y0: int
    x0: int
    mask: Mask
    level: Floats


def _rng(seed: int, *stream: int) -> np.random.Generator:
    """An own stream of random numbers for every purpose, so that changing one leaves the others alone."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=stream))


def _scatter(rng: np.random.Generator, size: tuple[int, int], cell: int, share: float) -> Doubles:
    """One centre (y, x) anywhere in `share` of the cells, also around the micrograph, so that density has no border."""
    rows, columns = (-(-side // cell) + 2 for side in size)
    corners = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2) - 1.0
    centers = (corners + rng.random(corners.shape)) * cell
    taken = rng.random(len(centers)) < share
    # In random order, so that which grain lies on top has no direction.
    return rng.permutation(centers[taken], axis=0)


def _make_grains(seed: int, size: tuple[int, int]) -> _Grains:
    rng = _rng(seed, 0)
    center = _scatter(rng, size, _GRAIN_CELL, _GRAIN_SHARE)
    count = len(center)
    radius = np.clip(rng.lognormal(np.log(21.0), 0.45, count), 7.0, 50.0)
    sides = rng.integers(5, _MAX_SIDES + 1, count)
    index = np.arange(_MAX_SIDES)
    # Nearly even angles: no gap ever reaches half a turn, so every polygon is closed.
    angle = (index + rng.uniform(-0.3, 0.3, (count, _MAX_SIDES))) * (2 * np.pi / sides)[:, None]
    angle += rng.uniform(0, 2 * np.pi, count)[:, None]
    distance = radius[:, None] * rng.uniform(0.65, 1.05, (count, _MAX_SIDES))
    distance[index >= sides[:, None]] = np.inf
    period, direction = rng.uniform(5.0, 9.0, count), rng.uniform(0, np.pi, count)
    return _Grains(
        center=center,
        reach=1.6 * radius,
        normals=np.stack([np.sin(angle), np.cos(angle)], axis=-1),
        distance=distance,
        gray=np.clip(rng.normal(1.28, 0.08, count), 1.1, 1.5),
        stripes=np.stack([np.sin(direction), np.cos(direction)], axis=-1) * (2 * np.pi / period)[:, None],
        phase=rng.uniform(0, 2 * np.pi, count),
    )


def _make_pores(seed: int, size: tuple[int, int]) -> _Pores:
    rng = _rng(seed, 1)
    center = _scatter(rng, size, _PORE_CELL, _PORE_SHARE)
    count = len(center)
    radius = np.clip(rng.lognormal(np.log(12.0), 0.45, count), 4.0, 32.0)
    stretch = rng.uniform(1.0, 1.35, count)
    axes = np.stack([radius * stretch, radius / stretch], axis=-1)
    wobble = np.stack([rng.uniform(0.0, 0.18, count), rng.uniform(0, 2 * np.pi, count)], axis=-1)
    return _Pores(
        center=center,
        reach=1.2 * axes[:, 0] + 1,
        axes=axes,
        angle=rng.uniform(0, np.pi, count),
        wobble=wobble,
        gray=rng.uniform(0.38, 0.62, count),
    )


def _touching(center: Doubles, reach: Doubles, canvas: _Canvas) -> npt.NDArray[np.intp]:
    """Indices, in drawing order, of the shapes whose square touches the canvas."""
    low = np.array([canvas.y0, canvas.x0])
    high = low + canvas.mask.shape
    near = (center + reach[:, None] >= low).all(axis=1) & (center - reach[:, None] < high).all(axis=1)
    return np.flatnonzero(near)


def _square(center: Doubles, reach: float, canvas: _Canvas) -> tuple[tuple[slice, slice], Doubles, Doubles]:
    """Where a shape's square lies on the canvas, and its pixels' y (n, 1) and x (1, m) from the shape's centre.

    Both follow from absolute positions alone, so that a shape on two bands is the same shape.
    """
    low, high = np.ceil(center - reach).astype(int), np.floor(center + reach).astype(int) + 1
    rows, columns = canvas.mask.shape
    y0, x0 = max(low[0] - canvas.y0, 0), max(low[1] - canvas.x0, 0)
    y1, x1 = max(min(high[0] - canvas.y0, rows), y0), max(min(high[1] - canvas.x0, columns), x0)
    y = np.arange(y0, y1)[:, None] + canvas.y0 - center[0]
    x = np.arange(x0, x1)[None, :] + canvas.x0 - center[1]
    return (slice(y0, y1), slice(x0, x1)), y, x


def _draw_grains(grains: _Grains, canvas: _Canvas) -> None:
    for index in _touching(grains.center, grains.reach, canvas):
        where, y, x = _square(grains.center[index], float(grains.reach[index]), canvas)
        inside = np.ones((y.shape[0], x.shape[1]), bool)
        for (normal_y, normal_x), distance in zip(grains.normals[index], grains.distance[index], strict=True):
            inside &= normal_y * y + normal_x * x <= distance
        wave = np.sin(grains.stripes[index, 0] * y + grains.stripes[index, 1] * x + grains.phase[index])
        np.copyto(canvas.level[where], (grains.gray[index] * (1 + 0.13 * wave)).astype(np.float32), where=inside)
        canvas.mask[where][inside] = GRAIN


def _draw_pores(pores: _Pores, canvas: _Canvas) -> None:
    for index in _touching(pores.center, pores.reach, canvas):
        where, y, x = _square(pores.center[index], float(pores.reach[index]), canvas)
        cosine, sine = np.cos(pores.angle[index]), np.sin(pores.angle[index])
        along = (cosine * x + sine * y) / pores.axes[index, 0]
        across = (cosine * y - sine * x) / pores.axes[index, 1]
        amplitude, phase = pores.wobble[index]
        radius = np.hypot(along, across) / (1 + amplitude * np.cos(3 * np.arctan2(across, along) + phase))
        inside = radius <= 1
        # Deeper means darker.
        level = (pores.gray[index] * (0.8 + 0.2 * radius)).astype(np.float32)
        np.copyto(canvas.level[where], level, where=inside)
        canvas.mask[where][inside] = PORE


def _texture_tiles(seed: int) -> list[Floats]:
    """Seamless random textures, one per period, with standard deviation one."""
    tiles = []
    for stream, period in enumerate(_TEXTURE_PERIODS):
        noise = _rng(seed, 2, stream).standard_normal((period, period), dtype=np.float32)
        smooth = ndimage.gaussian_filter(noise, 1.2 + 1.8 * stream, mode="wrap")
        tiles.append((smooth / smooth.std()).astype(np.float32))
    return tiles


def _light(seed: int, size: tuple[int, int]) -> Callable[[int, int], Floats]:
    """The illumination of rows y0 to y1, float32 (y, x): slow over the whole micrograph, within _LIGHT."""
    rng = _rng(seed, 3)
    waves = [(rng.uniform(0.5, 1.0), rng.uniform(0.35, 0.8, 2), rng.uniform(0, 2 * np.pi, 2)) for _ in range(3)]

    def field(y: Doubles, x: Doubles) -> Floats:
        total = np.zeros((len(y), len(x)), np.float32)
        for amplitude, frequency, phase in waves:
            along_y = amplitude * np.cos(2 * np.pi * frequency[0] * y + phase[0])
            along_x = np.cos(2 * np.pi * frequency[1] * x + phase[1])
            total += along_y.astype(np.float32)[:, None] * along_x.astype(np.float32)[None, :]
        return total

    even = np.linspace(0, 1, 65)
    coarse = field(even, even)
    low, high = float(coarse.min()), float(coarse.max())
    gain = (_LIGHT[1] - _LIGHT[0]) / (high - low)

    def rows(y0: int, y1: int) -> Floats:
        light = field((np.arange(y0, y1) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
        light -= np.float32(low)
        light *= np.float32(gain)
        light += np.float32(_LIGHT[0])
        return light

    return rows


def _shade(canvas: _Canvas, textures: list[Floats]) -> Floats:
    """What the microscope would show in even light without noise: levels, textured and blurred, margin removed."""
    rows, columns = canvas.mask.shape
    texture = np.zeros((rows, columns), np.float32)
    for tile in textures:
        y = np.arange(canvas.y0, canvas.y0 + rows) % len(tile)
        x = np.arange(canvas.x0, canvas.x0 + columns) % len(tile)
        texture += tile[y[:, None], x[None, :]]
    texture *= _TEXTURE[canvas.mask]
    texture += 1
    texture *= canvas.level
    blurred = ndimage.gaussian_filter(texture, _BLUR_SIGMA, truncate=_MARGIN / _BLUR_SIGMA, mode="nearest")
    return np.asarray(blurred[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN], np.float32)


def _expose(signal: Floats, rng: np.random.Generator) -> Mask:
    """Gray levels with shot noise (variance grows with the signal) and read noise, as uint8."""
    deviation = np.sqrt(np.float32(_SHOT) * np.maximum(signal, 0) + np.float32(_READ**2))
    deviation *= rng.standard_normal(signal.shape, dtype=np.float32)
    deviation += signal
    np.rint(deviation, out=deviation)
    np.clip(deviation, 0, 255, out=deviation)
    levels: Mask = deviation.astype(np.uint8)
    return levels


def simulate_micrograph(size: tuple[int, int], seed: int, *, preset: str = "grains") -> Simulated:
    """Simulate a micrograph with its exact mask.

    `grains` is a polished section: a matrix, polygonal grains of a second phase (about a quarter of the area) and dark
    rounded pores (about a twentieth). Densities do not depend on the size.

    Args:
        size: (height, width) in pixels, from 1 x 1 up.
        seed: Zero or more; the same seed and size give the same bytes.
        preset: One of `PRESETS`.

    Returns:
        Image and mask, uint8 (y, x), with classes and pixel size.

    Raises:
        SettingsError: A side below 1, a negative seed, or an unknown preset.

    Example:
        >>> simulated = simulate_micrograph((64, 96), seed=7)
        >>> simulated.mask.shape, sorted(set(simulated.mask.ravel().tolist())) <= [0, 1, 2]
        ((64, 96), True)
    """
    if preset not in PRESETS:
        raise SettingsError(f"preset {preset!r} is unknown; use one of {', '.join(PRESETS)}")
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative; use zero or more")
    if len(size) != 2 or min(size) < 1:
        raise SettingsError(f"size {size}: height and width must be at least one pixel")
    height, width = size
    image, mask = np.empty(size, np.uint8), np.empty(size, np.uint8)
    grains, pores = _make_grains(seed, size), _make_pores(seed, size)
    textures, light = _texture_tiles(seed), _light(seed, size)
    for y0 in range(0, height, _BAND_ROWS):
        y1 = min(y0 + _BAND_ROWS, height)
        shape = (y1 - y0 + 2 * _MARGIN, width + 2 * _MARGIN)
        canvas = _Canvas(y0 - _MARGIN, -_MARGIN, np.zeros(shape, np.uint8), np.ones(shape, np.float32))
        _draw_grains(grains, canvas)
        _draw_pores(pores, canvas)
        mask[y0:y1] = canvas.mask[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
        signal = _shade(canvas, textures) * light(y0, y1)
        signal *= np.float32(_GRAY)
        image[y0:y1] = _expose(signal, _rng(seed, 4, y0))
    return Simulated(image, mask, _CLASSES, _PIXEL_SIZE_UM)
