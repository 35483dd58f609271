"""Settings of the segment job."""

from __future__ import annotations

from typing import ClassVar

from microseg_ray.settings.engine import EngineSettings

__all__ = ["SegmentSettings"]


class SegmentSettings(EngineSettings):
    """`segment`: archive -> a run: masks, counts, areas."""

    job: ClassVar[str] = "segment"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"archive", "checkpoint", "output", "source.pixel_sizes"})
