"""The number format that a fit computes in, where the settings leave it open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

import torch

if TYPE_CHECKING:
    from microseg_ray.settings.fit import FitSettings

S = TypeVar("S", bound="FitSettings")

__all__ = ["Precision", "precision_of", "settled"]

Precision = Literal["bf16", "fp16", "fp32"]


def settled(settings: S, *, gpu: bool) -> S:
    """The settings with `bf16` or `fp32` in place of `precision: auto`.

    A fit is bound to its precision, so this is done once, in the process that starts it: workers on other machines compute in
    what was found there.

    Args:
        settings: Of train or tune.
        gpu: Whether the fit runs on GPUs.

    Example:
        >>> from microseg_ray.settings import TrainSettings
        >>> settled(TrainSettings(tiles="t", output="o", precision="fp16"), gpu=False).precision
        'fp16'
    """
    if settings.precision != "auto":
        return settings
    quick = _gpu_has_bf16() if gpu else _cpu_has_bf16(_capabilities())
    return settings.model_copy(update={"precision": "bf16" if quick else "fp32"})


def precision_of(settings: FitSettings) -> Precision:
    """The precision of settled settings.

    Raises:
        ValueError: They are not settled.
    """
    if settings.precision == "auto":
        raise ValueError("precision auto: settle the settings first")
    return settings.precision


def _gpu_has_bf16() -> bool:
    # Where this process sees no GPU the workers have one, and every GPU since 2020 computes in bf16.
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def _capabilities() -> dict[str, Any]:
    """What torch says of this CPU's instructions; empty where it says nothing."""
    found = getattr(torch.cpu, "get_capabilities", dict)
    return dict(found())


def _cpu_has_bf16(capabilities: dict[str, Any]) -> bool:
    """Whether a CPU multiplies in bf16; without such instructions bf16 is converted to and fro, slower than fp32.

    Example:
        >>> _cpu_has_bf16({"avx512_bf16": True}), _cpu_has_bf16({"avx512_f": True, "amx_bf16": False})
        (True, False)
    """
    return any(bool(value) for name, value in capabilities.items() if name.endswith("bf16"))
