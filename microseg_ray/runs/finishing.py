"""How a large micrograph is finished: level after level of its pyramid in pieces, its seams one by one, the metadata last.

A small micrograph is finished by one `FinishTask`. Of a large one no task grows with it, so that none runs into a time-out
because of its size, several workers share the work, and a killed run goes on after the last piece
(docs/decisions/0169-finishing-in-pieces.md).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from microseg_ray.runs.tasks import AuditTask, BeginTask, FinishTask, LevelTask
from microseg_ray.stitching.seams import SeamAudit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from microseg_ray.runs.store.shard_set import ShardSet
    from microseg_ray.runs.tasks import Outcome, Pieces, Task

__all__ = ["PIECE", "Finishings", "first_task"]

PIECE = 32
"""Shards of a level in one piece, at most: 128 shards of the level below are read for them."""


def first_task(task: FinishTask, grid: tuple[int, int]) -> FinishTask | BeginTask:
    """The task itself, or of a large micrograph the first of its pieces.

    Args:
        task: Finishes the micrograph as a whole.
        grid: Shards along (y, x).

    Example:
        >>> from microseg_ray.runs.tasks import Calibration
        >>> from microseg_ray.sources import View
        >>> whole = FinishTask("a", "a", "a", View((1, 1)), (0, 1), Calibration(None, "", None))
        >>> [type(first_task(whole, (side, side))).__name__ for side in (10, 11)]
        ['FinishTask', 'BeginTask']
    """
    if -(-grid[0] // 2) * -(-grid[1] // 2) <= PIECE:
        return task
    return BeginTask(task.name, task.path, task.store, task.view)


class Finishings:
    """The large micrographs that are being finished.

    Args:
        whole: Gives the task that would finish a micrograph as a whole.
    """

    def __init__(self, whole: Callable[[str], FinishTask]) -> None:
        self._whole = whole
        self._begun: dict[str, _Finishing] = {}

    def after(self, outcome: Outcome) -> Iterator[Task]:
        """The tasks that can be done after a piece was, and not before.

        Args:
            outcome: Of a `BeginTask`, `LevelTask` or `AuditTask` that is done.
        """
        name = outcome.task.name
        if isinstance(outcome.task, BeginTask):
            self._begun[name] = _Finishing(self._whole(name), outcome.pieces)
            return self._begun[name].next()
        # Pieces that were in flight when another one failed lead to nothing.
        return self._begun[name].after(outcome) if name in self._begun else iter(())

    def give_up(self, name: str) -> None:
        """Make no further pieces of a micrograph; one that is not being finished is fine.

        Args:
            name: Of the micrograph.
        """
        if name in self._begun:
            self._begun.pop(name).given_up = True


class _Finishing:
    """The tasks by which one large micrograph is finished.

    Args:
        task: Finishes it as a whole.
        pieces: What is left.
    """

    def __init__(self, task: FinishTask, pieces: Pieces) -> None:
        self._task = task
        self._seams = SeamAudit(0, 0.0, 0)
        self._stages = _stages(pieces.levels)
        self._audits = pieces.seams
        self._open = 0
        self.given_up = False

    def next(self) -> Iterator[Task]:
        if not self._stages and not self._audits:
            return iter([replace(self._task, seams=self._seams)])
        shards, count = self._stages.pop(0) if self._stages else (iter(()), 0)
        audits, self._audits = self._audits, 0
        self._open = -(-count // PIECE) + audits
        return self._made(shards, audits)

    def after(self, outcome: Outcome) -> Iterator[Task]:
        self._open -= 1
        if outcome.seams is not None:
            self._seams = self._seams.plus(outcome.seams)
        return iter(()) if self._open else self.next()

    def _made(self, shards: Iterator[tuple[int, int, int]], audits: int) -> Iterator[Task]:
        task = self._task
        for seam in range(audits):
            yield AuditTask(task.name, task.path, task.store, task.view, task.limits, seam)
        while not self.given_up and (piece := tuple(islice(shards, PIECE))):
            yield LevelTask(task.name, task.path, task.store, piece)


def _stages(levels: Sequence[ShardSet]) -> list[tuple[Iterator[tuple[int, int, int]], int]]:
    """The shards of each level and their number; the last levels together, where they are one piece."""
    stages = []
    for index, shards in enumerate(levels):
        left = sum(len(each) for each in levels[index:])
        if left <= PIECE:
            if left:
                stages.append((_numbered(levels[index:], index + 1), left))
            break
        if shards:
            stages.append((_numbered([shards], index + 1), len(shards)))
    return stages


def _numbered(levels: Sequence[ShardSet], first: int) -> Iterator[tuple[int, int, int]]:
    return ((level, *shard) for level, shards in enumerate(levels, first) for shard in shards)
