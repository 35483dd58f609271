"""The steps of the tile job as rows of a Ray dataset. Rows are coordinates, never pixels."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from microseg_ray.on_ray.resources import Demand, require
from microseg_ray.tiles import make

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from microseg_ray.settings import RaySettings, TileSettings
    from microseg_ray.tiles.make import Tiled
    from microseg_ray.tiles.mapping import Mapper, Report

__all__ = ["on_ray_data", "tile"]

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def on_ray_data(report: Report, demand: Demand) -> Mapper:
    """The same steps as rows of a Ray dataset.

    Tasks and results are frozen dataclasses. A row holds one pickled, as bytes: Arrow would infer a type of its own from
    the fields of each block, and ragged lists of two blocks do not agree.
    """
    import logging

    import ray.data
    from ray import cloudpickle

    # Execution plans and progress belong to Ray's developers; the job's own progress bar is enough for a user.
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    def run(step: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], stage: str, /) -> list[ResultT]:
        if not tasks:
            return []
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        blocks = min(len(tasks), 8 * demand.processes)

        def on_row(row: dict[str, Any]) -> dict[str, Any]:
            return {"order": row["order"], "result": cloudpickle.dumps(step(cloudpickle.loads(row["task"])))}

        rows = [{"order": order, "task": cloudpickle.dumps(task)} for order, task in enumerate(tasks)]
        dataset = ray.data.from_items(rows, override_num_blocks=blocks).map(
            on_row, compute=ray.data.TaskPoolStrategy(size=min(demand.processes, blocks)), **demand.elsewhere
        )
        results: dict[int, ResultT] = {}
        for done, row in enumerate(dataset.iter_rows(), 1):
            results[row["order"]] = cloudpickle.loads(row["result"])
            report(stage, done, len(tasks))
        return [results[order] for order in range(len(tasks))]

    return run


def dataset_mapper(start_ray: Callable[[], None], settings: RaySettings, report: Report, workers: int) -> Mapper:
    """Start Ray, check that it has enough CPUs, then return `on_ray_data`."""
    start_ray()
    demand = Demand.of(workers, settings, options="--workers")
    require(demand, settings)
    return on_ray_data(report, demand)


def tile(
    settings: TileSettings, report: Report = lambda *_: None, start_ray: Callable[[], None] = lambda: None
) -> Tiled:
    """`tiles.make.tile` on Ray Data; `workers: 0` runs in this process, without Ray.

    Args:
        settings: The job's settings.
        report: Called with (stage, done, total).
        start_ray: Called before Ray is used, once the settings and the names of the files are found good.
    """
    return make.tile(settings, report, partial(dataset_mapper, start_ray, settings.ray))
