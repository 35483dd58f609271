"""Environment variables of worker processes."""

from __future__ import annotations

from microseg_ray.files.client import shared_environment

__all__ = ["worker_environment"]

# By default glibc maps and unmaps every large tensor: 200,000 page faults and 1.7 s of system time per 512 px tile on
# machines with slow page faults. These values make it reuse freed memory (docs/decisions/0004-allocator.md). glibc reads
# them at process start, so they cannot be set later.
# One arena: the peak of equal runs varied from 649 to 745 MiB with an arena per thread, from 653 to 716 MiB with one.
_ALLOCATOR = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(8 << 30),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
}


def worker_environment(threads: int) -> dict[str, str]:
    """Environment variables for a worker process.

    Args:
        threads: Threads of the numeric libraries.

    Example:
        >>> worker_environment(2)["OMP_NUM_THREADS"]
        '2'
    """
    return {**_ALLOCATOR, **shared_environment(), "OMP_NUM_THREADS": str(threads)}
