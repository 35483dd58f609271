"""Which runtime a job takes, and what of it is bound to a run. Neither torch nor OpenVINO is loaded to choose."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from microseg_ray.errors import SettingsError
from microseg_ray.settings.limits import RuntimeChoice
from microseg_ray.versions import version

if TYPE_CHECKING:
    from microseg_ray.models.runtimes.base import Precision, Runtime

__all__ = ["RuntimeChoice", "load_runtime", "runtime_name", "runtime_record"]


CONVERTED = (
    *("unet", "resunet", "efficientnet_unet", "efficientnet_deeplab", "vgg16_unet", "deeplabv3plus", "resnet_unet"),
    *("defectsegnet", "coarse_fine"),
)
"""Architectures that OpenVINO computes as torch does, with all their options; tests/models/runtimes/test_parity.py."""


def runtime_name(choice: RuntimeChoice, device: str, key: str = "runtime") -> str:
    """The runtime that a setting means on this machine.

    Args:
        choice: The setting; `auto` takes OpenVINO where it is installed and the device is a CPU, else torch.
        device: `cpu`, `cuda` ...
        key: Of the setting, for messages.

    Raises:
        SettingsError: OpenVINO is asked for and not installed, or asked for on a GPU.

    Example:
        >>> runtime_name("auto", "cuda"), runtime_name("torch", "cpu")
        ('torch', 'torch')
        >>> runtime_name("openvino", "cuda:0", "segment.runtime")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.SettingsError: segment.runtime: openvino computes on the CPU, not on cuda:0; set runtime: torch
    """
    if choice == "torch":
        return "torch"
    on_cpu, installed = device.startswith("cpu"), find_spec("openvino") is not None
    if choice == "auto":
        return "openvino" if on_cpu and installed else "torch"
    if not on_cpu:
        raise SettingsError(f"{key}: openvino computes on the CPU, not on {device}; set runtime: torch")
    if not installed:
        raise SettingsError(
            f"{key}: openvino is not installed here; pip install 'microseg_ray[openvino]', or set runtime: torch"
        )
    return "openvino"


def load_runtime(name: str, precision: Precision = "bf16", device: str = "cpu", threads: int | None = None) -> Runtime:
    """Load a runtime.

    Args:
        name: `torch` or `openvino`.
        precision: `bf16` or `fp32`.
        device: For torch: `cpu`, `cuda`, `cuda:1` ...
        threads: Threads that it uses; None leaves torch's.

    Raises:
        ImportError: OpenVINO is not installed, or does not load.
        ValueError: Unknown name or precision, or fewer than one thread.

    Example:
        >>> load_runtime("torch", "fp32").precision
        'fp32'
    """
    if name == "openvino":
        from microseg_ray.models.runtimes.vino import OpenVinoRuntime

        return OpenVinoRuntime(precision, threads)
    if name != "torch":
        raise ValueError(f"runtime {name!r} is unknown; known are torch, openvino")
    from microseg_ray.models.runtimes.eager import TorchRuntime

    return TorchRuntime(precision, device, threads)


def runtime_record(name: str, precision: Precision, device: str = "cpu") -> dict[str, str]:
    """What of a runtime decides bytes here, by name: its own version, that of torch, and the precision that it has.

    Args:
        name: `torch` or `openvino`.
        precision: The setting.
        device: `cpu`, `cuda` ...

    Raises:
        ImportError: OpenVINO is not installed, or does not load.

    Example:
        >>> sorted(runtime_record("torch", "fp32"))
        ['runtime', 'torch']
    """
    found = {"runtime": name, "torch": version("torch")}
    if name == "torch" and precision == "bf16":
        from microseg_ray.models.runtimes.units import torch_precision

        used = torch_precision(precision, device)
        # Only what differs from the setting, which is part of a run's identity itself.
        found |= {} if used == precision else {"runtime_precision": used}
    if name == "openvino":
        from microseg_ray.models.runtimes.package import precision_here

        # torch turns the module into a graph first. What precision comes out depends on the processor.
        found |= {"runtime_precision": precision_here(precision), name: version(name)}
    return found
