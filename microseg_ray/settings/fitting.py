"""How a model is trained: optimizer and schedule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from microseg_ray.settings.values import Frozen

__all__ = ["OptimizerSettings"]


class OptimizerSettings(Frozen):
    """Optimizer and schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["constant", "poly", "cosine"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of all steps in which the rate rises from 0")
