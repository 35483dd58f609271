"""Augmentation of training tiles: the 8 symmetries of the square and a small change of brightness and contrast.

Stateless: what happens to a tile depends on (seed, epoch, index of the tile) alone. A resumed run, another number of
workers or another order of the batches gives each tile the same transform.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["SYMMETRIES", "Draw", "apply_symmetry", "augment", "draw", "inverse_symmetry"]

SYMMETRIES = 8
"""Number `s` of the square's symmetries: mirrored in x where s >= 4, then turned by (s % 4) quarter turns."""


@dataclass(frozen=True)
class Draw:
    """What happens to each tile of a batch.

    Attributes:
        symmetries: int64 (n,), 0 to 7.
        gains: float32 (n,), factors of the scaled intensities.
        offsets: float32 (n,), added after the gain.
    """

    symmetries: NDArray[np.int64]
    gains: NDArray[np.float32]
    offsets: NDArray[np.float32]


def draw(
    seed: int, epoch: int, indices: Sequence[int] | NDArray[np.integer], gain: float = 0.0, offset: float = 0.0
) -> Draw:
    """The transforms of some tiles in one epoch.

    Args:
        seed: The training's seed, 0 or more.
        epoch: 0 or more.
        indices: Index of each tile in its store.
        gain: Factors are uniform in 1 - gain to 1 + gain.
        offset: Offsets are uniform in -offset to +offset.

    Raises:
        ValueError: A negative seed, epoch or index, a gain outside 0 to 1, or a negative offset.

    Example:
        >>> draw(0, 3, [5, 6]).symmetries[1:].tolist() == draw(0, 3, [6]).symmetries.tolist()
        True
    """
    if not 0 <= gain < 1 or not offset >= 0:
        raise ValueError(f"gain {gain} must be at least 0 and below 1, offset {offset} at least 0")
    numbers = np.empty((len(indices), 3))
    for row, index in enumerate(indices):
        stream = np.random.SeedSequence([seed, epoch, int(index)])
        numbers[row] = np.random.Generator(np.random.Philox(stream)).random(3)
    gains = 1 + gain * (2 * numbers[:, 1] - 1)
    offsets = offset * (2 * numbers[:, 2] - 1)
    symmetries = (numbers[:, 0] * SYMMETRIES).astype(np.int64)
    return Draw(symmetries, gains.astype(np.float32), offsets.astype(np.float32))


def augment(images: Tensor, masks: Tensor, drawn: Draw) -> tuple[Tensor, Tensor]:
    """Transform images and their masks alike; only the images change in brightness.

    Args:
        images: (n, c, y, x); scaled floats where gains or offsets were drawn.
        masks: (n, y, x).
        drawn: From `draw`, for these n tiles.

    Returns:
        New tensors of the same shapes and types.

    Raises:
        ValueError: Sizes do not match, tiles are not square, or integers with a gain or offset.

    Example:
        >>> images, masks = augment(torch.rand(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8), draw(0, 0, [4, 9], 0.1))
        >>> images.shape, masks.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 8, 8]))
    """
    if images.ndim != 4 or images.shape[-1] != images.shape[-2] or masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"images of shape {tuple(images.shape)} and masks of {tuple(masks.shape)}: square tiles (n, c, y, x) and (n, y, x)"
        )
    if len(drawn.symmetries) != len(images):
        raise ValueError(f"{len(drawn.symmetries)} transforms for {len(images)} tiles")
    turned, labels = torch.empty_like(images), torch.empty_like(masks)
    for place, symmetry in enumerate(drawn.symmetries.tolist()):
        turned[place] = apply_symmetry(images[place], symmetry)
        labels[place] = apply_symmetry(masks[place], symmetry)
    if (drawn.gains != 1).any() or (drawn.offsets != 0).any():
        if not images.is_floating_point():
            raise ValueError(f"images of {images.dtype}: scale intensities to floats before changing their brightness")
        gains, offsets = (
            torch.from_numpy(values).to(images.device, images.dtype)[:, None, None, None]
            for values in (drawn.gains, drawn.offsets)
        )
        turned.mul_(gains).add_(offsets)
    return turned, labels


def apply_symmetry(array: Tensor, symmetry: int) -> Tensor:
    """One of the 8 symmetries, applied to the last two axes (y, x); odd ones swap the two sides.

    Args:
        array: (..., y, x) of any type.
        symmetry: 0 (identity) to 7; see `SYMMETRIES`.

    Raises:
        ValueError: No such symmetry.

    Example:
        >>> apply_symmetry(torch.tensor([[1, 2], [3, 4]]), 1).tolist()
        [[2, 4], [1, 3]]
        >>> apply_symmetry(torch.tensor([[1, 2], [3, 4]]), 4).tolist()
        [[2, 1], [4, 3]]
    """
    if not 0 <= symmetry < SYMMETRIES:
        raise ValueError(f"symmetry {symmetry} must be 0 to {SYMMETRIES - 1}")
    if array.dtype == torch.uint16:
        # torch flips no uint16; its bits may as well be int16's.
        return apply_symmetry(array.view(torch.int16), symmetry).view(torch.uint16)
    mirrored = array.flip(-1) if symmetry >= 4 else array
    return torch.rot90(mirrored, symmetry % 4, dims=(-2, -1))


def inverse_symmetry(symmetry: int) -> int:
    """The symmetry that undoes another one.

    Raises:
        ValueError: No such symmetry.

    Example:
        >>> [inverse_symmetry(symmetry) for symmetry in range(8)]
        [0, 3, 2, 1, 4, 5, 6, 7]
    """
    if not 0 <= symmetry < SYMMETRIES:
        raise ValueError(f"symmetry {symmetry} must be 0 to {SYMMETRIES - 1}")
    # A mirror image turned by a quarter is a mirror image again, which is its own inverse.
    return symmetry if symmetry >= 4 else -symmetry % 4
