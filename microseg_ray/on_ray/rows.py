"""The steps of the tile job as rows of a Ray dataset. Rows are coordinates, never pixels."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, Any

from microseg_ray.tiles import make

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from microseg_ray.settings import TileSettings
    from microseg_ray.tiles.make import Tiled
    from microseg_ray.tiles.mapping import Mapper, Report

__all__ = ["on_ray_data", "tile"]


def on_ray_data(report: Report, workers: int) -> Mapper:
    """The same steps as rows of a Ray dataset; JSON keeps ragged lists out of Arrow's type inference."""
    import logging

    import ray.data

    # Execution plans and progress belong to Ray's developers; the job's own bar says what a user wants to know.
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    def run(
        step: Callable[[dict[str, Any]], dict[str, Any]], requests: Sequence[dict[str, Any]], stage: str
    ) -> list[dict[str, Any]]:
        if not requests:
            return []
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        blocks = min(len(requests), 8 * workers)

        def on_row(row: dict[str, Any]) -> dict[str, Any]:
            return {"order": row["order"], "result": json.dumps(step(json.loads(row["request"])))}

        rows = [{"order": order, "request": json.dumps(request)} for order, request in enumerate(requests)]
        dataset = ray.data.from_items(rows, override_num_blocks=blocks).map(
            on_row, compute=ray.data.TaskPoolStrategy(size=min(workers, blocks))
        )
        results: list[dict[str, Any]] = [{} for _ in requests]
        for done, row in enumerate(dataset.iter_rows(), 1):
            results[row["order"]] = json.loads(row["result"])
            report(stage, done, len(requests))
        return results

    return run


def dataset_mapper(start_ray: Callable[[], None], report: Report, workers: int) -> Mapper:
    """`on_ray_data` that starts Ray first."""
    start_ray()
    return on_ray_data(report, workers)


def tile(
    settings: TileSettings, report: Report = lambda *_: None, start_ray: Callable[[], None] = lambda: None
) -> Tiled:
    """`tiles.make.tile` on Ray Data; `workers: 0` runs in this process, without Ray.

    Args:
        settings: The job's settings.
        report: Called with (stage, done, total).
        start_ray: Called before Ray is used, once the settings and the names of the files are found good.
    """
    return make.tile(settings, report, partial(dataset_mapper, start_ray))
