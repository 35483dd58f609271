"""What a worker does where micrographs are computed in strips: stream the pixels of a band, compare a mask with a tile."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.models.memory import release_memory
from microseg_ray.runs.bands import Division, band_pixels
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.stitching.seams import SeamAudit, audit_mask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.runs.bands import StripStream
    from microseg_ray.runs.tasks import AuditTask, BandTask, FinishTask
    from microseg_ray.settings import ClassSpec
    from microseg_ray.sources import View
    from microseg_ray.stitching import EnginePlan, Predictor, ShardPixels

__all__ = ["Streamer"]

_AUDITED_PIXELS = 1 << 24
_SMALLER = 4


@dataclass(frozen=True)
class Streamer:
    """The strips of a worker.

    Attributes:
        plan: The engine's plan.
        classes: The model's classes.
        read: Gives pixels (channel, y, x) of a box of a micrograph.
        model: Gives the model.
    """

    plan: EnginePlan
    classes: tuple[ClassSpec, ...]
    read: Callable[[str, View, Box], NDArray[Any]]
    model: Callable[[], Predictor]

    def stream(self, task: BandTask, *, raw_scores: bool = False) -> Iterator[tuple[tuple[int, int], ShardPixels]]:
        """Compute the shards of a band, from the top down; each must be used before the next is asked for.

        A worker that has not the memory for a strip tries once more in smaller ones; what was finished stands.

        Args:
            task: The band.
            raw_scores: Give float32 probabilities as the extra output.
        """
        plan = self.plan
        spec = MaskSpec(task.view.shape, self.classes, plan.shard)
        done: set[tuple[int, int]] = set()
        for rows in (plan.strip, max(plan.stride, plan.strip // _SMALLER)):
            parts = band_pixels(
                self._strips(rows),
                lambda box: self.read(task.path, task.view, box),
                [shard for shard in task.shards if shard not in done],
                spec,
                task.view.specimen,
                Division(plan, 1),
                task.limits,
                raw_scores=raw_scores,
            )
            try:
                for shard, result in parts:
                    yield shard, result
                    done.add(shard)
            except (MemoryError, RuntimeError) as error:
                if rows != plan.strip or not _out_of_memory(error):
                    raise
            else:
                return
            release_memory()

    def _strips(self, rows: int) -> StripStream:
        # Only models that have it are planned so.
        stream: StripStream = self.model().strips(rows)  # type: ignore[attr-defined]
        return stream

    def audit(self, task: FinishTask | AuditTask) -> SeamAudit:
        """Compare the mask on disk with a tile in its middle.

        A tile costs as much as a small micrograph, so few of those are looked at: one in sixteen, always the same.
        """
        plan, specimen = self.plan, task.view.specimen
        sampled = specimen.area >= _AUDITED_PIXELS or zlib.crc32(os.fsencode(task.name)) % 16 == 0
        if min(specimen.shape) <= 2 * plan.halo or not sampled:
            return SeamAudit(0, 0.0, 0)
        mask = MaskStore.open(task.store).mask
        return audit_mask(
            lambda box: self.read(task.path, task.view, box),
            lambda box: np.asarray(mask[box.slices]),
            self.model(),
            specimen.shape,
            plan,
            task.limits,
        )


def _out_of_memory(error: Exception) -> bool:
    # torch raises a RuntimeError on the CPU.
    return isinstance(error, MemoryError) or "memory" in str(error).lower()
