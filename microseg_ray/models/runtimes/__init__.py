"""What computes a network: torch, or OpenVINO on a CPU. Choosing one loads neither.

A `Runtime` turns a torch module and example inputs into a `Compiled` network of these shapes. Everything that decides the
bytes (name, versions, precision) is in `Runtime.record`, which the identity of a run holds.
"""

from __future__ import annotations

from microseg_ray.models.runtimes.base import FREE_PIXELS, HELD_PIXELS, Compiled, Precision, Runtime
from microseg_ray.models.runtimes.choose import (
    RuntimeChoice,
    load_runtime,
    runtime_name,
    runtime_record,
)

__all__ = [
    "FREE_PIXELS",
    "HELD_PIXELS",
    "Compiled",
    "Precision",
    "Runtime",
    "RuntimeChoice",
    "load_runtime",
    "runtime_name",
    "runtime_record",
]
