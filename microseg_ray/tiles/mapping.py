"""One step for many rows, in this process; `on_ray.rows` does the same on Ray Data. Rows are coordinates, never pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["Mapper", "Report", "in_process"]

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
