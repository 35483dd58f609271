"""From logits to classes: the largest logit, the lower class on a tie, and never a class for NaN or infinity."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from microseg_ray.errors import MicrosegError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "LARGEST_FLOAT",
    "MOST_UNROLLED",
    "NOT_FINITE",
    "LargestClass",
    "checked",
    "finite",
    "largest",
    "own_classes",
]

NOT_FINITE = 255
"""In place of a class where a logit is NaN or infinite; there are at most 255 classes, so none has this index."""

MOST_UNROLLED = 8
"""With more classes `LargestClass` is no faster than `largest`."""

LARGEST_FLOAT = 3e38
"""Sums of logits beyond it are taken for infinite."""

_STRIP_PIXELS = 1 << 16
"""Pixels whose logits are compared at once on the CPU: few enough to stay in its cache."""


class LargestClass(nn.Module):
    """Logits to classes as a graph for a compiler: elementwise operations only, unrolled over the classes.

    Compiled by OpenVINO in float32: 1.1 ms a megapixel of 4 classes, `largest` 5 to 8.

    Example:
        >>> logits = torch.tensor([[1.0, 2.0, float("nan")], [1.0, 3.0, 0.0]]).reshape(1, 2, 1, 3)
        >>> LargestClass()(logits)
        tensor([[[  0,   1, 255]]], dtype=torch.uint8)
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Logits (n, K, y, x) to classes uint8 (n, y, x), with `NOT_FINITE` where a logit is not finite.

        Example:
            >>> LargestClass().forward(torch.zeros(1, 2, 1, 1)).item()
            0
        """
        first, *others = logits.unbind(1)
        best, chosen, total = first, torch.zeros_like(first), first.abs()
        for index, other in enumerate(others, 1):
            chosen = torch.where(other > best, float(index), chosen)
            best = torch.maximum(best, other)
            total = total + other.abs()
        # A comparison with NaN is false.
        return torch.where(total <= LARGEST_FLOAT, chosen, float(NOT_FINITE)).to(torch.uint8)


def checked(classes: Tensor, logits: Tensor) -> Tensor:
    """The classes that a compiled `LargestClass` gave for these logits, none of which is `NOT_FINITE`.

    Raises:
        MicrosegError: A logit is NaN or infinite, or so large that their sum is.

    Example:
        >>> logits = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)
        >>> checked(LargestClass()(logits), logits).item()
        1
    """
    if bool((classes == NOT_FINITE).any()):
        finite(logits)
        raise MicrosegError("logits too large to be added up; train the model with weight decay")
    return classes


def finite(logits: Tensor) -> Tensor:
    """The logits, which are all finite: NaN is larger than nothing, so that it would become class 0.

    Raises:
        MicrosegError: One is not.

    Example:
        >>> finite(torch.tensor([[1.0, 2.0]]))
        tensor([[1., 2.]])
    """
    # One sum in place of a mask of all logits; a finite sum has finite terms only.
    if not bool(torch.isfinite(logits.sum())) and not bool(torch.isfinite(logits).all()):
        bad = int((~torch.isfinite(logits)).any(dim=1).sum())
        raise MicrosegError(
            f"the model's output is NaN or infinite in {bad} pixels of a batch, which belong to no class: the micrograph "
            "holds such values, or values too large for the model; look at it with `microseg info`"
        )
    return logits


def largest(logits: Tensor) -> Tensor:
    """The class with the largest logit, uint8 (n, y, x); the lower class on a tie.

    On the CPU a running maximum over strips that stay in the cache, 3 to 30 times faster than `argmax`
    (class-first argmax: 110 ms a megapixel of 4 classes; this: 5).

    Example:
        >>> largest(torch.tensor([1.0, 3.0, 3.0]).reshape(1, 3, 1, 1)).item()
        1
    """
    if logits.device.type != "cpu":
        return logits.argmax(dim=1).to(torch.uint8)
    count, classes, height, width = logits.shape
    masks = torch.zeros((count, height, width), dtype=torch.uint8)
    rows = max(1, _STRIP_PIXELS // max(width, 1))
    for image, mask in zip(logits, masks, strict=True):
        for top in range(0, height, rows):
            strip = image[:, top : top + rows].contiguous()
            best, chosen = strip[0].clone(), mask[top : top + rows]
            larger = torch.empty_like(best, dtype=torch.bool)
            for index in range(1, classes):
                torch.gt(strip[index], best, out=larger)
                # Classes only rise here, so the larger number is the later winner.
                torch.maximum(chosen, larger.view(torch.uint8).mul(index), out=chosen)
                torch.maximum(best, strip[index], out=best)
    return masks


def own_classes(output: Tensor, members: int) -> NDArray[np.uint8]:
    """The class of each pixel by each member of an ensemble, uint8 (n, members, y, x).

    Args:
        output: (n, (1 + members) * K, y, x) logits: of all together, then of each member.
        members: Their number.
    """
    _, *parts = output.float().chunk(1 + members, dim=1)
    return np.stack([largest(part).cpu().numpy() for part in parts], axis=1)
