"""Metrics of a pool for Prometheus, through Ray's own: they are on each node's metrics port, with the prefix `ray_`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ray.util.metrics import Counter, Gauge

from microseg_ray.runs.tasks import BandTask, ShardTask

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from microseg_ray.runs.tasks import Outcome

__all__ = ["PoolMetrics"]

_EVERY = 1.0
"""Seconds between two values of a gauge."""


class PoolMetrics:
    """What a pool of workers has done, and what it waits for.

    * `microseg_shards`: mask shards that were committed. `microseg_failures`: tasks that failed.
    * `microseg_mask_bytes`: bytes of these shards before compression, one a pixel.
    * `microseg_tasks_in_flight`, `microseg_oldest_task_seconds`: tasks that workers have, and the longest time for which one of
      the workers has given no result.

    Args:
        shard: Side of a shard in pixels.
    """

    def __init__(self, shard: int) -> None:
        self._side = shard
        self._shards = Counter("microseg_shards", description="Mask shards committed")
        self._bytes = Counter("microseg_mask_bytes", description="Bytes of mask shards committed, before compression")
        self._failures = Counter("microseg_failures", description="Tasks that failed")
        self._in_flight = Gauge("microseg_tasks_in_flight", description="Tasks that workers have")
        self._oldest = Gauge("microseg_oldest_task_seconds", description="Longest time without a result of a worker")
        self._told = 0.0

    def done(self, outcomes: Iterable[Outcome]) -> None:
        """Count what came back."""
        for outcome in outcomes:
            task = outcome.task
            if not outcome.ok:
                self._failures.inc()
            elif isinstance(task, ShardTask | BandTask):
                shards = task.shards if isinstance(task, BandTask) else (task.shard,)
                self._shards.inc(len(shards))
                self._bytes.inc(sum(self._pixels(task.view.shape, shard) for shard in shards))

    def waiting(self, in_flight: int, since: Collection[float]) -> None:
        """Set the gauges, once a second at most.

        Args:
            in_flight: Tasks that workers have.
            since: When each busy worker gave its last result, by `time.monotonic`.
        """
        now = time.monotonic()
        if now - self._told >= _EVERY:
            self._told = now
            self._in_flight.set(in_flight)
            self._oldest.set(now - min(since, default=now))

    def _pixels(self, shape: tuple[int, int], shard: tuple[int, int]) -> int:
        high, wide = (min(self._side, side - place * self._side) for side, place in zip(shape, shard, strict=True))
        return high * wide
