"""Two-point correlation of classes by direction, counted block by block, and the anisotropy of its length.

S2(h) is the probability that two pixels at the lag h are both of the class (Torquato, Random Heterogeneous Materials, 2002,
section 2.3). It falls from the area fraction p at h = 0 towards p^2. The normalised covariance (S2 - p^2) / (p (1 - p)) falls
from 1 towards 0; its integral along a direction, up to where it first is 0, is the correlation length of that direction (the
integral range in one dimension: Lantuejoul, J. Microscopy 161:387, 1991). The ratio of the longest to the shortest of the four
directions is 1 for an isotropic structure. p is that of the pixels of the pairs, so that lags with few pairs have their own p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.statistics.chords import DIRECTIONS, step_lengths
from microseg_ray.statistics.objects.finding import blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec

__all__ = ["LAGS", "AnisotropyRow", "CorrelationRow", "Pairs", "anisotropy_rows", "correlation_rows", "count_pairs"]

LAGS = (0, 1, 2, 4, 8, 12, 16, 32, 64, 128)
"""In steps from pixel to pixel."""

BLOCK = 1024
_TOWARDS = {"x": (0, 1), "y": (1, 0), "down": (1, 1), "up": (1, -1)}
_ANGLES = {"x": 0.0, "y": 90.0}


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of pixels of one or more masks.

    Attributes:
        counts: (4, lag, K + 1, 2) int64 by direction and lag. Of class k: pairs with both pixels of it, and pixels of it in all
            measured pairs (a pair has two). In the last place: measured pairs, and twice as many pixels.
    """

    counts: NDArray[np.int64]

    def plus(self, other: Pairs) -> Pairs:
        """Of both."""
        return Pairs(self.counts + other.counts)


@dataclass(frozen=True, slots=True)
class CorrelationRow:
    """One class, direction and lag; the columns of correlation.csv."""

    scope: str
    name: str
    unfinished_micrographs: int
    class_index: int
    class_name: str
    direction: str
    unit: str
    lag: float
    lag_px: int
    pair_count: int
    probability: float | None
    normalised_covariance: float | None


@dataclass(frozen=True, slots=True)
class AnisotropyRow:
    """One class; the columns of anisotropy.csv.

    `direction_deg` is that of the longest correlation: 0 along x (to the right), counter-clockwise as displayed.
    """

    scope: str
    name: str
    unfinished_micrographs: int
    class_index: int
    class_name: str
    unit: str
    correlation_length_x: float | None
    correlation_length_y: float | None
    correlation_length_down: float | None
    correlation_length_up: float | None
    anisotropy: float | None
    direction_deg: float | None
    reason: str


def count_pairs(
    shape: tuple[int, int],
    read: Callable[[Box], NDArray[np.uint8]],
    classes: int,
    lags: Sequence[int] = LAGS,
    block: int = BLOCK,
) -> Pairs:
    """Count the pairs of a mask; each is counted in the block of its upper (left) pixel.

    One block with a frame of the longest lag is in memory at a time.

    Args:
        shape: (height, width) of the mask.
        read: Gives the (y, x) uint8 pixels of a box.
        classes: Number of classes K; pairs with another value are not measured.
        lags: Steps from pixel to pixel.
        block: Side of a block.

    Example:
        >>> mask = np.array([[0, 1, 1, 255]], np.uint8)
        >>> found = count_pairs(mask.shape, lambda box: mask[box.slices], 2, lags=(0, 1))
        >>> found.counts[0, 1].tolist()  # of class 0, of class 1, all
        [[0, 1], [1, 3], [2, 4]]
    """
    counts = np.zeros((len(DIRECTIONS), len(lags), classes + 1, 2), np.int64)
    far = max(lags)
    for core in blocks(shape, block):
        frame = Box(core.y0, max(0, core.x0 - far), min(core.y1 + far, shape[0]), min(core.x1 + far, shape[1]))
        _add(counts, read(frame), core.relative_to(frame), lags)
    return Pairs(counts)


def _add(counts: NDArray[np.int64], pixels: NDArray[np.uint8], core: Box, lags: Sequence[int]) -> None:
    """Add the pairs whose first pixel is in the core."""
    classes = counts.shape[2] - 1
    planes = [pixels == index for index in range(classes)]
    measured = pixels < classes
    every = bool(measured.all())
    for place, direction in enumerate(DIRECTIONS):
        down, right = _TOWARDS[direction]
        for number, lag in enumerate(lags):
            y, x = down * lag, right * lag
            y1 = min(core.y1, pixels.shape[0] - y)
            x0, x1 = max(core.x0, -x), min(core.x1, pixels.shape[1] - max(x, 0))
            if y1 <= core.y0 or x1 <= x0:
                continue
            one = (slice(core.y0, y1), slice(x0, x1))
            two = (slice(core.y0 + y, y1 + y), slice(x0 + x, x1 + x))
            cell = counts[place, number]
            both = None if every else measured[one] & measured[two]
            pairs = (y1 - core.y0) * (x1 - x0) if both is None else int(np.count_nonzero(both))
            cell[-1] += (pairs, 2 * pairs)
            for index, plane in enumerate(planes):
                ends = (plane[one], plane[two])
                cell[index, 0] += np.count_nonzero(ends[0] & ends[1])
                # Where all pixels are measured, which is nearly everywhere, nothing is masked.
                cell[index, 1] += sum(np.count_nonzero(end if both is None else end & both) for end in ends)


def correlation_rows(
    scope: str,
    name: str,
    pairs: Pairs,
    classes: Sequence[ClassSpec],
    pixel_size_um: tuple[float, float] | None,
    unfinished: int = 0,
) -> list[CorrelationRow]:
    """The rows of a micrograph or group; lags without a pair are left out."""
    unit, steps = "px" if pixel_size_um is None else "um", step_lengths(pixel_size_um or (1.0, 1.0))
    rows = []
    for index, item in enumerate(classes):
        for place, direction in enumerate(DIRECTIONS):
            for number, lag in enumerate(LAGS):
                total = int(pairs.counts[place, number, -1, 0])
                if not total:
                    continue
                both = int(pairs.counts[place, number, index, 0])
                rows.append(
                    CorrelationRow(
                        scope=scope,
                        name=name,
                        unfinished_micrographs=unfinished,
                        class_index=index,
                        class_name=item.name,
                        direction=direction,
                        unit=unit,
                        lag=lag * steps[direction],
                        lag_px=lag,
                        pair_count=total,
                        probability=both / total,
                        normalised_covariance=_normalised(pairs.counts[place, number], index),
                    )
                )
    return rows


def _normalised(counts: NDArray[np.int64], index: int) -> float | None:
    """(S2 - p^2) / (p (1 - p)); None where the class has no pixel, or all."""
    pairs, pixels = (int(number) for number in counts[-1])
    both, own = (int(number) for number in counts[index])
    if not pairs or own in {0, pixels}:
        return None
    share = own / pixels
    return (both / pairs - share**2) / (share * (1 - share))


def anisotropy_rows(
    scope: str,
    name: str,
    pairs: Pairs,
    classes: Sequence[ClassSpec],
    pixel_size_um: tuple[float, float] | None,
    unfinished: int = 0,
) -> list[AnisotropyRow]:
    """The correlation length of each direction, and the ratio of the longest to the shortest."""
    unit, size = "px" if pixel_size_um is None else "um", pixel_size_um or (1.0, 1.0)
    steps = step_lengths(size)
    slope = math.degrees(math.atan2(size[0], size[1]))
    angles = _ANGLES | {"down": 180.0 - slope, "up": slope}
    rows = []
    for index, item in enumerate(classes):
        lengths: dict[str, float | None] = {}
        reasons = []
        for place, direction in enumerate(DIRECTIONS):
            found, reason = _length(pairs.counts[place], index, LAGS)
            lengths[direction] = None if found is None else found * steps[direction]
            reasons += [reason] if reason else []
        known = {direction: length for direction, length in lengths.items() if length is not None}
        complete = len(known) == len(DIRECTIONS) and not reasons
        longest = max(known, key=known.__getitem__) if complete else None
        rows.append(
            AnisotropyRow(
                scope=scope,
                name=name,
                unfinished_micrographs=unfinished,
                class_index=index,
                class_name=item.name,
                unit=unit,
                correlation_length_x=lengths["x"],
                correlation_length_y=lengths["y"],
                correlation_length_down=lengths["down"],
                correlation_length_up=lengths["up"],
                anisotropy=None if longest is None else known[longest] / min(known.values()),
                direction_deg=None if longest is None else angles[longest],
                reason="; ".join(dict.fromkeys(reasons)),
            )
        )
    return rows


def _length(counts: NDArray[np.int64], index: int, lags: Sequence[int]) -> tuple[float | None, str]:
    """The integral of the normalised covariance up to its first zero, by trapezoids, in steps; and what is wrong with it."""
    total, last_lag, last = 0.0, 0, 1.0
    for number, lag in enumerate(lags):
        if not counts[number, -1, 0]:
            break
        value = _normalised(counts[number], index)
        if value is None:
            return None, "no pixel of the class, or no other one: nothing is correlated"
        if value <= 0:
            # The line between the two lags crosses zero here.
            crossing = (lag - last_lag) * last / (last - value)
            return total + crossing * last / 2, ""
        total += (lag - last_lag) * (last + value) / 2
        last_lag, last = lag, value
    return total, f"still correlated at {last_lag} px: the correlation length is longer than this"
