"""The next batches are read and changed while one is computed."""

from __future__ import annotations

import itertools
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

__all__ = ["prepared_ahead"]

_AHEAD = 2
"""Items that are prepared ahead: one more than needed, so that a slow one (a new shard, an elastic field) delays no step."""

T = TypeVar("T")
R = TypeVar("R")


def prepared_ahead(prepare: Callable[[T], R], wanted: Iterable[T]) -> Generator[tuple[R, float], None, None]:
    """Results in order, and the seconds that were waited for each; one thread prepares, which keeps the order.

    Close the generator where not all of it is taken.

    Example:
        >>> [result for result, _ in prepared_ahead(abs, [-1, 2, -3])]
        [1, 2, 3]
    """
    items = iter(wanted)
    with ThreadPoolExecutor(1) as thread:

        def coming(count: int) -> Iterator[Future[R]]:
            for item in itertools.islice(items, count):
                yield thread.submit(prepare, item)

        queue = deque(coming(_AHEAD))
        try:
            while queue:
                began = time.monotonic()
                result = queue.popleft().result()
                waited = time.monotonic() - began
                queue.extend(coming(1))
                yield result, waited
        finally:
            for left in queue:
                left.cancel()
