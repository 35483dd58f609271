"""The jobs as the command line runs them: call the engine, show progress, print the result, return the exit code.

The job NAME is the function NAME of the module NAME, with `_` in place of `-`; `settings.JOBS` lists the names.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from microseg_ray.settings.registry import module_name

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.jobs.console import StartRay

__all__ = ["job_step"]


def job_step(name: str) -> Callable[[Any, StartRay], int]:
    """Import the function that runs a job, and nothing of the other jobs.

    Args:
        name: A name in `settings.JOBS`.

    Returns:
        The function: called with the job's settings and what starts Ray, it returns the exit code.

    Example:
        >>> job_step("report").__name__
        'report'
    """
    return cast(
        "Callable[[Any, StartRay], int]",
        getattr(import_module(f"microseg_ray.jobs.{module_name(name)}"), module_name(name)),
    )
