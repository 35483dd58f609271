"""dask graphs on Ray."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["dask_scheduler"]


def dask_scheduler(workers: int) -> Callable[..., Any]:
    """A scheduler for `dask.compute` that runs at most `workers` tasks at a time on a Ray that was started.

    Args:
        workers: Tasks at a time.
    """
    import ray
    from ray.util.dask import ray_dask_get

    share = max(0.01, float(ray.cluster_resources().get("CPU", 1.0)) / workers)
    return partial(ray_dask_get, ray_remote_args={"num_cpus": int(share) if share > 1 else share})
