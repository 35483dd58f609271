"""Losses that are a mean over pixels, and what every loss here has in common.

A loss is a function of sums over the images of a batch: `sums` gives a vector that can be added up over parts of the batch
and over workers, `value` makes the loss of it. So the loss of a batch does not depend on how many workers share it, for a
ratio such as Dice just as for a mean. MONAI's losses have no such sums; the tests compare these with MONAI's.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike
    from torch import Tensor

__all__ = ["CrossEntropy", "Focal", "Loss", "labelled_only", "ratio"]


class Loss(nn.Module, ABC):
    """Base of the losses.

    Calling one with logits (n, K, y, x) and integer targets (n, y, x) gives a scalar, never nan for finite logits. A pixel
    whose target is 255 takes no part, and its logits get a gradient of exactly 0.
    """

    @abstractmethod
    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """What is added up over images: float32 (m,) with a gradient; m depends on the loss and K only."""

    @abstractmethod
    def value(self, sums: Tensor) -> Tensor:
        """The loss, a scalar, of sums (m,); 0 where nothing is labelled."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss of one batch.

        Args:
            logits: float (n, K, y, x).
            target: Integers (n, y, x), uint8 or int64: classes, or 255.
        """
        return self.value(self.sums(logits, target))


class CrossEntropy(Loss):
    """Cross entropy, averaged over the labelled pixels with their class's weight.

    Equals `torch.nn.functional.cross_entropy(logits, target, weight, ignore_index=255, label_smoothing=...)`, but is 0
    with a zero gradient where that is nan: a batch without a single labelled pixel (or of weight 0 only).

    Args:
        class_weights: A weight a class, none negative; None weighs all the same. For two classes the second weight is the
            weight of the positives.
        label_smoothing: Share of the target that is spread over all classes.
        mean_over: `weights` divides by the summed weights of the labelled pixels, `pixels` by their number.

    Raises:
        ValueError: A weight is negative or not finite; when called, the number of weights is not K.

    Example:
        >>> loss = CrossEntropy()
        >>> loss(torch.zeros(1, 2, 4, 4), torch.full((1, 4, 4), 255)).item()
        0.0
        >>> round(CrossEntropy([1, 3], mean_over="pixels")(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1)).item(), 4)
        2.0794
    """

    class_weights: Tensor | None

    def __init__(
        self,
        class_weights: Sequence[float] | ArrayLike | None = None,
        label_smoothing: float = 0.0,
        mean_over: Literal["weights", "pixels"] = "weights",
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", checked_weights(class_weights), persistent=False)
        self.label_smoothing = label_smoothing
        self.mean_over = mean_over

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """The summed weighted cross entropy, and what it is divided by."""
        weights = weights_for(self.class_weights, logits)
        labels = target.long()
        total = F.cross_entropy(
            precise(logits),
            labels,
            weights,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return torch.stack([total, pixel_share(labels, weights, self.mean_over).to(total.dtype)])

    def value(self, sums: Tensor) -> Tensor:
        """Their ratio."""
        return ratio(sums[0], sums[1])


class Focal(Loss):
    """Focal loss (Lin et al. 2017): cross entropy times (1 - p)^gamma, so that easy pixels count less.

    Args:
        gamma: 0 is cross entropy.
        class_weights: As for `CrossEntropy`; the loss is divided as that is.
        label_smoothing: As for `CrossEntropy`.
        mean_over: As for `CrossEntropy`.

    Example:
        >>> round(Focal(gamma=2)(torch.zeros(1, 2, 1, 1), torch.ones(1, 1, 1)).item(), 4)  # ln 2 / 4
        0.1733
    """

    class_weights: Tensor | None

    def __init__(
        self,
        gamma: float = 2.0,
        class_weights: Sequence[float] | ArrayLike | None = None,
        label_smoothing: float = 0.0,
        mean_over: Literal["weights", "pixels"] = "weights",
    ) -> None:
        super().__init__()
        self.register_buffer("class_weights", checked_weights(class_weights), persistent=False)
        self.gamma = gamma
        self.label_smoothing = label_smoothing
        self.mean_over = mean_over

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """The summed weighted focal loss, and what it is divided by."""
        weights = weights_for(self.class_weights, logits)
        labels = target.long()
        calm = labelled_only(precise(logits), labels)
        each = F.cross_entropy(
            calm, labels, weights, ignore_index=IGNORE_INDEX, reduction="none", label_smoothing=self.label_smoothing
        )
        # Negative log-likelihood of the true class, without weights: 1 - p without cancellation.
        surprise = F.cross_entropy(calm, labels, ignore_index=IGNORE_INDEX, reduction="none")
        # (1 - p)^gamma has no gradient at p = 1 for gamma < 1.
        easiness = (-torch.expm1(-surprise)).clamp(min=1e-12) ** self.gamma
        total = (easiness * each).sum()
        return torch.stack([total, pixel_share(labels, weights, self.mean_over).to(total.dtype)])

    def value(self, sums: Tensor) -> Tensor:
        """Their ratio."""
        return ratio(sums[0], sums[1])


def checked_weights(class_weights: Sequence[float] | ArrayLike | None) -> Tensor | None:
    """Class weights as float32 (K,).

    Raises:
        ValueError: No list of finite numbers that are not negative.
    """
    if class_weights is None:
        return None
    weights = torch.from_numpy(np.array(class_weights, np.float32))
    if weights.ndim != 1 or not bool(torch.isfinite(weights).all()) or bool((weights < 0).any()):
        raise ValueError(f"class weights {class_weights!r} must be a list of finite numbers, none negative")
    return weights


def weights_for(weights: Tensor | None, logits: Tensor) -> Tensor | None:
    """The weights in the precision that the loss is computed in.

    Raises:
        ValueError: Their number is not the number of classes.
    """
    if weights is None:
        return None
    if len(weights) != logits.shape[1]:
        raise ValueError(f"{len(weights)} class weights for {logits.shape[1]} classes")
    return weights.to(torch.promote_types(logits.dtype, torch.float32))


def pixel_share(labels: Tensor, weights: Tensor | None, mean_over: str) -> Tensor:
    """What a sum over pixels is divided by: the labelled pixels, or their summed weights."""
    labelled = labels != IGNORE_INDEX
    if weights is None or mean_over == "pixels":
        return labelled.sum()
    return torch.where(labelled, weights[torch.where(labelled, labels, 0)], 0).sum()


def precise(logits: Tensor) -> Tensor:
    """Logits in float32 or better: bf16 would lose the sum of many pixels."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def labelled_only(logits: Tensor, labels: Tensor) -> Tensor:
    """Logits (n, K, y, x) with those of unlabelled pixels put to 0: whatever they are, they get a gradient of exactly 0."""
    return torch.where((labels != IGNORE_INDEX).unsqueeze(1), logits, 0)


def ratio(total: Tensor, share: Tensor) -> Tensor:
    """A sum over its share, 0 where both are 0."""
    return total / share.clamp(min=torch.finfo(total.dtype).tiny)
