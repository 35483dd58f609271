"""Settings of the plan job."""

from __future__ import annotations

from typing import ClassVar

from microseg_ray.settings.engine import EngineSettings

__all__ = ["PlanSettings"]


class PlanSettings(EngineSettings):
    """`plan`: what `segment` with the same arguments would do."""

    job: ClassVar[str] = "plan"
    inherits: ClassVar[str] = "segment"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"archive", "checkpoint", "output", "source.pixel_sizes"})
