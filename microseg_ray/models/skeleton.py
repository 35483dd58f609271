"""A model without memory for its weights, for looking at its layers or for filling it from a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from microseg_ray.models import build_model

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["model_of_zeros", "model_skeleton"]

_FILLS = (torch.Tensor.normal_, torch.Tensor.uniform_)


def model_skeleton(architecture: str, in_channels: int, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """`build_model` on the device meta.

    Filling tensors that have no memory makes torch load its compiler, which takes seconds, so they are not filled.

    Raises:
        SettingsError: As `build_model`.

    Example:
        >>> {parameter.device.type for parameter in model_skeleton("unet", 1, 2, {"width": 2, "depth": 1}).parameters()}
        {'meta'}
    """
    with torch.device("meta"), _Unfilled():
        return build_model(architecture, in_channels, classes, options)


def model_of_zeros(architecture: str, in_channels: int, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """`build_model` with weights that are all zero and take no memory, for a pass that gives shapes only.

    A pass over tensors of the device meta takes torch's decompositions, and with them its compiler, which takes seconds to
    import. One zero that is repeated by strides is computed with as any other tensor.

    Raises:
        SettingsError: As `build_model`.

    Example:
        >>> model = model_of_zeros("unet", 1, 2, {"width": 2, "depth": 1}).eval()
        >>> model(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 2, 8, 8])
    """
    model = model_skeleton(architecture, in_channels, classes, options)
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(_zeros_like(weight), requires_grad=False))
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, _zeros_like(buffer))
    return model


def _zeros_like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.zeros((), dtype=tensor.dtype).expand(tensor.shape)


class _Unfilled(TorchFunctionMode):
    """Leaves tensors as they are where random numbers would be written."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # A function of torch.nn.init comes here as a whole, and what it calls does not.
        if func in _FILLS or getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
