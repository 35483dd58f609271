"""The 8 symmetries of the square: exact, whatever the type of the pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SYMMETRIES", "apply_symmetry", "inverse_symmetry"]

SYMMETRIES = 8
"""Number `s` of the square's symmetries: mirrored in x where s >= 4, then turned by (s % 4) quarter turns."""


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
