"""One step for many tasks, in this process; `on_ray.rows` does the same on Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

__all__ = ["Mapper", "Report", "in_process"]

Report = Callable[[str, int, int], None]
"""Called with (stage, done, total) after each task."""

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


class Mapper(Protocol):
    """Runs a step for every task; the results are in the order of the tasks."""

    def __call__(self, step: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], stage: str, /) -> list[ResultT]:
        """Run the step.

        Args:
            step: A function of a module, called with one task.
            tasks: Frozen dataclasses that can be pickled.
            stage: Name of the step in the progress.
        """


def in_process(report: Report) -> Mapper:
    """The plain loop, which is the reference.

    Example:
        >>> in_process(lambda *_: None)(abs, [-1, 2], "survey")
        [1, 2]
    """

    def run(step: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], stage: str, /) -> list[ResultT]:
        results = []
        for done, task in enumerate(tasks, 1):
            results.append(step(task))
            report(stage, done, len(tasks))
        return results

    return run
