"""A drawn augmentation applied to images and masks."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from microseg_ray.fitting.augmentation.movement import move
from microseg_ray.fitting.augmentation.symmetries import apply_symmetry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from microseg_ray.fitting.augmentation.draws import Draw

__all__ = ["augment", "relight"]

_LEAST_BLUR = 0.1
"""Sigmas below this change nothing that a pixel could show."""


def augment(
    images: Tensor,
    masks: Tensor,
    drawn: Draw,
    side: int | None = None,
    targets: NDArray[np.float64] | None = None,
) -> tuple[Tensor, Tensor]:
    """Transform images and their masks alike; only the images change in brightness.

    Args:
        images: (n, c, y, x); scaled floats where more than symmetries and crops were drawn.
        masks: (n, y, x).
        drawn: From `draw`, for these n tiles.
        side: Of the result; None keeps the tiles' side.
        targets: Pixels that the crops should hold, from `aim`.

    Returns:
        New tensors of the same types, (n, c, side, side) and (n, side, side). No pixel of them comes from outside the
        tile, unless `outside: ignore` was drawn; then its mask is 255.

    Raises:
        ValueError: Sizes do not match, tiles are not square or smaller than the side, or integers with a change that needs
            floats.

    Example:
        >>> from microseg_ray.fitting.augmentation.draws import draw
        >>> images, masks = augment(torch.rand(2, 1, 8, 8), torch.zeros(2, 8, 8, dtype=torch.uint8), draw(0, 0, [4, 9]))
        >>> images.shape, masks.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 8, 8]))
    """
    if images.ndim != 4 or images.shape[-1] != images.shape[-2] or masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(
            f"images of shape {tuple(images.shape)} and masks of {tuple(masks.shape)}: square tiles (n, c, y, x) and (n, y, x)"
        )
    if len(drawn) != len(images):
        raise ValueError(f"{len(drawn)} transforms for {len(images)} tiles")
    wanted = images.shape[-1] if side is None else side
    if not 0 < wanted <= images.shape[-1]:
        raise ValueError(f"crops of {wanted} px out of tiles of {images.shape[-1]} px: crops must not be larger")
    images, masks = move(images, masks, drawn, wanted, targets)
    turned, labels = torch.empty_like(images), torch.empty_like(masks)
    for place, symmetry in enumerate(drawn.symmetries.tolist()):
        turned[place] = apply_symmetry(images[place], symmetry)
        labels[place] = apply_symmetry(masks[place], symmetry)
    if _looks_change(drawn):
        if not images.is_floating_point():
            raise ValueError(f"images of {images.dtype}: scale intensities to floats before changing their brightness")
        turned = relight(turned, drawn)
    return turned, labels


def _looks_change(drawn: Draw) -> bool:
    return bool(
        (drawn.gains != 1).any()
        or (drawn.gammas != 1).any()
        or drawn.inverted.any()
        or any(part.any() for part in (drawn.offsets, drawn.noises, drawn.blurs, drawn.holes[..., 2:]))
    )


def relight(images: Tensor, drawn: Draw) -> Tensor:
    """Contrast and brightness, gamma, blur, noise, holes, inversion: as light, lens, sensor and print follow.

    Args:
        images: float (n, c, y, x), moved already; may be changed in place.
        drawn: Of these n images.

    Example:
        >>> from microseg_ray.fitting.augmentation.draws import draw
        >>> from microseg_ray.settings import AugmentSettings
        >>> relight(torch.zeros(1, 1, 1, 1), draw(0, 0, [0], AugmentSettings(invert=1, brightness=0))).item()
        1.0
    """

    def column(values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(images.device, images.dtype)[:, None, None, None]

    if (drawn.gains != 1).any() or drawn.offsets.any():
        images.mul_(column(drawn.gains)).add_(column(drawn.offsets))
    if (drawn.gammas != 1).any():
        # Intensities need not lie in 0 to 1 (percentile scaling); a power of a negative one would be nan.
        bright = images.clamp(min=torch.finfo(images.dtype).tiny) ** column(drawn.gammas)
        images = torch.where(images > 0, bright, images)
    if (drawn.blurs > _LEAST_BLUR).any():
        images = _blurred(images, drawn)
    for row in drawn.noises.nonzero()[0]:
        generator = torch.Generator(images.device).manual_seed(int(drawn.seeds[row]))
        noise = torch.randn(images[row].shape, generator=generator, device=images.device, dtype=images.dtype)
        images[row].add_(noise, alpha=float(drawn.noises[row]))
    if drawn.holes[..., 2:].any():
        images = torch.where(_covered(images, drawn), images.mean(dim=(2, 3), keepdim=True), images)
    if drawn.inverted.any():
        images = torch.where(column(drawn.inverted) > 0, 1 - images, images)
    return images


def _blurred(images: Tensor, drawn: Draw) -> Tensor:
    from kornia.filters import gaussian_blur2d

    for row in (drawn.blurs > _LEAST_BLUR).nonzero()[0]:
        sigma = float(drawn.blurs[row])
        # kornia mirrors at the border, which needs a kernel no wider than the tile.
        width = min(2 * math.ceil(3 * sigma) + 1, 2 * ((images.shape[-1] - 1) // 2) + 1)
        images[row] = gaussian_blur2d(images[row : row + 1], width, (sigma, sigma))[0]
    return images


def _covered(images: Tensor, drawn: Draw) -> Tensor:
    """Whether a pixel lies in a hole: bool (n, 1, y, x)."""
    side = images.shape[-1]
    holes = torch.from_numpy(drawn.holes).to(images.device) * side
    at = torch.arange(side, device=images.device) + 0.5
    along = [
        (at >= holes[..., axis, None]) & (at < (holes[..., axis] + holes[..., axis + 2])[..., None]) for axis in (0, 1)
    ]
    # One hole at a time: all planes at once would be eight images of memory.
    inside = torch.zeros((len(images), side, side), dtype=torch.bool, device=images.device)
    for hole in range(holes.shape[1]):
        inside |= along[0][:, hole, :, None] & along[1][:, hole, None, :]
    return inside.unsqueeze(1)
