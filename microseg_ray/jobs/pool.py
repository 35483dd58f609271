"""The pool of Ray actors that segment and plan run on."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microseg_ray.jobs.console import StartRay
    from microseg_ray.runs.segment import PoolFactory
    from microseg_ray.settings import EngineSettings

__all__ = ["pool_factory"]


def pool_factory(settings: EngineSettings, start: StartRay) -> PoolFactory | None:
    """Return what makes a pool of Ray actors; None with `workers: 0`, so that Ray is not imported."""
    if settings.workers == 0:
        return None
    from microseg_ray.on_ray.actors import actor_pool

    return partial(actor_pool, start)
