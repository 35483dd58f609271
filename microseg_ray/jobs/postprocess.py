"""The postprocess job: prints the areas of the derived run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine
from microseg_ray.jobs.tables import print_areas, print_dropped

if TYPE_CHECKING:
    from microseg_ray.settings import PostprocessSettings

__all__ = ["postprocess"]


def postprocess(settings: PostprocessSettings, start: StartRay) -> int:
    """Derive a run without specks and holes, and print its areas."""
    from microseg_ray.runs.derived import postprocess as postprocessing

    scheduler: postprocessing.Scheduler = "threads"
    if settings.workers:
        start()
        from microseg_ray.on_ray.dask import dask_scheduler
        from microseg_ray.on_ray.resources import Demand, require

        demand = Demand.of(settings.workers, settings.ray, options="--workers")
        require(demand, settings.ray)
        scheduler = dask_scheduler(demand)
    with progress_bar() as bar:
        result = postprocessing.postprocess(settings, lambda done, total: bar.update("shards", done, total), scheduler)
    print_areas(result.areas)
    print_dropped(result.dropped)
    console.print(f"{result.computed} shards computed, {len(result.kept)} micrographs were complete already")
    console.print(f"run: {escape(str(result.run.folder))}, made from {escape(str(result.parent.folder))}")
    return quarantine(result.failures, result.run.folder / "failures.csv", result.accounts)
