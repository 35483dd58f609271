"""Reading with a time-out: a dead mount, or a server that stops in mid-answer, must not hold a job for ever.

What blocks in the operating system cannot be interrupted. It runs in a helper thread therefore, and the caller
goes on without it.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from typing import TYPE_CHECKING, Any, TypeVar

from microseg_ray.errors import StalledInputError
from microseg_ray.settings.source import READ_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.settings import SourceSettings

__all__ = ["patience", "within"]

ResultT = TypeVar("ResultT")

_ADVICE = "check the disk or the server that it lies on; where it is only slow, raise source.read_timeout"


class _Helper(threading.Thread):
    """Does one piece of work after another; idle helpers are used again."""

    def __init__(self) -> None:
        super().__init__(name="microseg-reading", daemon=True)
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self.start()

    def give(self, work: Callable[[], None]) -> None:
        self._work.put(work)

    def run(self) -> None:
        _inside.helper = True
        while True:
            work = self._work.get()
            work()
            # What it closed over must not live until the next piece of work.
            del work


_idle: list[_Helper] = []
_inside = threading.local()


def patience(source: SourceSettings | None) -> float:
    """Seconds that one opening or reading of a file may take.

    Example:
        >>> patience(None)
        300.0
    """
    return READ_TIMEOUT if source is None else source.read_timeout


def within(seconds: float, path: str, work: Callable[[], ResultT]) -> ResultT:
    """What `work` returns or raises, if it does so in time.

    Work that is late goes on in its thread until the operating system lets it go; its result is dropped. Inside of `within`,
    the outer time-out counts.

    Args:
        seconds: The time-out.
        path: The file, for the message.
        work: Opens or reads.

    Raises:
        StalledInputError: It takes longer.

    Example:
        >>> within(10, "a.tif", lambda: 1 + 1)
        2
    """
    if getattr(_inside, "helper", False):
        return work()
    try:
        helper = _idle.pop()
    except IndexError:
        helper = _Helper()
    done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def job() -> None:
        try:
            found: tuple[Any, BaseException | None] = context.run(work), None
        except BaseException as error:  # noqa: BLE001 - raised again by the caller
            found = None, error
        _idle.append(helper)
        done.put(found)

    helper.give(job)
    try:
        result, error = done.get(timeout=seconds)
    except queue.Empty:
        reason = f"gave no answer within source.read_timeout ({seconds:g} s)"
        raise StalledInputError(path, reason, _ADVICE) from None
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
