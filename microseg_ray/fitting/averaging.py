"""Averaged weights: an exponential moving average of a model that is being trained."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Averaged"]


class Averaged:
    """A copy of a model that follows it slowly; batch statistics too.

    The decay rises from 0.1 to the one given, min(decay, (1 + n) / (10 + n)) after n steps, so that a short fit's average
    does not hold on to the first random weights.

    Args:
        model: What is trained.
        decay: Share of the old average that stays, 0 to 1.

    Example:
        >>> layer = torch.nn.Linear(1, 1, bias=False)
        >>> averaged = Averaged(layer, decay=0.9)
        >>> before, _ = layer.weight.item(), layer.weight.data.add_(1)
        >>> averaged.update(layer)
        >>> round(averaged.model.weight.item() - before, 4)  # decay min(0.9, 2 / 11)
        0.8182
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take in the weights of one more step."""
        self.steps += 1
        share = 1 - min(self.decay, (1 + self.steps) / (10 + self.steps))
        mine, theirs = self.model.state_dict(), model.state_dict()
        floats = [name for name, tensor in mine.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in floats], [theirs[name] for name in floats], share)
        for name in mine.keys() - set(floats):
            mine[name].copy_(theirs[name])

    def reset(self, model: nn.Module) -> None:
        """Put the average to these weights."""
        self.model.load_state_dict(model.state_dict())
