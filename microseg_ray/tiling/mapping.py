"""One step for many rows: in this process, or as rows of a Ray dataset. Rows are coordinates, never pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Mapper", "Report", "in_process", "on_ray_data"]

Report = Callable[[str, int, int], None]
Mapper = Callable[[Callable[[dict[str, Any]], dict[str, Any]], Sequence[dict[str, Any]], str], list[dict[str, Any]]]


def in_process(report: Report) -> Mapper:
    """The plain loop, which is the reference."""

    def run(
        step: Callable[[dict[str, Any]], dict[str, Any]], requests: Sequence[dict[str, Any]], stage: str
    ) -> list[dict[str, Any]]:
        results = []
        for done, request in enumerate(requests, 1):
            results.append(step(request))
            report(stage, done, len(requests))
        return results

    return run


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
