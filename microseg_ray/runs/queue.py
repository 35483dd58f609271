"""The tasks that wait: made one after another as they are needed, and those that came up on the way before them."""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from microseg_ray.runs.tasks import Task

__all__ = ["TaskQueue"]


class TaskQueue:
    """What an executor takes its tasks from; a million of them take no more memory than one.

    Args:
        tasks: In their order; each is made when it is asked for.

    Example:
        >>> queue = TaskQueue(iter("ab"))
        >>> queue.appendleft("first")
        >>> [queue.popleft() for _ in range(3)], bool(queue)
        (['first', 'a', 'b'], False)
    """

    def __init__(self, tasks: Iterable[Task] = ()) -> None:
        self._tasks: list[Iterator[Task]] = [iter(tasks)]
        self._next: deque[Task] = deque()

    def __bool__(self) -> bool:
        """Whether a task is left."""
        while self._tasks and not self._next:
            self._next.extend(islice(self._tasks[-1], 1))
            if not self._next:
                self._tasks.pop()
        return bool(self._next)

    def popleft(self) -> Task:
        """The next task.

        Raises:
            IndexError: None is left.
        """
        if not self:
            raise IndexError("no task is left")
        return self._next.popleft()

    def appendleft(self, task: Task) -> None:
        """Put a task before all others."""
        self._next.appendleft(task)

    def insert(self, tasks: Iterable[Task]) -> None:
        """Put tasks before those that the queue was made with; each is made when it is asked for.

        Example:
            >>> queue = TaskQueue(iter("yz"))
            >>> queue.insert(iter("ab"))
            >>> [queue.popleft() for _ in range(4)]
            ['a', 'b', 'y', 'z']
        """
        self._tasks.append(iter(tasks))
