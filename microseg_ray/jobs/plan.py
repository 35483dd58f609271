"""The plan job: prints what segment would do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.jobs.console import StartRay, progress_bar, quarantine
from microseg_ray.jobs.pool import pool_factory
from microseg_ray.jobs.tables import print_forecast

if TYPE_CHECKING:
    from microseg_ray.settings import PlanSettings

__all__ = ["plan"]


def plan(settings: PlanSettings, start: StartRay) -> int:
    """Print what segment would do; the exit code says whether something would be quarantined."""
    from microseg_ray.runs import segment as segmentation

    with progress_bar() as bar:
        cost = segmentation.plan(
            settings,
            lambda progress: bar.update("micrographs opened", progress.opened, progress.micrographs),
            pool_factory(settings, start),
        )
    print_forecast(cost)
    return quarantine(cost.failures, Path(settings.output) / "failures.csv (not written by plan)", cost.accounts)
