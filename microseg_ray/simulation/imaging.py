"""Imaging of a scene: texture, blur, uneven illumination, charging streaks, noise, and the info bar.

Shot noise grows with the signal (Poisson, in its Gaussian limit), read noise does not; see Reimer, Scanning Electron
Microscopy (1998), chapter 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.simulation.canvas import Canvas, Doubles, Floats, Mask, random_stream

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.settings import ImagingSettings

__all__ = ["expose", "info_bar", "light_rows", "margin_of", "shade", "streak_rows", "texture_tiles"]

_TEXTURE_PERIODS = (379, 509)  # coprime, so that their sum has no visible period
_STREAK_EVERY, _STREAK_ROWS = 48, 6.0


def margin_of(imaging: ImagingSettings) -> int:
    """Margin in rows beyond the range of the blur, so that neither bands nor the border are visible."""
    return max(4, int(np.ceil(5 * (imaging.blur or 0))))


def texture_tiles(seed: int) -> list[Floats]:
    """Seamless random textures, one per period, with standard deviation one."""
    tiles = []
    for stream, period in enumerate(_TEXTURE_PERIODS):
        noise = random_stream(seed, 2, stream).standard_normal((period, period), dtype=np.float32)
        smooth = ndimage.gaussian_filter(noise, 1.2 + 1.8 * stream, mode="wrap")
        tiles.append((smooth / smooth.std()).astype(np.float32))
    return tiles


def light_rows(seed: int, size: tuple[int, int], bounds: tuple[float, float]) -> Callable[[int, int], Floats]:
    """The illumination of rows y0 to y1, float32 (y, x): varies slowly over the whole micrograph, within the bounds."""
    rng = random_stream(seed, 3)
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
    gain = (bounds[1] - bounds[0]) / (high - low)

    def rows(y0: int, y1: int) -> Floats:
        light = field((np.arange(y0, y1) + 0.5) / size[0], (np.arange(size[1]) + 0.5) / size[1])
        light -= np.float32(low)
        light *= np.float32(gain)
        light += np.float32(bounds[0])
        return light

    return rows


def streak_rows(seed: int, width: int, strength: float) -> Callable[[int, int], Floats]:
    """Charging: factors of rows y0 to y1, float32 (y, x); some rows brighten abruptly and decay.

    Args:
        seed: Seed of the micrograph.
        width: Width of the micrograph in pixels.
        strength: Relative brightness of the strongest streak; 0 for none.
    """

    def rows(y0: int, y1: int) -> Floats:
        factor = np.ones((y1 - y0, width), np.float32)
        y, x = np.arange(y0, y1)[:, None], np.arange(width)[None, :]
        # Streaks belong to blocks of rows at absolute positions, so that bands are not visible.
        for block in range(y0 // _STREAK_EVERY - 1, y1 // _STREAK_EVERY + 2):
            rng = random_stream(seed, 5, block + 1)
            row, thickness = (block + rng.random()) * _STREAK_EVERY, rng.uniform(0.5, _STREAK_ROWS / 3)
            start, fading = rng.uniform(-0.5, 1.0) * width, rng.uniform(0.1, 0.5) * width
            profile = np.exp(-0.5 * ((y - row) / thickness) ** 2) * np.exp(-np.maximum(x - start, 0) / fading)
            factor += (strength * rng.uniform(-0.6, 1.0) * profile * (x >= start)).astype(np.float32)
        return factor

    return rows


def shade(canvas: Canvas, textures: list[Floats], strength: Floats, blur: float, margin: int) -> Floats:
    """The noise-free image in even illumination: textured and blurred levels, without the margin."""
    rows, columns = canvas.mask.shape
    texture = np.zeros((rows, columns), np.float32)
    for tile in textures:
        y = np.arange(canvas.y0, canvas.y0 + rows) % len(tile)
        x = np.arange(canvas.x0, canvas.x0 + columns) % len(tile)
        texture += tile[y[:, None], x[None, :]]
    texture *= strength[canvas.mask]
    texture += 1
    texture *= canvas.level
    if blur:
        texture = ndimage.gaussian_filter(texture, blur, truncate=margin / blur, mode="nearest")
    return np.asarray(texture[margin:-margin, margin:-margin], np.float32)


def expose(signal: Floats, rng: np.random.Generator, shot: float, read: float) -> Mask:
    """Gray levels with shot noise (variance `shot` per level) and read noise (standard deviation `read`), as uint8."""
    deviation = np.sqrt(np.float32(shot) * np.maximum(signal, 0) + np.float32(read**2))
    deviation *= rng.standard_normal(signal.shape, dtype=np.float32)
    deviation += signal
    np.rint(deviation, out=deviation)
    np.clip(deviation, 0, 255, out=deviation)
    levels: Mask = deviation.astype(np.uint8)
    return levels


def info_bar(shape: tuple[int, int], pixel_size_um: tuple[float, float], name: str) -> tuple[Mask, Mask]:
    """The burned-in strip below a micrograph: text and a scale bar on black, and its mask, all ignored.

    Args:
        shape: (height, width) of the strip.
        pixel_size_um: (y, x) in micrometres.
        name: Text of the info bar.

    Returns:
        Image and mask, uint8 (y, x).
    """
    from PIL import Image, ImageDraw

    height, width = shape
    strip = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(strip)
    length_um = float(10 ** np.floor(np.log10(max(width * pixel_size_um[1] / 4, 1e-9))))
    length = round(length_um / pixel_size_um[1])
    pen.line([(0, 0), (width - 1, 0)], fill=255)
    pen.rectangle([(4, height // 2), (4 + length, height // 2 + max(1, height // 12))], fill=255)
    text = f"{length_um:g} um   {name}   15.00 kV   WD 8.2 mm   {pixel_size_um[1]:g} um/px"
    pen.text((12 + length, height // 4), text, fill=255)
    return np.asarray(strip, np.uint8).copy(), np.full(shape, IGNORE_INDEX, np.uint8)
