"""Whether a processor multiplies in bf16; without such units numbers are converted to and fro, many times slower than float32."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from microseg_ray.models.runtimes.base import Precision

__all__ = ["has_bf16", "torch_precision"]


def torch_precision(wanted: Precision, device: str) -> Precision:
    """What torch is to compute in: float32 where bf16 is wanted and the processor has no such units.

    Args:
        wanted: The setting.
        device: `cpu`, `cuda` ...

    Example:
        >>> torch_precision("fp32", "cpu")
        'fp32'
    """
    return "bf16" if wanted == "bf16" and has_bf16(gpu=not device.startswith("cpu")) else "fp32"


def has_bf16(*, gpu: bool) -> bool:
    """Whether this machine's GPU, or its CPU, has units for bf16."""
    if not gpu:
        return cpu_has_bf16(capabilities())
    # Where this process sees no GPU the workers have one, and every GPU since 2020 computes in bf16.
    return not torch.cuda.is_available() or torch.cuda.is_bf16_supported(including_emulation=False)


def capabilities() -> dict[str, Any]:
    """What torch says of this CPU's instructions; empty where it says nothing."""
    found = getattr(torch.cpu, "get_capabilities", dict)
    return dict(found())


def cpu_has_bf16(found: dict[str, Any]) -> bool:
    """Whether a CPU with these `capabilities` multiplies in bf16.

    Example:
        >>> cpu_has_bf16({"avx512_bf16": True}), cpu_has_bf16({"avx512_f": True, "amx_bf16": False})
        (True, False)
    """
    return any(bool(value) for name, value in found.items() if name.endswith("bf16"))
