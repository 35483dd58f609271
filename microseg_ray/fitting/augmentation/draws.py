"""The random numbers of an augmentation, a stream per tile."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.settings import AugmentSettings
from microseg_ray.symmetry import SYMMETRIES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["HOLES", "Draw", "draw"]

HOLES = 8
"""Rectangles that `dropout` covers in a tile."""

_FIXED = 24
"""Numbers of a tile after the first three; further kinds of change go behind them, so that older draws stay."""


_MIRRORED = 4  # the symmetry that swaps left and right alone


@dataclass(frozen=True)
class Draw:
    """What happens to each tile of a batch.

    Attributes:
        symmetries: int64 (n,), 0 to 7.
        gains: float32 (n,), factors of the scaled intensities.
        offsets: float32 (n,), added after the gain.
        places: float64 (n, 2), 0 to 1: where in its freedom a crop lies (y, x).
        picks: float64 (n,), 0 to 1: which of the pixels of a class a crop is aimed at.
        matrices: float64 (n, 2, 2), from (y, x) offsets in the result to offsets in the tile, before any further zoom.
        fields: float32 (n, 2, nodes, nodes), elastic displacements in pixels (y, x) at the nodes.
        elastic: The largest displacement.
        gammas: float32 (n,), exponents.
        noises: float32 (n,), standard deviations.
        seeds: int64 (n,), of the noise.
        blurs: float32 (n,), sigmas in pixels.
        holes: float32 (n, HOLES, 4), y, x, height, width as shares of the side; of no size where nothing is covered.
        inverted: bool (n,).
        ignore_outside: Whether what lies outside the tile is masked, rather than zoomed away.
    """

    symmetries: NDArray[np.int64]
    gains: NDArray[np.float32]
    offsets: NDArray[np.float32]
    places: NDArray[np.float64]
    picks: NDArray[np.float64]
    matrices: NDArray[np.float64]
    fields: NDArray[np.float32]
    elastic: float
    gammas: NDArray[np.float32]
    noises: NDArray[np.float32]
    seeds: NDArray[np.int64]
    blurs: NDArray[np.float32]
    holes: NDArray[np.float32]
    inverted: NDArray[np.bool_]
    ignore_outside: bool = False

    def __len__(self) -> int:
        return len(self.symmetries)


def draw(
    seed: int,
    epoch: int,
    indices: Sequence[int] | NDArray[np.integer],
    settings: AugmentSettings | None = None,
    turns: Sequence[int] | NDArray[np.integer] | None = None,
    side: int = 256,
) -> Draw:
    """The transforms of some tiles in one epoch.

    Args:
        seed: The training's seed, 0 or more.
        epoch: 0 or more.
        indices: Index of each tile in its store.
        settings: Ranges; None is the default augmentation.
        turns: How often each tile came before in this epoch; None is never.
        side: Of the result in pixels; it decides how many nodes an elastic field has.

    Raises:
        ValueError: A negative seed, epoch, index or turn.

    Example:
        >>> draw(0, 3, [5, 6]).symmetries[1:].tolist() == draw(0, 3, [6]).symmetries.tolist()
        True
        >>> draw(0, 3, [5, 5], turns=[0, 1]).gains.tolist() == draw(0, 3, [5, 5]).gains.tolist()
        False
    """
    chosen = settings or AugmentSettings()
    count = len(indices)
    nodes = math.ceil(side / chosen.elastic_spacing) + 1 if chosen.elastic else 2
    first, rest = np.empty((count, 3)), np.empty((count, _FIXED))
    holes, bends = np.empty((count, HOLES, 4)), np.zeros((count, 2, nodes, nodes))
    seeds = np.empty(count, np.int64)
    for row, index in enumerate(indices):
        turn = 0 if turns is None else int(turns[row])
        # A tile's first turn has the key without it, so that older fits see what they saw.
        key = [seed, epoch, int(index), turn] if turn else [seed, epoch, int(index)]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        first[row], rest[row] = generator.random(3), generator.random(_FIXED)
        holes[row] = generator.random((HOLES, 4))
        seeds[row] = generator.integers(2**62)
        if chosen.elastic:
            bends[row] = generator.uniform(-1, 1, (2, nodes, nodes))
    (
        place_y,
        place_x,
        pick,
        angle,
        scale,
        stretch_y,
        stretch_x,
        gamma,
        noise,
        blur,
        dropped,
        inverted,
    ) = rest.T[:12]
    applied = rest.T[12:] < chosen.chance
    symmetries = (first[:, 0] * len(SYMMETRIES)).astype(np.int64) if chosen.symmetries else np.zeros(count, np.int64)
    if chosen.symmetries == "mirror":
        symmetries = np.where(symmetries >= len(SYMMETRIES) // 2, _MIRRORED, 0)
    return Draw(
        symmetries=symmetries,
        gains=np.where(applied[0], 1 + chosen.contrast * (2 * first[:, 1] - 1), 1).astype(np.float32),
        offsets=np.where(applied[1], chosen.brightness * (2 * first[:, 2] - 1), 0).astype(np.float32),
        places=np.stack([place_y, place_x], axis=1),
        picks=pick,
        matrices=_matrices(chosen, np.stack([angle, scale, stretch_y, stretch_x]), applied[2:5]),
        fields=(np.where(applied[5], chosen.elastic, 0)[:, None, None, None] * bends).astype(np.float32),
        elastic=chosen.elastic,
        gammas=np.where(applied[6], _between(chosen.gamma, gamma), 1).astype(np.float32),
        noises=np.where(applied[7], chosen.noise * noise, 0).astype(np.float32),
        seeds=seeds,
        blurs=np.where(applied[8], chosen.blur * blur, 0).astype(np.float32),
        holes=_rectangles(holes, np.where(applied[9], chosen.dropout * dropped, 0)),
        inverted=inverted < chosen.invert,
        ignore_outside=chosen.outside == "ignore",
    )


def _matrices(
    settings: AugmentSettings, numbers: NDArray[np.float64], applied: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Rotation after magnification by axis, inverted: offsets in the tile from offsets in the result."""
    angle, scale, stretch_y, stretch_x = numbers
    turned = np.where(applied[0], np.deg2rad(settings.rotate) * (2 * angle - 1), 0)
    zoom = np.where(applied[1], _between(settings.scale, scale), 1)
    by_axis = [
        zoom * np.where(applied[2], 1 + settings.stretch * (2 * number - 1), 1) for number in (stretch_y, stretch_x)
    ]
    cosine, sine = np.cos(turned), np.sin(turned)
    rows = [[cosine / by_axis[0], -sine / by_axis[1]], [sine / by_axis[0], cosine / by_axis[1]]]
    return np.array(rows, np.float64).transpose(2, 0, 1)


def _between(limits: tuple[float, float], numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Factors between two limits, halving as often as doubling."""
    low, high = np.log(limits[0]), np.log(limits[1])
    factors: NDArray[np.float64] = np.exp(low + (high - low) * numbers)
    return factors


def _rectangles(numbers: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.float32]:
    """Rectangles of an equal part of the share each, of a side ratio between 1:2 and 2:1."""
    areas = shares[:, None] / HOLES
    heights = np.minimum(np.sqrt(areas) * 2 ** (numbers[..., 2] - 0.5), 1)
    widths = areas / np.maximum(heights, 1e-9)
    corners = [numbers[..., 0] * (1 - heights), numbers[..., 1] * (1 - widths)]
    return np.stack([*corners, heights, widths], axis=-1).astype(np.float32)
