"""The package OpenVINO, without torch: loaded once, silent, and asked what this processor can."""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from microseg_ray.models.runtimes.base import Precision

__all__ = ["core", "openvino_package", "precision_here"]

_TELEMETRY = "openvino_telemetry"


@lru_cache(maxsize=1)
def core() -> Any:
    """OpenVINO's entry, one for the process.

    Raises:
        ImportError: OpenVINO is not installed, or does not load.
    """
    return openvino_package().Core()


def openvino_package() -> ModuleType:
    """The package, without its telemetry, which would report each import and conversion to its makers.

    Raises:
        ImportError: OpenVINO is not installed, or does not load.
    """
    if "openvino" not in sys.modules:
        kept = sys.modules.get(_TELEMETRY)
        # None makes an import of it fail, as if it were not installed.
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            import openvino.tools.ovc
        finally:
            del sys.modules[_TELEMETRY]
            if kept is not None:
                sys.modules[_TELEMETRY] = kept
    _silence()
    import openvino

    module: ModuleType = openvino
    return module


@lru_cache(maxsize=1)
def _silence() -> None:
    """Replace the telemetry by OpenVINO's own stub where somebody else has imported OpenVINO before.

    It sends each report from a copy of the process, which costs time and fails slowly without a network.
    """
    from openvino.tools.ovc import telemetry_stub

    for name, module in list(sys.modules.items()):
        if name.startswith("openvino.tools.ovc") and hasattr(module, "tm"):
            module.tm = telemetry_stub  # type: ignore[attr-defined]


def precision_here(wanted: Precision) -> Precision:
    """What OpenVINO computes in on this processor: without bf16 units it silently takes float32.

    Args:
        wanted: The setting.

    Raises:
        ImportError: OpenVINO is not installed, or does not load.
    """
    if wanted == "bf16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        return "fp32"
    return wanted
