"""The environment that every worker process is started in, by Ray or by hand."""

from __future__ import annotations

__all__ = ["worker_environment"]

# glibc maps and unmaps every large tensor anew by default: 200,000 page faults and 1.7 s of system time per 512 px tile
# where pages are slow to come. Kept memory is reused instead (docs/decisions/0004-allocator.md). Read by glibc when a
# process starts, so it cannot be set from inside.
# One arena: with one for each thread the peak of equal runs spread from 649 to 745 MiB, with one from 653 to 716.
_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
}


def worker_environment(threads: int) -> dict[str, str]:
    """Environment variables for a worker that computes with so many threads.

    Args:
        threads: Threads of the numeric libraries.

    Example:
        >>> worker_environment(2)["OMP_NUM_THREADS"]
        '2'
    """
    return {**_ALLOCATOR, "OMP_NUM_THREADS": str(threads)}
