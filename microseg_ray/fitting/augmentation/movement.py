"""Where pixels go: crops, rotation, magnification and elastic fields as one resampling of image and mask.

Offsets from the middle of the result go through a matrix to offsets in the tile; the elastic field is added there. The
whole result lies inside the tile: where rotation or magnification would reach beyond it, the result is magnified until it
does not (with tiles of at least 1.42 times the crop every angle is possible without). The image is read bilinearly, the
mask at the nearest pixel, so that no new label appears.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from microseg_ray.fitting.augmentation.draws import Draw

__all__ = ["aim", "move"]

_LARGEST_BEND = 0.25
"""Elastic displacements reach no further than this share of the tile's half side."""


def aim(masks: NDArray[np.uint8], focus: NDArray[np.int64], drawn: Draw) -> NDArray[np.float64]:
    """The pixel that each crop should hold.

    Args:
        masks: (n, y, x) of the whole tiles.
        focus: int64 (n,), a class, or -1 where any crop will do.
        drawn: `picks` choose the pixel.

    Returns:
        float64 (n, 2), y and x of a pixel of the class; nan where there is nothing to aim at.

    Example:
        >>> from microseg_ray.fitting.augmentation.draws import draw
        >>> masks = np.zeros((2, 4, 4), np.uint8)
        >>> masks[0, 1, 2] = 3
        >>> aim(masks, np.array([3, -1]), draw(0, 0, [0, 1])).tolist()
        [[1.0, 2.0], [nan, nan]]
    """
    targets = np.full((len(masks), 2), np.nan)
    for row, wanted in enumerate(focus):
        if wanted >= 0:
            found = np.flatnonzero(masks[row] == wanted)
            if found.size:
                targets[row] = np.unravel_index(found[int(drawn.picks[row] * found.size)], masks[row].shape)
    return targets


def move(
    images: Tensor, masks: Tensor, drawn: Draw, side: int, targets: NDArray[np.float64] | None = None
) -> tuple[Tensor, Tensor]:
    """Crops of tiles, turned, magnified and bent.

    Args:
        images: float (n, c, y, x), square tiles; any type where nothing is resampled.
        masks: uint8 (n, y, x).
        drawn: Of these n tiles.
        side: Of the crops, at most that of the tiles.
        targets: Pixels that the crops should hold, from `aim`; a rotated crop cannot reach the tile's very corners.

    Returns:
        Images (n, c, side, side) and masks (n, side, side).

    Example:
        >>> from microseg_ray.fitting.augmentation.draws import draw
        >>> from microseg_ray.settings import AugmentSettings
        >>> drawn = draw(0, 0, [0], AugmentSettings(rotate=180), side=8)
        >>> image, mask = move(torch.ones(1, 1, 12, 12), torch.ones(1, 12, 12, dtype=torch.uint8), drawn, 8)
        >>> image.shape, round(image.min().item(), 3), mask.unique().tolist()
        (torch.Size([1, 1, 8, 8]), 1.0, [1])
    """
    whole = images.shape[-1]
    still = _still(drawn)
    if still.all() and whole == side and targets is None:
        return images, masks
    matrices, bends, centres = _inside(drawn, side, whole, targets)
    crops = images.new_empty((*images.shape[:2], side, side))
    labels = masks.new_empty((len(masks), side, side))
    # Crops of whole pixels are copied: nothing is blurred that need not be.
    for row in np.flatnonzero(still):
        top, left = (int(np.floor(value - (side - 1) / 2 + 0.5)) for value in centres[row])
        crops[row] = images[row, :, top : top + side, left : left + side]
        labels[row] = masks[row, top : top + side, left : left + side]
    moved = np.flatnonzero(~still)
    if moved.size:
        rows = torch.from_numpy(moved).to(images.device)
        at = _positions(matrices[moved], centres[moved], bends, drawn.fields[moved], side).to(images.device)
        crops[rows], labels[rows] = _sampled(images[rows], masks[rows], at, drawn.ignore_outside)
    return crops, labels


def _still(drawn: Draw) -> NDArray[np.bool_]:
    """Which tiles are not resampled."""
    plain: NDArray[np.bool_] = (drawn.matrices == np.eye(2)).all(axis=(1, 2)) & (drawn.fields == 0).all(axis=(1, 2, 3))
    return plain


def _inside(
    drawn: Draw, side: int, whole: int, targets: NDArray[np.float64] | None
) -> tuple[NDArray[np.float64], float, NDArray[np.float64]]:
    """Matrices, a factor of the elastic fields, and centres (n, 2), so that every position lies inside the tile."""
    half, limit = (side - 1) / 2, (whole - 1) / 2
    allowed = _LARGEST_BEND * limit
    bends = min(1.0, allowed / drawn.elastic) if drawn.elastic else 1.0
    bent = np.abs(drawn.fields).max(axis=(2, 3)) * bends
    reach = np.abs(drawn.matrices).sum(axis=2) * half
    excess = np.maximum((reach / np.maximum(limit - bent, 1e-9)).max(axis=1), 1)
    if drawn.ignore_outside:
        excess = np.ones_like(excess)
    matrices = drawn.matrices / excess[:, None, None]
    reach = reach / excess[:, None]
    free = np.maximum(limit - bent - reach, 0)
    # The middle of each of whole - side + 1 equal parts is a crop of whole pixels.
    choices = np.floor(drawn.places * (2 * free + 1)) - free
    still = _still(drawn)[:, None]
    centres = limit + np.where(still, choices, (2 * drawn.places - 1) * free)
    if targets is not None:
        # Within .6 of the half side of the pixel, in any direction, the crop holds it whatever its angle.
        near = targets + (2 * drawn.places - 1) * 0.6 * half / np.linalg.norm(drawn.matrices, 2, axis=(1, 2))[:, None]
        near = np.where(still, np.round(near - half) + half, near)
        aimed = np.clip(near, limit - free, limit + free)
        centres = np.where(np.isnan(targets), centres, aimed)
    return matrices, bends, centres


def _positions(
    matrices: NDArray[np.float64],
    centres: NDArray[np.float64],
    bends: float,
    fields: NDArray[np.float32],
    side: int,
) -> Tensor:
    """Where each pixel of the results is read: float32 (n, side, side, 2), y and x in pixels of the tile."""
    steps = torch.arange(side, dtype=torch.float32) - (side - 1) / 2
    offsets = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1)
    matrix = torch.from_numpy(matrices.astype(np.float32))
    at = torch.einsum("nij,yxj->nyxi", matrix, offsets)
    at += torch.from_numpy(centres.astype(np.float32))[:, None, None]
    if fields.any():
        nodes = torch.from_numpy(fields * np.float32(bends))
        field = F.interpolate(nodes, size=(side, side), mode="bicubic", align_corners=True)
        # Splines overshoot their nodes.
        most = nodes.abs().amax(dim=(2, 3), keepdim=True)
        at += torch.minimum(torch.maximum(field, -most), most).movedim(1, -1)
    return at


def _sampled(images: Tensor, masks: Tensor, at: Tensor, ignore_outside: bool) -> tuple[Tensor, Tensor]:
    whole = images.shape[-1]
    # grid_sample wants x before y, -1 to 1 from the first pixel's middle to the last one's.
    grid = at.flip(-1) * (2 / max(whole - 1, 1)) - 1
    padding = "reflection" if ignore_outside else "border"
    crops = F.grid_sample(images, grid.to(images.dtype), mode="bilinear", padding_mode=padding, align_corners=True)
    # 32 bits until the look-up: an order of magnitude faster on a CPU than 64.
    rows, columns = (at[..., axis].round().to(torch.int32) for axis in (0, 1))
    outside = ((rows < 0) | (rows >= whole) | (columns < 0) | (columns >= whole)) if ignore_outside else None
    flat = rows.clamp_(0, whole - 1).mul_(whole).add_(columns.clamp_(0, whole - 1))
    labels = masks.flatten(1).gather(1, flat.flatten(1).long()).view(flat.shape)
    if outside is not None:
        labels = labels.masked_fill(outside, IGNORE_INDEX)
    return crops, labels
