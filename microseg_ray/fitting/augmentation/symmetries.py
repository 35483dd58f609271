"""The 8 symmetries of the square: exact, whatever the type of the pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from microseg_ray.symmetry import SYMMETRIES

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["apply_symmetry"]


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
    if not 0 <= symmetry < len(SYMMETRIES):
        raise ValueError(f"symmetry {symmetry} must be 0 to {len(SYMMETRIES) - 1}")
    if array.dtype == torch.uint16:
        # torch flips no uint16; its bits may as well be int16's.
        return apply_symmetry(array.view(torch.int16), symmetry).view(torch.uint16)
    chosen = SYMMETRIES[symmetry]
    turned = array.transpose(-2, -1) if chosen.transposed else array
    return turned.flip([axis for axis, mirrored in ((-2, chosen.up_down), (-1, chosen.left_right)) if mirrored])
