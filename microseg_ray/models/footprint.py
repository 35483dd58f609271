"""Measures the memory that a model needs, for planning a run before it starts."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from microseg_ray.models.card import Footprint

if TYPE_CHECKING:
    from torch import nn

__all__ = ["measure_footprint"]

SIDE_STEPS = 4
LEAST_SIDE = 128


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of all live tensors as operations create them and Python frees them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata  # noqa: SLF001 - the storage that views share
        if key in self._known:
            return
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def measure_footprint(model: nn.Module, in_channels: int) -> Footprint:
    """Bytes of the parameters, and peak bytes of activations per input pixel in a forward pass.

    Args:
        model: In evaluation mode, with a `stride`.
        in_channels: Channels of the images.

    Returns:
        The footprint, for float32 and for bf16 autocast.

    Example:
        >>> from microseg_ray.models import build_model
        >>> footprint = measure_footprint(build_model("unet", 1, 2, {"width": 4, "depth": 1}).eval(), 1)
        >>> footprint.parameter_bytes > 0 and footprint.fp32 > footprint.bf16 > 0
        True
    """
    stride = int(getattr(model, "stride", 1))
    small = max(SIDE_STEPS * stride, -(-LEAST_SIDE // stride) * stride)
    # The slope between two sizes excludes memory that does not depend on the image, such as weights cast to bf16.
    per_pixel = {
        precision: (_peak(model, in_channels, 2 * small, precision) - _peak(model, in_channels, small, precision))
        / (3 * small**2)
        for precision in ("fp32", "bf16")
    }
    parameters = sum(value.nbytes for value in [*model.parameters(), *model.buffers()])
    return Footprint(parameter_bytes=parameters, **per_pixel)


def _peak(model: nn.Module, in_channels: int, side: int, precision: str) -> int:
    """Peak of live bytes in a forward pass on one square image."""
    device = next((value.device for value in model.parameters()), torch.device("cpu"))
    images = torch.zeros((1, in_channels, side, side), device=device).contiguous(memory_format=torch.channels_last)
    cast = torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
    with torch.no_grad(), cast, _LiveBytes() as live:
        model(images)
    return int(live.peak + images.nbytes)
