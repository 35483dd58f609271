"""What a worker does when the last shard of a micrograph is in: pyramid and seam audit, as a whole or in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import UNREADABLE
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.tasks import AuditTask, BeginTask, LevelTask, Outcome, Pieces
from microseg_ray.stitching import engine_grid
from microseg_ray.stitching.seams import SeamAudit, audit_seam, audit_seams, sampled_seams

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.runs.config import WorkerConfig
    from microseg_ray.runs.streaming import Streamer
    from microseg_ray.runs.tasks import FinishTask
    from microseg_ray.sources import View
    from microseg_ray.stitching import Predictor

__all__ = ["Finisher"]


@dataclass(frozen=True)
class Finisher:
    """The finishing of a worker.

    Attributes:
        config: What the run is.
        streamer: Compares masks that are made in strips.
        read: Gives pixels (channel, y, x) of a box of a micrograph.
        model: Gives the model.
        computing: Held while the model computes.
    """

    config: WorkerConfig
    streamer: Streamer
    read: Callable[[str, View, Box], NDArray[Any]]
    model: Callable[[], Predictor]
    computing: threading.Lock

    def do(self, task: BeginTask | LevelTask | AuditTask) -> Outcome:
        """Do one piece."""
        match task:
            case BeginTask():
                return self._begin(task)
            case LevelTask():
                return self._level(task)
            case AuditTask():
                return Outcome(task, ok=True, seams=self.seams(task, task.seam))

    def _begin(self, task: BeginTask) -> Outcome:
        """Make the empty levels of a pyramid, or find out what is left of one that was begun."""
        plan = self.config.plan
        seams = 1 if plan.strip else len(sampled_seams(engine_grid(task.view.specimen.shape, plan)))
        with self.config.writing():
            levels = MaskStore.open(task.store).levels.begin()
        return Outcome(task, ok=True, pieces=Pieces(tuple(levels), seams))

    def _level(self, task: LevelTask) -> Outcome:
        store = MaskStore.open(task.store)
        levels = store.levels
        for level, y, x in task.shards:
            with self.config.writing():
                try:
                    levels.make(level, (y, x))
                except UNREADABLE as error:
                    rows, columns = store.spec.shards
                    below = [(row, column) for row in (2 * y, 2 * y + 1) for column in (2 * x, 2 * x + 1)]
                    here = [each for each in below if each[0] < rows and each[1] < columns]
                    raise store.damaged(error, here if level == 1 else ()) from error
        return Outcome(task, ok=True)

    def seams(self, task: FinishTask | AuditTask, seam: int | None = None) -> SeamAudit:
        """Measure the sampled seams of a micrograph, or one of them.

        Args:
            task: Says which micrograph.
            seam: Which; None: all.
        """
        plan = self.config.plan
        grid = engine_grid(task.view.specimen.shape, plan)
        with self.computing:
            if plan.strip:
                return self.streamer.audit(task)
            if len(grid) <= 1:
                return SeamAudit(0, 0.0, 0)
            if seam is None:
                return audit_seams(lambda box: self._pixels(task, box), self.model(), grid, task.limits, plan=plan)
            pair = sampled_seams(grid)[seam]
            return audit_seam(lambda box: self._pixels(task, box), self.model(), grid, task.limits, pair, plan)

    def _pixels(self, task: FinishTask | AuditTask, box: Box) -> NDArray[Any]:
        return self.read(task.path, task.view, box)
