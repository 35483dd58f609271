"""What a shard takes in memory beside the model, known before a run begins."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microseg_ray.stitching.shards import EnginePlan

__all__ = ["shard_bytes"]


def shard_bytes(plan: EnginePlan, channels: int, itemsize: int, classes: int) -> int:
    """Peak bytes of numpy arrays that `predict_shard` holds, without the model's own.

    Args:
        plan: The plan.
        channels: Channels of the micrograph.
        itemsize: Bytes per pixel and channel.
        classes: Number of classes.
    """
    margin = plan.halo if plan.blend == "crop" else plan.tile
    region = (plan.shard + 2 * margin) ** 2 * channels * itemsize
    batch = plan.batch * plan.tile_pixels * channels * itemsize
    if not plan.needs_scores:
        return region + batch + plan.batch * plan.tile_pixels + plan.shard**2
    scores = plan.batch * plan.tile_pixels * classes * 4
    if plan.tta:
        batch, scores = 2 * batch, 2 * scores
    if plan.blend != "crop":
        scores += plan.tile_pixels * classes * 4
    # The shard's sum, the copy of it that an extra output takes, and a few planes: weights, mask, the argmax's.
    copy = {"margin": 4 * classes, "probabilities": 2 * classes}.get(plan.extra, 0)
    return region + batch + scores + plan.shard**2 * (4 * classes + copy + 24)
