"""Which model is trained: its architecture and the options of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from microseg_ray.settings.values import Frozen

__all__ = ["ModelSettings"]


class ModelSettings(Frozen):
    """Which architecture, and its options."""

    name: Literal["unet"] = "unet"
    width: int = Field(default=32, ge=1, description="channels of the first level; doubled at each level")
    depth: int = Field(default=4, ge=1, le=7, description="number of poolings")
    norm: Literal["batch", "group", "instance", "none"] = "batch"
    dropout: float = Field(default=0.0, ge=0, lt=1)
