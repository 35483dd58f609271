"""Intensities as a model sees them: training and prediction both scale by these functions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["model_input", "scale_intensities"]

_WIDE = (torch.uint32, torch.int32, torch.int64, torch.float64)


def scale_intensities(images: Tensor, limits: tuple[float, float] | Tensor) -> Tensor:
    """Intensities as the numbers that a model sees: (value - low) / (high - low) as float32, not clipped.

    32-bit integers are scaled in float64 and rounded once, the others in float32.

    Training and prediction both use this.

    Args:
        images: (n, c, y, x) of any real type.
        limits: One (low, high) for all, or a tensor (n, 2) with those of each image.

    Raises:
        ValueError: low is not below high, as for a blank micrograph under percentile scaling.

    Example:
        >>> scale_intensities(torch.full((1, 1, 1, 1), 51, dtype=torch.uint8), (0, 255)).item()
        0.20000000298023224
    """
    # float32 holds whole numbers up to 2^24 only: differences of larger ones are taken first, then rounded.
    exact = torch.float64 if images.dtype in _WIDE else torch.float32
    if isinstance(limits, tuple):
        low, high = limits
        if not low < high:
            raise ValueError(f"intensity limits ({low}, {high}): low must be below high; is the micrograph blank?")
        return images.to(exact).sub(low).div_(high - low).to(torch.float32)
    each = limits.to(device=images.device, dtype=exact)
    if each.shape != (len(images), 2):
        raise ValueError(f"intensity limits of shape {tuple(each.shape)}: {len(images)} images need ({len(images)}, 2)")
    if not bool((each[:, 0] < each[:, 1]).all()):
        raise ValueError(f"intensity limits {each.tolist()}: low must be below high; is a micrograph blank?")
    lows, highs = each[:, 0, None, None, None], each[:, 1, None, None, None]
    return images.to(exact).sub(lows).div_(highs - lows).to(torch.float32)


def model_input(images: Tensor, limits: tuple[float, float] | Tensor, clahe: float | None = None) -> Tensor:
    """Tiles as a model sees them: scaled and, where asked for, equalised each by itself.

    Training and prediction both use this.

    Args:
        images: (n, c, y, x) of any real type.
        limits: As in `scale_intensities`.
        clahe: Clip limit in (0, 1] of a contrast-limited adaptive histogram equalisation of each channel of each tile,
            over regions of an eighth of the tile's side, on the CPU; scaled values are clipped to 0 to 1 for it. What
            comes out depends on the tile and not on the pixel alone, so no halo makes stitching exact. None: left out.

    Returns:
        float32 (n, c, y, x).

    Raises:
        ValueError: low is not below high.

    Example:
        >>> tile = torch.tensor([[10, 11], [12, 13]], dtype=torch.uint8).reshape(1, 1, 2, 2)
        >>> model_input(tile, (0, 100)).max() < 0.2, model_input(tile, (0, 100), clahe=0.5).max()
        (tensor(True), tensor(1.))
    """
    scaled = scale_intensities(images, limits)
    if clahe is None:
        return scaled
    from skimage.exposure import equalize_adapthist

    planes = scaled.clamp(0, 1).cpu().numpy()
    equalised = np.empty_like(planes)
    for place in np.ndindex(*planes.shape[:2]):
        equalised[place] = equalize_adapthist(planes[place], clip_limit=clahe)
    return torch.from_numpy(equalised).to(scaled.device)
