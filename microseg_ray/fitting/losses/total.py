"""Weighted sums of losses, and the loss that settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from microseg_ray.fitting.losses.pixels import CrossEntropy, Focal, Loss
from microseg_ray.fitting.losses.regions import Lovasz, Tversky

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike
    from torch import Tensor

    from microseg_ray.settings import LossSettings

__all__ = ["WeightedSum", "build_loss"]


class WeightedSum(Loss):
    """A weighted sum of losses.

    Args:
        parts: Each loss by its name.
        weights: Of each loss, by the same names.

    Example:
        >>> both = WeightedSum({"cross_entropy": CrossEntropy(), "dice": Tversky(0.5, 0.5)}, {"cross_entropy": 1, "dice": 2})
        >>> round(both(torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 1]]])).item(), 4)  # ln 2 + 2 * 0.5
        1.6931
    """

    def __init__(self, parts: Mapping[str, Loss], weights: Mapping[str, float]) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(dict(parts))
        self.weights = {name: float(weights[name]) for name in parts}
        self._lengths: list[int] = []

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """The sums of all parts, one after the other."""
        each = [part.sums(logits, target) for part in self._losses().values()]
        self._lengths = [len(item) for item in each]
        return torch.cat(each)

    def value(self, sums: Tensor) -> Tensor:
        """The weighted sum of the parts' values."""
        pieces = sums.split(self._lengths)
        values = [
            self.weights[name] * part.value(piece)
            for (name, part), piece in zip(self._losses().items(), pieces, strict=True)
        ]
        return torch.stack(values).sum()

    def _losses(self) -> dict[str, Loss]:
        return dict(self.parts.items())  # type: ignore[arg-type]


def build_loss(settings: LossSettings, class_weights: Sequence[float] | ArrayLike | None = None) -> Loss:
    """The loss of a `loss:` section.

    Args:
        settings: Which losses, their weights and options.
        class_weights: Float (K,) for cross entropy and focal loss; None weighs all classes the same.

    Example:
        >>> from microseg_ray.settings import LossSettings
        >>> type(build_loss(LossSettings())).__name__
        'CrossEntropy'
        >>> list(build_loss(LossSettings(cross_entropy=1, dice=1)).parts)
        ['cross_entropy', 'dice']
    """
    parts: dict[str, Loss] = {}
    for name in settings.terms:
        match name:
            case "cross_entropy":
                parts[name] = CrossEntropy(class_weights, settings.label_smoothing, settings.mean_over)
            case "focal":
                parts[name] = Focal(settings.gamma, class_weights, settings.label_smoothing, settings.mean_over)
            case "dice":
                parts[name] = Tversky(0.5, 0.5, settings.regions)
            case "tversky":
                parts[name] = Tversky(settings.false_positives, settings.false_negatives, settings.regions)
            case _:
                parts[name] = Lovasz()
    if list(settings.terms.values()) == [1.0]:
        return next(iter(parts.values()))
    return WeightedSum(parts, settings.terms)
