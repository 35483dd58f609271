"""Several models of the same classes as one: the mean of their probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from microseg_ray.models.architectures.blocks import check_sides, full_precision

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

__all__ = ["Ensemble", "MeanProbabilities", "members_kept"]


class MeanProbabilities(nn.Module):
    """Logits of several models to the logarithm of the mean of their probabilities.

    The softmax of the result is that mean. Logarithms are added up from the largest on, so that finite logits give finite
    ones, and probabilities that float32 has no number for still have an order.

    Args:
        members: Number of models.

    Attributes:
        kept: Whether the members' own logits come out too, behind the result: (n, (1 + members) * K, y, x).

    Example:
        >>> joined = torch.tensor([2.0, 0.0, 0.0, 2.0]).reshape(1, 4, 1, 1)
        >>> mean = MeanProbabilities(2)
        >>> mean(joined).softmax(dim=1).flatten().tolist()
        [0.5, 0.5]
        >>> mean.kept = True
        >>> mean(joined)[:, 2:].flatten().tolist(), members_kept(mean)
        ([2.0, 0.0, 0.0, 2.0], 2)
    """

    def __init__(self, members: int) -> None:
        super().__init__()
        self.members = members
        self.kept = False

    def forward(self, joined: Tensor) -> Tensor:
        """Float32 (n, members * K, y, x), the members one after the other, to (n, K, y, x)."""
        parts = [part.log_softmax(dim=1) for part in joined.chunk(self.members, dim=1)]
        most = parts[0]
        for part in parts[1:]:
            most = torch.maximum(most, part)
        total = (parts[0] - most).exp()
        for part in parts[1:]:
            total = total + (part - most).exp()
        mean = most + total.log() - math.log(self.members)
        return torch.cat([mean, joined], dim=1) if self.kept else mean


class Ensemble(nn.Module):
    """The mean of the probabilities of several models, as logits.

    Args:
        members: Modules with a `stride`, from images of the same channels to logits of the same classes.

    Attributes:
        stride: The least common multiple of the members' strides.

    Example:
        >>> from microseg_ray.models import build_model
        >>> members = [build_model("unet", 1, 2, {"width": 2, "depth": depth}) for depth in (1, 3)]
        >>> ensemble = Ensemble(members).eval()
        >>> ensemble.stride, ensemble(torch.zeros(1, 1, 8, 16)).shape
        (8, torch.Size([1, 2, 8, 16]))
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.mean = MeanProbabilities(len(members))
        self.stride = math.lcm(*(int(member.stride) for member in members))  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        """Float (n, c, y, x), sides multiples of `stride`, to float32 logits (n, K, y, x)."""
        check_sides(images, self.stride)
        return full_precision(self.mean, torch.cat([member(images) for member in self.members], dim=1))


def members_kept(model: nn.Module) -> int:
    """How many models' own logits come out of a model behind its result; 0 of one that is no ensemble."""
    return next((part.members for part in model.modules() if isinstance(part, MeanProbabilities) and part.kept), 0)
