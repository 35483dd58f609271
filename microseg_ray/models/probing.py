"""What a compiled model is tried on before it is trusted: the logits of torch, and inputs so large that numbers overflow.

OpenVINO's ReLU makes 0 of NaN. A number that overflows inside a network would so become a class. Therefore pixels are refused
that are larger than what torch was seen to compute without an infinity.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from microseg_ray.errors import MicrosegError, RuntimeUnfitError
from microseg_ray.models.largest import finite

if TYPE_CHECKING:
    from torch import Tensor, nn

    from microseg_ray.models.runtimes.images import ImageNetwork

__all__ = ["check_pixels", "check_same_logits", "largest_pixel"]

_TRIED = (1e18, 1e12, 1e6, 1.0)
_MARGIN = 1e3
"""Noise may meet signs that cancel; real pixels may not."""
_TOLERANCE = 1e-3


def largest_pixel(model: nn.Module, shape: tuple[int, ...]) -> float:
    """The largest absolute value of a scaled pixel for which this model certainly gives finite logits.

    Args:
        model: In evaluation mode, with float32 weights.
        shape: (1, c, y, x) of an image.

    Raises:
        MicrosegError: The logits of ordinary pixels are infinite.

    Example:
        >>> largest_pixel(torch.nn.Conv2d(1, 1, 1), (1, 1, 4, 4))
        1000000000000000.0
    """
    noise = _noise(shape)
    for size in _TRIED:
        with torch.inference_mode():
            logits = model((2 * noise - 1) * size)
        if bool(torch.isfinite(logits).all()):
            return size / _MARGIN if size > 1 else _MARGIN
    finite(logits)
    return 0.0


def check_pixels(scaled: Tensor, bound: float) -> None:
    """Refuse pixels that are NaN, infinite, or so large that a model may overflow.

    Args:
        scaled: Pixels as the model sees them.
        bound: `largest_pixel` of the model.

    Raises:
        MicrosegError: There are such pixels.

    Example:
        >>> check_pixels(torch.tensor([0.5, float("nan")]), 1e15)
        Traceback (most recent call last):
            ...
        microseg_ray.errors.MicrosegError: 1 pixels are NaN, infinite or, scaled, beyond 1e+15, so that they belong to no ...
    """
    least, most = torch.aminmax(scaled)
    # A comparison with NaN is false.
    if -bound <= float(least) and float(most) <= bound:
        return
    bad = int((~(scaled.abs() <= bound)).sum())
    raise MicrosegError(
        f"{bad} pixels are NaN, infinite or, scaled, beyond {bound:g}, so that they belong to no class: the micrograph holds "
        "such values, or values too large for the model; look at it with `microseg info`"
    )


def check_same_logits(model: nn.Module, network: ImageNetwork, shape: tuple[int, ...]) -> None:
    """Compare a converted model, computed in float32, with torch.

    Args:
        model: The original.
        network: The converted one; its precision is `fp32`.
        shape: (1, c, y, x) of an image.

    Raises:
        RuntimeUnfitError: The logits differ by more than rounding.
    """
    noise = _noise(shape)
    with torch.inference_mode():
        expected = model(noise)
    found = network.logits(noise)
    difference, scale = float((found - expected).abs().max()), max(1.0, float(expected.abs().max()))
    if not difference <= _TOLERANCE * scale:
        raise RuntimeUnfitError(
            f"OpenVINO gives other logits than torch on a tile of noise (largest difference {difference:.2g})"
        )


def _noise(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))
