"""Models: architectures by name, their receptive fields, and checkpoints.

Importing this package does not import torch; building a model does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.settings import ModelSettings
from microseg_ray.settings.model import OPTIONS, ClassifierSettings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

__all__ = ["ARCHITECTURES", "CLASSIFIERS", "ENSEMBLE", "build_model"]

ARCHITECTURES: tuple[str, ...] = tuple(OPTIONS)
"""Names of the segmentation models that `build_model` knows."""

CLASSIFIERS: tuple[str, ...] = ("coarse_fine",)
"""Names of the classifiers of whole micrographs that `build_model` knows."""

ENSEMBLE = "ensemble"
"""In the card of several checkpoints together; its option `members` has the architecture and options of each."""

# Imported on use: importing this package must not load torch.
_BUILDERS: dict[str, tuple[str, str]] = {
    "unet": ("unet", "UNet"),
    "resunet": ("resunet", "ResUNet"),
    "efficientnet_unet": ("efficientnet_decoders", "EfficientNetUNet"),
    "efficientnet_deeplab": ("efficientnet_decoders", "EfficientNetDeepLab"),
    "vgg16_unet": ("vgg16_unet", "VGG16UNet"),
    "deeplabv3plus": ("deeplab", "DeepLabV3Plus"),
    "resnet_unet": ("encoder_unet", "resnet_unet"),
    "timm": ("encoder_unet", "timm_unet"),
    "defectsegnet": ("defectsegnet", "DefectSegNet"),
    "smp": ("foreign", "SmpModel"),
    "coarse_fine": ("classifier", "CoarseFine"),
}


def build_model(architecture: str, in_channels: int, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Build a model with initial weights.

    Args:
        architecture: One of `ARCHITECTURES`, or of `CLASSIFIERS`.
        in_channels: Channels of the images, 1 or more.
        classes: Number of classes, 1 or more.
        options: Options of the architecture, such as `{"width": 32, "depth": 4}`; missing ones have their defaults.

    Returns:
        A module from float32 (n, in_channels, y, x) to float32 logits (n, classes, y, x), with an integer attribute
        `stride`: the sides y and x must be multiples of it. A classifier returns logits (n, classes).

    Raises:
        SettingsError: Unknown architecture, unknown option, invalid value, or a package that is not installed; the
            message names it.

    Example:
        >>> build_model("unet", in_channels=1, classes=3, options={"width": 4, "depth": 2}).stride
        4
        >>> build_model("unet", in_channels=1, classes=3, options={"widht": 4})
        Traceback (most recent call last):
            ...
        microseg_ray.errors.SettingsError: model.widht: `unet` has no such option; known are width, depth, norm, dropout, ...
    """
    if architecture == ENSEMBLE:
        return _ensemble(in_channels, classes, options)
    checked = _checked(architecture, options)
    for name, value in (("in_channels", in_channels), ("classes", classes)):
        if value < 1:
            raise SettingsError(f"model.{name}: {value} is not possible; it must be at least 1")
    try:
        return _build(architecture, in_channels, classes, checked)
    except InputError as error:
        raise SettingsError(f"model.layers: {error}") from error
    except SettingsError:
        raise
    except ValueError as error:
        raise SettingsError(f"model: {error}") from error


def _ensemble(in_channels: int, classes: int, options: Mapping[str, Any]) -> nn.Module:
    from microseg_ray.models.architectures.ensemble import Ensemble

    members = options["members"]
    return Ensemble([build_model(each["architecture"], in_channels, classes, each["options"]) for each in members])


def _checked(architecture: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """All options of the architecture, with defaults for missing ones."""
    if architecture not in ARCHITECTURES + CLASSIFIERS:
        known = ", ".join(ARCHITECTURES + CLASSIFIERS)
        raise SettingsError(f"model.name: unknown architecture {architecture!r}; known are {known}")
    settings = ClassifierSettings if architecture in CLASSIFIERS else ModelSettings
    names = ClassifierSettings().options if architecture in CLASSIFIERS else OPTIONS[architecture]
    unknown = [name for name in options if name not in names]
    if unknown:
        raise SettingsError(f"model.{unknown[0]}: `{architecture}` has no such option; known are {', '.join(names)}")
    try:
        return settings.model_validate({"name": architecture, **options}).options
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise SettingsError(f"model.{key}: {problem['msg']} (got {problem['input']!r})") from error


def _build(architecture: str, in_channels: int, classes: int, options: dict[str, Any]) -> nn.Module:
    module, name = _BUILDERS[architecture]
    # The setting is called `input_scaling`, the argument of the modules `scaling`.
    scaling = {"scaling": options.pop("input_scaling")} if "input_scaling" in options else {}
    builder = getattr(importlib.import_module(f"microseg_ray.models.architectures.{module}"), name)
    built: nn.Module = builder(in_channels, classes, **options, **scaling)
    return built
