"""Models: architectures by name, what they see of a tile, and their checkpoints.

Importing this package does not import torch; building a model does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from microseg_ray.errors import SettingsError
from microseg_ray.settings import ModelSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

__all__ = ["ARCHITECTURES", "build_model"]

ARCHITECTURES: tuple[str, ...] = ("unet",)
"""The names that `build_model` knows."""


def build_model(architecture: str, in_channels: int, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """A freshly initialised model.

    Args:
        architecture: One of `ARCHITECTURES`.
        in_channels: Channels of the images, 1 or more.
        classes: Number of classes, 1 or more.
        options: The architecture's own options, `{"width": 32, "depth": 4}`; left out ones have their defaults.

    Returns:
        A module from float32 (n, in_channels, y, x) to float32 logits (n, classes, y, x), with an integer attribute
        `stride` that the sides y and x must be multiples of.

    Raises:
        SettingsError: Unknown architecture, unknown option, impossible value; the message names it.

    Example:
        >>> build_model("unet", in_channels=1, classes=3, options={"width": 4, "depth": 2}).stride
        4
        >>> build_model("unet", in_channels=1, classes=3, options={"widht": 4})
        Traceback (most recent call last):
            ...
        microseg_ray.errors.SettingsError: model.widht: `unet` has no such option; known are width, depth, norm, dropout
    """
    if architecture not in ARCHITECTURES:
        raise SettingsError(f"model.name: unknown architecture {architecture!r}; known are {', '.join(ARCHITECTURES)}")
    known = [name for name in ModelSettings.model_fields if name != "name"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise SettingsError(f"model.{unknown[0]}: `{architecture}` has no such option; known are {', '.join(known)}")
    for name, value in (("in_channels", in_channels), ("classes", classes)):
        if value < 1:
            raise SettingsError(f"model.{name}: {value} is not possible; it must be at least 1")
    try:
        checked = ModelSettings.model_validate({"name": architecture, **options})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise SettingsError(f"model.{key}: {problem['msg']} (got {problem['input']!r})") from error
    from microseg_ray.models.unet import UNet

    return UNet(in_channels, classes, checked.width, checked.depth, checked.norm, checked.dropout)
