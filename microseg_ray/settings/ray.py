"""Where Ray runs."""

from __future__ import annotations

from pydantic import Field

from microseg_ray.settings.base import Frozen

__all__ = ["RaySettings"]


class RaySettings(Frozen):
    """Where Ray runs: `address: null` starts one inside this process, `auto` or a URL joins a cluster."""

    address: str | None = None
    num_cpus: int | None = Field(default=None, ge=1)
    object_store_memory: int = Field(default=256 * 1024**2, ge=78_643_200)
