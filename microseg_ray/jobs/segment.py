"""The segment job: prints the forecast, the areas and how the seams were made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import SHOWN_FAILURES, StartRay, console, progress_bar, quarantine
from microseg_ray.jobs.pool import pool_factory
from microseg_ray.jobs.tables import pieces, print_areas, print_dropped, print_forecast

if TYPE_CHECKING:
    from microseg_ray.runs.drive import Progress as RunProgress
    from microseg_ray.settings import SegmentSettings

__all__ = ["segment"]


def segment(settings: SegmentSettings, start: StartRay) -> int:
    """Segment an archive and print its areas."""
    from microseg_ray.runs import segment as segmentation
    from microseg_ray.stitching.seams import promise

    began = time.monotonic()
    with progress_bar() as bar:

        def report(progress: RunProgress) -> None:
            bar.update("micrographs opened", progress.opened, progress.micrographs)
            if progress.shards:
                detail = f"{progress.finished} of {progress.micrographs} finished"
                bar.update("shards", progress.shards_done, progress.shards, detail)

        warned: list[str] = []

        def warn(line: str) -> None:
            warned.append(line)
            if len(warned) <= SHOWN_FAILURES:
                console.print(f"[yellow]{escape(line)}[/]", soft_wrap=True)

        result = segmentation.segment(
            settings, report, pool_factory(settings, start), on_forecast=print_forecast, on_warning=warn
        )
    if len(warned) > SHOWN_FAILURES:
        console.print(f"... and {len(warned) - SHOWN_FAILURES} more warnings in logs/segment.jsonl")
    ledger = result.ledger
    done = len(result.areas) // len(result.run.classes)
    console.print(
        f"{ledger.computed} shards computed, {len(ledger.kept)} micrographs were complete already; {done} micrographs in "
        f"{time.monotonic() - began:.1f} s"
    )
    print_areas(result.areas)
    engine = result.plan.engine
    console.print(f"seams: {escape(promise(result.plan.verdict, result.plan.reason, result.seams))}")
    console.print(pieces(engine))
    print_dropped(result.dropped)
    if result.note:
        console.print(f"[yellow]{escape(result.note)}[/]")
    console.print(f"run: {escape(str(result.run.folder))}")
    for detail in ledger.details[:3]:
        console.print(detail, markup=False)
    return quarantine(ledger.failures, result.run.folder / "failures.csv", result.accounts)
