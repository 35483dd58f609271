"""The training loss, and class weights from pixel counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray
    from torch import Tensor

__all__ = ["WeightedCrossEntropy", "class_weights_from_counts"]


class WeightedCrossEntropy(nn.Module):
    """Cross entropy, averaged over the labelled pixels with their class's weight.

    Equals `torch.nn.functional.cross_entropy(logits, target, weight, ignore_index=...)`, but is 0 with a zero gradient
    where that is nan: a batch without a single labelled pixel (or with labelled pixels of weight 0 only).

    Args:
        class_weights: A weight a class, none negative; None weighs all the same.
        ignore_index: The target value of a pixel without a label; it takes no part and gets no gradient.

    Raises:
        ValueError: A weight is negative or not finite.

    Example:
        >>> loss = WeightedCrossEntropy()
        >>> loss(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 255)).item()
        0.0
    """

    class_weights: Tensor | None

    def __init__(
        self, class_weights: Sequence[float] | ArrayLike | None = None, ignore_index: int = IGNORE_INDEX
    ) -> None:
        super().__init__()
        weights = None
        if class_weights is not None:
            weights = torch.from_numpy(np.array(class_weights, np.float32))
            if weights.ndim != 1 or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
                raise ValueError(f"class weights {class_weights!r} must be a list of finite numbers, none negative")
        self.register_buffer("class_weights", weights, persistent=False)
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of a batch.

        Args:
            logits: float (n, K, y, x).
            target: Integers (n, y, x), uint8 or int64: classes, or `ignore_index`.

        Returns:
            A scalar, never nan for finite logits.

        Raises:
            ValueError: The number of weights is not K.

        Example:
            >>> WeightedCrossEntropy([1.0, 3.0])(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1, dtype=torch.uint8)).item()
            0.6931471824645996
        """
        total, share = self.parts(logits, target)
        return total / share.clamp(min=torch.finfo(total.dtype).tiny)

    def parts(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Numerator and denominator of the loss, for a mean over several workers.

        Args:
            logits: float (n, K, y, x).
            target: Integers (n, y, x).

        Returns:
            The summed weighted cross entropy, and the summed weights of the labelled pixels; both scalars.

        Raises:
            ValueError: The number of weights is not K.

        Example:
            >>> total, share = WeightedCrossEntropy([1.0, 3.0]).parts(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1))
            >>> round(total.item(), 4), share.item()
            (2.0794, 3.0)
        """
        weights = self.class_weights
        if weights is not None and len(weights) != logits.shape[1]:
            raise ValueError(f"{len(weights)} class weights for {logits.shape[1]} classes")
        labels = target.long()
        # bf16 logits would lose the sum of many pixels.
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights = None if weights is None else weights.to(precise.dtype)
        total = F.cross_entropy(precise, labels, weights, ignore_index=self.ignore_index, reduction="sum")
        labelled = labels != self.ignore_index
        share = labelled.sum() if weights is None else weights[labels[labelled]].sum()
        return total, share.to(total.dtype)


def class_weights_from_counts(
    counts: NDArray[np.integer[Any]], kind: Literal["none", "inverse", "median"]
) -> NDArray[np.float64]:
    """Class weights from how many pixels each class has.

    `inverse` weighs a class by one over its share of all pixels. `median` is median-frequency balancing (Eigen and
    Fergus 2015): a class's frequency is its share of the pixels of those tiles that hold it, so it differs from `inverse`
    only where counts are given per tile. `none` is 1 for every class.

    Args:
        counts: Labelled pixels, integers (K,), or (n, K) per tile or micrograph.
        kind: Which weights.

    Returns:
        float64 (K,), the mean of the present classes' weights is 1. A class without a pixel gets the weight 0 for
        `inverse` and `median`, without a warning: `np.flatnonzero(weights == 0)` are the absent classes.

    Raises:
        ValueError: Unknown kind, wrong shape or a negative count.

    Example:
        >>> class_weights_from_counts(np.array([30, 10, 0]), "inverse").tolist()
        [0.5, 1.5, 0.0]
    """
    table = np.atleast_2d(np.asarray(counts)).astype(np.float64)
    if table.ndim != 2 or table.shape[1] == 0 or (table < 0).any():
        raise ValueError(f"counts of shape {np.shape(counts)}: pixel counts are (K,) or (n, K) and not negative")
    pixels = table.sum(axis=0)
    present = pixels > 0
    match kind:
        case "none":
            return np.ones(table.shape[1])
        case "inverse":
            base = np.full(table.shape[1], pixels.sum())
        case "median":
            base = np.where(table > 0, table.sum(axis=1, keepdims=True), 0).sum(axis=0)
        case _:
            raise ValueError(f"class weights {kind!r} are unknown; known are none, inverse, median")
    # The median itself is a common factor, which the normalisation takes out again.
    weights = np.zeros(len(pixels))
    np.divide(base, pixels, out=weights, where=present)
    if present.any():
        weights /= weights[present].mean()
    return weights
