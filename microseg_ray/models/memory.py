"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["release_memory"]


@functools.cache
def _trim() -> Callable[[int], int] | None:
    # Only glibc has it; elsewhere the allocator gives pages back by itself.
    found: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return found


def release_memory() -> None:
    """Give freed pages back to the system: between two shards, and where a graph gives up its memory.

    Kept memory fragments: without this a worker grew by 2 MB with each shard (benchmarks/memory.py), so that memory grew
    with the micrograph after all.

    Example:
        >>> release_memory()
    """
    trim = _trim()
    if trim is not None:
        trim(0)
