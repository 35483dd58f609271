"""How a classifier sees a micrograph of any size."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from microseg_ray.settings.base import Frozen

__all__ = ["ViewSettings"]


class ViewSettings(Frozen):
    """How a micrograph of any size is brought to the input size of a classifier.

    `whole`: the whole micrograph, resampled to `model.height` x `model.width`; what counts is the picture, whatever its
    number of pixels. `crops`: windows of that size at the micrograph's own pixels, evenly spread, whose probabilities
    are averaged; what counts is the scale, and a micrograph whose pixel size is known and is not the trained one is
    resampled to it first.

    Example:
        >>> ViewSettings().kind, ViewSettings(kind="crops", most=4).most
        ('whole', 4)
    """

    kind: Literal["whole", "crops"] = "whole"
    most: int = Field(default=16, ge=1, le=4096, description="crops of one micrograph, at most")
