"""Where Ray runs."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from microseg_ray.settings.base import Frozen

__all__ = ["RaySettings", "RayShare"]

_OWN = {
    "CPU": "workers and threads say how many",
    "GPU": "gpu and worker_gpus say how many",
    "memory": "Ray's own; use a resource of another name",
    "object_store_memory": "Ray's own; use a resource of another name",
}
# As Ray's, which are those of Kubernetes: [PREFIX/]NAME.
_LABEL_PART = r"[a-zA-Z0-9]([a-zA-Z0-9_.-]{0,61}[a-zA-Z0-9])?"
_LABEL_KEY = re.compile(rf"([a-zA-Z0-9.-]{{1,253}}/)?{_LABEL_PART}")


def _share(value: float) -> float:
    """Ray gives out fractions of one thing, and whole numbers of several."""
    if value > 1 and not value.is_integer():
        raise ValueError(f"{value:g} is not possible: give a fraction of at most 1, or a whole number")
    return value


RayShare = Annotated[float, Field(gt=0, le=4096), AfterValidator(_share)]
"""How much of a resource of Ray a process takes."""


def _resources(given: dict[str, float]) -> dict[str, float]:
    for name in given:
        if name in _OWN:
            raise ValueError(f"{name}: {_OWN[name]}")
        if not name.strip() or name != name.strip():
            raise ValueError(f"{name!r} is no name of a resource")
    return given


def _labels(given: dict[str, str]) -> dict[str, str]:
    for key, value in given.items():
        if not _LABEL_KEY.fullmatch(key):
            raise ValueError(f"{key!r} is no key of a label: letters, digits, -, _ and ., as Kubernetes has it")
        if not re.fullmatch(_LABEL_PART, value):
            raise ValueError(f"{key}: {value!r} is no value of a label: letters, digits, -, _ and ., at most 63")
    return given


class RaySettings(Frozen):
    """Where Ray runs: `address: null` starts one inside this process, `auto` or a URL joins a cluster."""

    address: str | None = None
    num_cpus: int | None = Field(default=None, ge=1, le=4096)
    wait: float = Field(
        default=0.0,
        ge=0,
        le=86_400,
        description="seconds to wait for CPUs or GPUs that a growing cluster does not have yet; 0: they must be there",
    )
    resources: Annotated[dict[str, RayShare], AfterValidator(_resources)] = Field(
        default_factory=dict,
        description="what else of a node each process takes, as named when nodes were started (ray start --resources)",
    )
    labels: Annotated[dict[str, str], AfterValidator(_labels)] = Field(
        default_factory=dict,
        description="labels of the nodes that processes may run on (ray start --labels), all of them",
    )
    look: float = Field(
        default=10.0, gt=0, le=86_400, description="workers auto: seconds between two looks at the cluster's size"
    )
    object_store_memory: int = Field(default=256 * 1024**2, ge=78_643_200)
