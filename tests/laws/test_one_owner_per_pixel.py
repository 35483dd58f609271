"""Law 1: one owner per pixel. Counts over all shards are the pixels of the micrograph, for every shape, tile and blend."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from microseg_ray.geometry import Box
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec
from microseg_ray.statistics.counts import count_classes
from microseg_ray.stitching import BLENDS, EnginePlan, engine_grid, predict_shard, shard_window
from tests.strategies import plans, shapes

CLASSES = tuple(ClassSpec(name=name) for name in ("dark", "middle", "bright"))


class Levels:
    """Three classes by intensity: a model that looks at one pixel, so that the true counts are known."""

    classes = len(CLASSES)

    def masks(self, batch, limits):
        return np.minimum(batch[:, 0] // 86, 2).astype(np.uint8)

    def scores(self, batch, limits):
        chosen = self.masks(batch, limits)
        return np.stack([chosen == index for index in range(self.classes)], axis=1).astype(np.float32)


@given(shapes(), plans(blends=BLENDS), st.integers(0, 2**32 - 1))
@example((1, 1), EnginePlan(tile=64, halo=16, stride=16, shard=64), 0)
@example((1, 5000), EnginePlan(tile=128, halo=16, stride=16, shard=512), 0)
@example((5000, 1), EnginePlan(tile=128, halo=16, stride=16, shard=512, blend="hann", overlap=0.9), 0)
def test_counts_sum_to_the_measured_pixels_and_are_the_true_ones(shape, plan, seed):
    image = np.random.default_rng(seed).integers(0, 256, (1, *shape), dtype=np.uint8)
    spec, grid = MaskSpec(shape, CLASSES, plan.shard), engine_grid(shape, plan)
    total = np.zeros(len(CLASSES), np.int64)
    for shard in np.ndindex(*spec.shards):
        box = spec.box(shard)
        region, _ = shard_window(grid, box, plan)
        assert Box.of_shape(shape).contains(region)
        mask = predict_shard(image[(..., *region.slices)], Levels(), grid, box, plan, (0.0, 255.0)).mask
        counts = count_classes(mask, len(CLASSES))
        assert counts.sum() == box.area
        total += counts
    assert total.sum() == shape[0] * shape[1]
    assert total.tolist() == np.bincount(np.minimum(image.ravel() // 86, 2), minlength=3).tolist()
