"""Copies that were rotated by any angle, cropped, resized or inverted: found by their spectra, confirmed by correlation.

The amplitude of a Fourier transform does not change with a shift or an inverted contrast, and rotates and scales with the
micrograph. Its deviation from the mean over all directions, in polar coordinates, is the same pattern for a rotated copy,
shifted along the angle (B. S. Reddy and B. N. Chatterji, An FFT-based technique for translation, rotation, and
scale-invariant image registration, 1996). All pairs are compared at once, at 13 scales and with and without a mirror.
The few pairs that agree are laid over each other and correlated at every shift (normalised cross-correlation over the
overlap).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.catalog.leaks.reduced import SIDE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.catalog.leaks.reduced import Reduced

__all__ = ["Match", "geometric_pairs"]

ANGLES = 360  # over 180 degrees
SCALES = tuple(1.03**step for step in range(-6, 7))
AGREEING = 0.3
"""Correlation of two polar spectra from which a pair is laid over each other; unrelated ones reached 0.16 (mudrock, 256 px)."""
SAME = 0.4
"""Correlation of the overlap from which a pair shows the same; unrelated ones of mudrock reached 0.24, at 256 px."""

_RADII = np.arange(4.0, 36.0, 0.5)  # cycles per longer side
_SHADING, _NOISE = 10.0, 1.0  # px of the reduced micrograph
_WIDE = 61  # angles over which a spectrum is levelled
_OVERLAP = 0.5  # share of the smaller micrograph that must be covered
_ROWS = 32
_STANDS_OUT = 0.6
_BETTER = 4.0
"""A frame or a symmetric drawing fits in several orientations alike; what is the same fits in one, far better."""


@dataclass(frozen=True)
class Match:
    """How one micrograph is made from another.

    Attributes:
        angle: Degrees, counter-clockwise, -180 to 180.
        scale: Magnification.
        mirrored: Whether it is mirrored.
        correlation: Of the overlap; negative where the contrast is inverted.

    Example:
        >>> Match(3.0, 1.0, False, -0.97).detail
        'rotated by 3 degrees, inverted'
        >>> Match(0.0, 0.97, False, 0.9).detail
        'cropped or shifted'
    """

    angle: float
    scale: float
    mirrored: bool
    correlation: float

    @property
    def detail(self) -> str:
        """In words."""
        parts = ["mirrored"] if self.mirrored else []
        parts += [f"rotated by {abs(self.angle):g} degrees"] if self.angle else []
        parts += ["inverted"] if self.correlation < 0 else []
        return ", ".join(parts) or "cropped or shifted"


def geometric_pairs(
    reduced: Sequence[Reduced], wanted: Callable[[int, int], bool] = lambda _one, _other: True
) -> Iterator[tuple[int, int, Match]]:
    """Pairs of micrographs that show the same, by index, the smaller first.

    Args:
        reduced: The micrographs.
        wanted: Whether a pair is of interest; the others are not laid over each other, which takes the most time.

    Example:
        >>> from microseg_ray.catalog.leaks.reduced import Reduced
        >>> means = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
        >>> one, other = Reduced((90, 90), means), Reduced((90, 90), 1 - means)
        >>> [(first, second, match.detail) for first, second, match in geometric_pairs([one, other])]
        [(0, 1, 'inverted')]
    """
    squares = [_isotropic(item) for item in reduced]
    for first, second, place in _agreeing([_spectra(square) for square in squares]):
        mirrored, scale, angle = np.unravel_index(place, (2, len(SCALES), ANGLES))
        if not wanted(first, second):
            continue
        match = _laid_over(squares[first], squares[second], angle * 180 / ANGLES, SCALES[scale], bool(mirrored))
        if match is not None:
            yield first, second, match


@dataclass(frozen=True)
class _Square:
    """A reduced micrograph at its own proportions in the middle of a square: levelled, with 1 where it is."""

    pixels: NDArray[np.float32]
    inside: NDArray[np.float32]


def _isotropic(reduced: Reduced) -> _Square:
    from scipy import ndimage

    longer = max(reduced.shape)
    height, width = (max(8, round(SIDE * length / longer)) for length in reduced.shape)
    means = ndimage.zoom(reduced.means, (height / SIDE, width / SIDE), order=1, grid_mode=True, mode="nearest")
    level = ndimage.gaussian_filter(means - ndimage.gaussian_filter(means, _SHADING, mode="nearest"), _NOISE)
    spread = float(level.std())
    level = np.clip(level / spread, -3, 3) if spread > 1e-7 else np.zeros_like(level)
    pixels, inside = (np.zeros((SIDE, SIDE), np.float32) for _ in range(2))
    y, x = (SIDE - height) // 2, (SIDE - width) // 2
    pixels[y : y + height, x : x + width] = level - level.mean()
    inside[y : y + height, x : x + width] = 1
    return _Square(pixels, inside)


def _spectra(square: _Square) -> NDArray[np.complex64]:
    """(scale, radius, frequency along the angle) complex: the polar amplitude of one micrograph."""
    from scipy import ndimage

    rows, columns = (square.inside.any(axis=1 - axis).sum() for axis in (0, 1))
    window = np.zeros_like(square.pixels)
    y, x = (SIDE - rows) // 2, (SIDE - columns) // 2
    window[y : y + rows, x : x + columns] = np.outer(np.hanning(rows + 2)[1:-1], np.hanning(columns + 2)[1:-1])
    padded = 2 * SIDE
    amplitude = np.sqrt(np.abs(np.fft.fftshift(np.fft.fft2(square.pixels * window, (padded, padded)))))
    theta = np.arange(ANGLES) * np.pi / ANGLES
    found = []
    for scale in SCALES:
        radii = 2 * _RADII * scale
        places = [SIDE + np.outer(radii, np.sin(theta)), SIDE + np.outer(radii, np.cos(theta))]
        polar = ndimage.map_coordinates(amplitude, places, order=1)
        polar -= polar.mean(axis=1, keepdims=True)
        polar /= np.maximum(polar.std(axis=1, keepdims=True), 1e-9)
        polar -= ndimage.uniform_filter1d(polar, _WIDE, axis=1, mode="wrap")
        polar /= max(float(np.sqrt((polar**2).sum())), 1e-9)
        found.append(np.fft.rfft(polar, axis=1).astype(np.complex64))
    return np.stack(found)


def _agreeing(spectra: Sequence[NDArray[np.complex64]]) -> Iterator[tuple[int, int, int]]:
    """Pairs whose spectra correlate, with the best place in (mirror, scale, angle)."""
    from scipy import fft

    if len(spectra) < 2:
        return
    # Contiguous, or numpy multiplies in plain loops: 100 times slower.
    every = np.ascontiguousarray(np.stack(spectra).transpose(1, 3, 2, 0))  # scale, frequency, radius, micrograph
    plain = np.ascontiguousarray(every[len(SCALES) // 2].transpose(0, 2, 1))  # frequency, micrograph, radius
    for start in range(0, len(spectra), _ROWS):
        block = plain[:, start : start + _ROWS]
        best = np.zeros((block.shape[1], len(spectra)), np.float32)
        places = np.zeros(best.shape, np.int64)
        for scale in range(len(SCALES)):
            for mirrored, other in enumerate((np.conj(every[scale]), every[scale])):
                found = fft.irfft(np.matmul(block, other), ANGLES, axis=0)
                top = found.max(axis=0)
                better = top > best
                best[better] = top[better]
                base = (mirrored * len(SCALES) + scale) * ANGLES
                places[better] = base + found.argmax(axis=0)[better]
        for row, second in np.argwhere(best >= AGREEING):
            if start + row < second:
                yield int(start + row), int(second), int(places[row, second])


def _laid_over(first: _Square, second: _Square, angle: float, scale: float, mirrored: bool) -> Match | None:
    """Lay the second over the first in the orientation found, and correlate them; None where they do not show the same.

    The spectrum does not tell an angle from the opposite one, and a frame fits in several orientations: all four of both
    kinds are tried, and the best must stand out from those of the other kind.
    """
    found = {
        (turn, flip): _best_shift(first, _turned(second, turn - angle, scale, flip))
        for turn in (0, 180)
        for flip in (mirrored, not mirrored)
    }
    (turn, flip), best = max(found.items(), key=lambda item: abs(item[1]))
    rest = max(abs(value) for key, value in found.items() if key != (turn, flip))
    stands_out = rest <= _STANDS_OUT * abs(best) or 1 - abs(best) <= (1 - rest) / _BETTER
    if flip != mirrored or abs(best) < SAME or not stands_out:
        return None
    degrees = (turn - angle + 180) % 360 - 180
    return Match(float(degrees), scale, mirrored, best)


def _turned(square: _Square, degrees: float, scale: float, mirrored: bool) -> _Square:
    from scipy import ndimage

    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    matrix = np.array([[cosine, sine], [-sine, cosine]]) / scale
    if mirrored:
        matrix = np.array([[1, 0], [0, -1]]) @ matrix
    middle = np.full(2, (SIDE - 1) / 2)
    pixels, inside = (
        ndimage.affine_transform(part, matrix, middle - matrix @ middle, order=1)
        for part in (square.pixels, square.inside)
    )
    kept = (inside > 0.5).astype(np.float32)
    return _Square(pixels * kept, kept)


def _best_shift(first: _Square, second: _Square) -> float:
    """The normalised cross-correlation of largest size over all shifts with enough overlap."""
    size = (2 * SIDE, 2 * SIDE)

    def spectrum(pixels: NDArray[np.float32]) -> NDArray[np.complex64]:
        return np.asarray(np.fft.rfft2(pixels, size))

    def crossed(one: NDArray[np.complex64], other: NDArray[np.complex64]) -> NDArray[np.float64]:
        return np.asarray(np.fft.irfft2(one * np.conj(other), size))

    inside, covered = spectrum(first.inside), spectrum(second.inside)
    overlap = crossed(inside, covered)
    energy = crossed(spectrum(first.pixels**2), covered) * crossed(inside, spectrum(second.pixels**2))
    enough = overlap > _OVERLAP * min(first.inside.sum(), second.inside.sum())
    product = crossed(spectrum(first.pixels), spectrum(second.pixels))
    correlation = np.where(enough, product / np.sqrt(np.maximum(energy, 1e-3)), 0)
    return float(correlation.flat[np.abs(correlation).argmax()])
