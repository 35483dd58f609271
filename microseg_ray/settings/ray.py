"""Where Ray runs."""

from __future__ import annotations

from pydantic import Field

from microseg_ray.settings.base import Frozen

__all__ = ["RaySettings"]


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
    object_store_memory: int = Field(default=256 * 1024**2, ge=78_643_200)
