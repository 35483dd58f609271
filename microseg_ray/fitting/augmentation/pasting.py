"""Copies of rare objects: a connected part of a rare class is pasted from one tile into another.

Ghiasi et al.: Simple copy-paste is a strong data augmentation method for instance segmentation (CVPR 2021), whose finding that
plain pasting needs no blending is used. What is pasted into a tile is a function of (seed, epoch, tile, how often it came
before) and of the store, and not of the other tiles of its batch: so the number of workers changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from microseg_ray.fitting.augmentation.symmetries import apply_symmetry
from microseg_ray.symmetry import SYMMETRIES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    Read = Callable[[int], tuple[Tensor, Tensor]]

__all__ = ["part_at", "paste_objects"]

_STREAM = 3
"""Separates these random numbers from those of the other augmentation and of the masks of `pretrain`."""
_LARGEST = 0.25
"""A part that covers more of its tile than this is a phase and no object."""


def paste_objects(
    images: Tensor,
    masks: Tensor,
    keys: Sequence[tuple[int, int, int, int]],
    counts: NDArray[np.int64],
    chance: float,
    read: Read,
) -> None:
    """Paste an object of a rare class into some of the tiles, in place.

    The class is one of all that have training pixels, less the most frequent, with equal odds; the tile that gives the object
    one of all that have such pixels; the object the connected part (with diagonals) at one of these pixels, if it covers no
    more than a quarter of its tile. It is turned or mirrored, and put where it fits.

    Args:
        images: float (n, c, y, x), scaled square tiles.
        masks: uint8 (n, y, x).
        keys: Seed, epoch, tile, and how often the tile came before, of each of these tiles.
        counts: int64 (tile, class), pixels of the tiles that may give objects.
        chance: Share of the tiles that get an object.
        read: From a row of `counts` to its image (c, y, x) and mask (y, x), of the same kinds as the tiles.

    Example:
        >>> images, masks = torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)
        >>> giver = torch.full((1, 4, 4), 0.5), torch.zeros(4, 4, dtype=torch.uint8)
        >>> giver[1][0, :2] = 1
        >>> paste_objects(images, masks, [(0, 0, 7, 0)], np.array([[14, 2]]), 1.0, lambda _: giver)
        >>> images.sum().item(), masks.sum().item()
        (1.0, 2)
    """
    pixels = counts.sum(axis=0)
    rare = np.flatnonzero((pixels > 0) & (np.arange(len(pixels)) != pixels.argmax()))
    if not rare.size:
        return
    for row, key in enumerate(keys):
        generator = np.random.default_rng(np.random.SeedSequence([*key, _STREAM]))
        if generator.random() >= chance:
            continue
        wanted = int(generator.choice(rare))
        image, mask = read(int(generator.choice(np.flatnonzero(counts[:, wanted]))))
        part = part_at((mask == wanted).cpu().numpy(), float(generator.random()))
        if part.any() and part.sum() <= _LARGEST * part.size:
            _paste(images[row], masks[row], (image, part, wanted), generator)


def part_at(of_class: NDArray[np.bool_], pick: float) -> NDArray[np.bool_]:
    """The connected part, with diagonals, at one of the pixels of a class.

    Args:
        of_class: bool (y, x).
        pick: 0 to 1, which of the pixels.

    Example:
        >>> part_at(np.array([[True, False, True], [False, True, False], [False, False, False]]), 0.0).sum()
        np.int64(3)
    """
    from scipy.ndimage import label

    found = np.flatnonzero(of_class)
    if not found.size:
        return of_class
    parts, _ = label(of_class, structure=np.ones((3, 3)))
    chosen: NDArray[np.bool_] = parts == parts.flat[found[min(int(pick * found.size), found.size - 1)]]
    return chosen


def _paste(
    image: Tensor, mask: Tensor, given: tuple[Tensor, NDArray[np.bool_], int], generator: np.random.Generator
) -> None:
    """Put a part of one tile into another, turned or mirrored, at a random place."""
    pixels, part, wanted = given
    rows, columns = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
    inside = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    symmetry = int(generator.integers(len(SYMMETRIES)))
    shape = apply_symmetry(torch.from_numpy(part[inside]), symmetry).to(mask.device)
    moved = apply_symmetry(pixels[(slice(None), *inside)], symmetry)
    y0, x0 = (int(generator.integers(whole - own + 1)) for whole, own in zip(mask.shape, shape.shape, strict=True))
    place = slice(y0, y0 + shape.shape[0]), slice(x0, x0 + shape.shape[1])
    image[(slice(None), *place)] = torch.where(shape, moved, image[(slice(None), *place)])
    mask[place] = torch.where(shape, torch.full_like(mask[place], wanted), mask[place])
