"""Runs of the tests of faults, and what they are compared with."""

from __future__ import annotations

from microseg_ray.settings import SegmentSettings


def settings(archive, checkpoint, output, **options) -> SegmentSettings:
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "shard": 256, "workers": 2}
    return SegmentSettings(**{**chosen, **options})
