"""Tiles to masks: the engine's prediction of one shard, and `stitch`, the public API for tiles from anywhere."""

from __future__ import annotations

from microseg_ray.stitching.assemble import stitch
from microseg_ray.stitching.files import tiles_on_disk
from microseg_ray.stitching.shards import (
    EnginePlan,
    Extra,
    Predictor,
    ShardPixels,
    engine_grid,
    predict_shard,
    shard_window,
)
from microseg_ray.stitching.windows import BLENDS, window

__all__ = [
    "BLENDS",
    "EnginePlan",
    "Extra",
    "Predictor",
    "ShardPixels",
    "engine_grid",
    "predict_shard",
    "shard_window",
    "stitch",
    "tiles_on_disk",
    "window",
]
