"""Law 3: memory does not grow with the micrograph. Shard after shard takes what the first took, and no more than was predicted.

The same for a whole process on a large micrograph: tests/end_to_end/test_memory.py.
"""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window
from microseg_ray.stitching.shard_memory import shard_bytes


class Flat:
    """A model that takes next to no memory itself."""

    classes = 3

    def masks(self, batch, limits):
        return np.zeros((len(batch), *batch.shape[-2:]), np.uint8)

    def scores(self, batch, limits):
        return np.full((len(batch), 3, *batch.shape[-2:]), 1 / 3, np.float32)


def peak_of(shape, plan):
    """Peak bytes while all shards of a micrograph are computed; its pixels are made as they are read."""
    spec, grid = MaskSpec(shape, (), plan.shard), engine_grid(shape, plan)
    tracemalloc.start()
    try:
        for shard in np.ndindex(*spec.shards):
            box = spec.box(shard)
            region, _ = shard_window(grid, box, plan)
            predict_shard(np.zeros((1, *region.shape), np.uint8), Flat(), grid, box, plan, (0.0, 255.0))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("options", [{}, {"blend": "hann", "overlap": 0.25}, {"extra": "probabilities"}])
def test_sixteen_times_the_micrograph_takes_no_more(options):
    plan = EnginePlan(**{"tile": 256, "halo": 16, "stride": 8, "shard": 512, "batch": 2, **options})
    small, large = peak_of((1024, 1024), plan), peak_of((4096, 4096), plan)
    assert large < 1.1 * small
    assert large < shard_bytes(plan, 1, 1, 3) * 1.1
