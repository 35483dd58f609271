"""What is hidden of a crop, what is to be predicted there, and how wrong a prediction is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from microseg_ray.fitting.losses.pixels import Loss, ratio

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = ["Reconstruction", "hidden_blocks", "hide", "targets"]

_STREAM = 2
"""Separates the random numbers of the masks from those of the augmentation, which has (seed, epoch, tile, turn)."""
_EPS = 1e-5
"""Added to a square's variance: about that of a deviation of one gray level of 256, below which there is only noise."""


def hidden_blocks(
    key: tuple[int, int], tiles: NDArray[np.int64], turns: NDArray[np.int64], blocks: int, share: float
) -> Tensor:
    """Which squares of each tile are hidden: a function of (seed, epoch, tile, turn) alone.

    Args:
        key: Seed and epoch.
        tiles: int64 (n,), index of each tile in its store.
        turns: int64 (n,), how often each came before in this epoch.
        blocks: Squares a side.
        share: Share of the squares that are hidden; at least one is hidden and one is not.

    Returns:
        bool (n, blocks, blocks).

    Example:
        >>> hidden = hidden_blocks((0, 0), np.array([4, 5]), np.array([0, 0]), blocks=4, share=0.5)
        >>> hidden.sum(dim=(1, 2)).tolist(), torch.equal(hidden[0], hidden[1])
        ([8, 8], False)
    """
    count = min(max(1, round(share * blocks**2)), blocks**2 - 1)
    hidden = np.zeros((len(tiles), blocks**2), bool)
    for row, (tile, turn) in enumerate(zip(tiles.tolist(), turns.tolist(), strict=True)):
        generator = np.random.default_rng(np.random.SeedSequence([*key, tile, turn, _STREAM]))
        hidden[row, generator.permutation(blocks**2)[:count]] = True
    return torch.from_numpy(hidden.reshape(-1, blocks, blocks))


def hide(images: Tensor, hidden: Tensor, block: int) -> Tensor:
    """Images whose hidden squares have the mean of the pixels that can be seen, channel by channel.

    Args:
        images: float (n, c, side, side).
        hidden: bool (n, blocks, blocks), of `ceil(side / block)` squares a side; the last ones may be cut off.
        block: Side of a square in px.

    Example:
        >>> images = torch.arange(16.0).reshape(1, 1, 4, 4)
        >>> hide(images, torch.tensor([[[True, False], [False, False]]]), block=2)[0, 0, 0].double().round(decimals=2).tolist()
        [9.17, 9.17, 2.0, 3.0]
    """
    covered = _pixels(hidden, block, images.shape[-1])
    seen = (~covered).to(images.dtype)
    mean = (images * seen).sum(dim=(2, 3), keepdim=True) / seen.sum(dim=(2, 3), keepdim=True).clamp(min=1)
    return torch.where(covered, mean, images)


def targets(images: Tensor, hidden: Tensor, block: int) -> Tensor:
    """What is to be predicted: each hidden square less its mean, divided by its standard deviation; nan elsewhere.

    So a square counts by its structure and not by its brightness or contrast, and predicting nothing costs 1.

    Args:
        images: float (n, c, side, side), before anything was hidden.
        hidden: As in `hide`.
        block: As in `hide`.

    Example:
        >>> images = torch.tensor([[0.0, 1.0, 0.5, 0.5], [0.0, 1.0, 0.5, 0.5]]).reshape(1, 1, 2, 4).repeat(1, 1, 2, 1)
        >>> targets(images, torch.tensor([[[True, False], [False, True]]]), block=2)[0, 0, :2].round(decimals=2).tolist()
        [[-1.0, 1.0, nan, nan], [-1.0, 1.0, nan, nan]]
    """
    side = images.shape[-1]

    def by_square(values: Tensor) -> Tensor:
        means = F.avg_pool2d(values, block, ceil_mode=True, count_include_pad=False)
        return _repeated(means, block, side)

    centred = images - by_square(images)
    scaled = centred / (by_square(centred**2) + _EPS).sqrt()
    return torch.where(_pixels(hidden, block, side), scaled, math.nan)


class Reconstruction(Loss):
    """The mean squared error of the pixels that have a target.

    Example:
        >>> loss = Reconstruction()
        >>> loss(torch.zeros(1, 1, 1, 3), torch.tensor([[[[1.0, -2.0, torch.nan]]]])).item()
        2.5
    """

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """The summed squares and the number of pixels: float32 (2,).

        Args:
            logits: float (n, c, y, x), the prediction.
            target: float (n, c, y, x); nan where there is nothing to predict.
        """
        wanted = ~target.isnan()
        error = torch.where(wanted, logits.float() - target, 0.0)
        return torch.stack([(error**2).sum(), wanted.sum().float()])

    def value(self, sums: Tensor) -> Tensor:
        """The mean of the squares."""
        return ratio(sums[0], sums[1])


def _pixels(hidden: Tensor, block: int, side: int) -> Tensor:
    """Squares as pixels: (n, 1, side, side)."""
    return _repeated(hidden[:, None], block, side)


def _repeated(values: Tensor, block: int, side: int) -> Tensor:
    return values.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)[..., :side, :side]
