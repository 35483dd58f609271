"""dask graphs on Ray."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from microseg_ray.on_ray.resources import nodes_with

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.on_ray.resources import Demand

__all__ = ["dask_scheduler"]


def dask_scheduler(demand: Demand) -> Callable[..., Any]:
    """A scheduler for `dask.compute` that runs at most `demand.processes` tasks at a time on a Ray that was started.

    Args:
        demand: Tasks at a time, and where they run.
    """
    from ray.util.dask import ray_dask_get

    cpus = sum(node.get("CPU", 0.0) for node in nodes_with(demand.labels))
    share = max(0.01, cpus / demand.processes)
    chosen = {"num_cpus": int(share) if share > 1 else share, **demand.elsewhere}
    return partial(ray_dask_get, ray_remote_args=chosen)
