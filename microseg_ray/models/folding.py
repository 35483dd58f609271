"""Batch norms folded into the convolutions before them: fewer operations for the same numbers, for evaluation only."""

from __future__ import annotations

import itertools

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

__all__ = ["fold_norms"]


def fold_norms(model: nn.Module) -> nn.Module:
    """Fold each batch norm that follows a convolution into it, in place; for evaluation only.

    That is: the next in a Sequential, or the pairs of names that a class says it calls in a row, as
    `folds = (("conv1", "bn1"),)`.

    Example:
        >>> fold_norms(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval())[1]
        Identity()
    """
    for parent in list(model.modules()):
        pairs: list[tuple[str, str]] = list(getattr(parent, "folds", ()))
        if isinstance(parent, nn.Sequential):
            names = [name for name, _ in parent.named_children()]
            pairs = list(itertools.pairwise(names))
        for first, second in pairs:
            layer, norm = getattr(parent, first), getattr(parent, second)
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None:
                setattr(parent, first, fuse_conv_bn_eval(layer, norm))
                setattr(parent, second, nn.Identity())
    return model
