"""The jobs that make and read runs, as the command line runs them."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import DONE, STOPPED, StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from microseg_ray.runs.drive import Progress as RunProgress
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.forecast import Forecast
    from microseg_ray.runs.segment import PoolFactory
    from microseg_ray.settings import (
        EngineSettings,
        MeasureSettings,
        PlanSettings,
        PostprocessSettings,
        ReportSettings,
        SegmentSettings,
        VerifySettings,
    )

SHOWN_NOTES = 10
SHOWN_SECTIONS = 20


def segment(settings: SegmentSettings, start: StartRay) -> int:
    """Segment an archive and print its areas."""
    from microseg_ray.runs import segment as segmentation

    began = time.monotonic()
    with progress_bar() as bar:

        def report(progress: RunProgress) -> None:
            bar.update("micrographs opened", progress.opened, progress.micrographs)
            if progress.shards:
                detail = f"{progress.finished} of {progress.micrographs} finished"
                bar.update("shards", progress.shards_done, progress.shards, detail)

        result = segmentation.segment(settings, report, _pool(settings, start), on_forecast=print_forecast)
    ledger = result.ledger
    done = len({row.micrograph for row in result.areas})
    console.print(
        f"{ledger.computed} shards computed, {len(ledger.kept)} micrographs were complete already; {done} micrographs in "
        f"{time.monotonic() - began:.1f} s"
    )
    print_areas(result.areas)
    engine = result.plan.engine
    reason = f" ({result.plan.reason})" if result.plan.reason else ""
    seams = result.seams
    console.print(
        f"seams: {result.plan.verdict}{escape(reason)}; largest difference {seams['seam_max_abs']:.2g}, "
        f"{seams['seam_argmax_flips']} classes differ in {seams['pixels']} pixels looked at"
    )
    console.print(f"tile {engine.tile}, halo {engine.halo}")
    console.print(f"run: {escape(str(result.run.folder))}")
    for detail in ledger.details[:3]:
        console.print(detail, markup=False)
    return quarantine(ledger.failures, result.run.folder / "failures.csv")


def plan(settings: PlanSettings, start: StartRay) -> int:
    """Print what segment would do; the exit code says whether something would be quarantined."""
    from microseg_ray.runs import segment as segmentation

    with progress_bar() as bar:
        cost = segmentation.plan(
            settings,
            lambda progress: bar.update("micrographs opened", progress.opened, progress.micrographs),
            _pool(settings, start),
        )
    print_forecast(cost)
    return quarantine(cost.failures, Path(settings.output) / "failures.csv (not written by plan)")


def _pool(settings: EngineSettings, start: StartRay) -> PoolFactory | None:
    """The pool of Ray actors; None where the run stays in this process, so that Ray is not imported."""
    if settings.workers == 0:
        return None
    from microseg_ray.on_ray.actors import actor_pool

    return partial(actor_pool, start)


def print_forecast(cost: Forecast) -> None:
    """What a run will cost, as a table."""
    engine = cost.plan.engine
    reason = f" ({cost.plan.reason})" if cost.plan.reason else ""
    table = Table("plan", "", show_header=False)
    for name, value in (
        (
            "micrographs",
            f"{cost.micrographs}, {cost.complete} complete already, {len(cost.failures)} to be quarantined",
        ),
        ("shards", f"{cost.missing} of {cost.shards} to compute, {engine.shard} px a side"),
        (
            "tiles",
            f"about {cost.tiles}, at most {engine.tile} px, halo {engine.halo}, batch {engine.batch}, blend {engine.blend}",
        ),
        (
            "specimen",
            f"{cost.info_bars} with an info bar, which is left out; {cost.rescaled} rescaled to the model's pixel size",
        ),
        ("halo tax", f"{cost.halo_tax:.2f} pixels computed for each pixel kept"),
        ("seams", f"{cost.plan.verdict}{reason}"),
        ("memory", f"{cost.worker_bytes / 1024**3:.2f} GiB per worker, projected peak"),
        ("disk", f"at most {cost.disk_bytes / 1e9:.3f} GB, {cost.free_bytes / 1e9:.1f} GB free"),
    ):
        table.add_row(name, escape(value))
    console.print(table)
    for note, names in list(cost.notes.items())[:SHOWN_NOTES]:
        rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.print(f"[yellow]{escape(names[0])}{rest}[/]: {escape(note)}")
    if len(cost.notes) > SHOWN_NOTES:
        console.print(f"... and {len(cost.notes) - SHOWN_NOTES} more notes; each mask keeps its own")


def verify(settings: VerifySettings, _start: StartRay) -> int:
    """Recompute random shards of a run and compare the bytes; 1 on any difference."""
    from microseg_ray.runs.verify import verify as check

    with progress_bar() as bar:
        found = check(settings, lambda done, total: bar.update("shards", done, total))
    for problem in found.problems:
        console.print(f"[red]{escape(problem)}[/]")
    if found.advice:
        console.print(f"[yellow]{escape(found.advice)}[/]")
    console.print(
        f"{found.recomputed} shards recomputed, {found.equal} equal byte for byte; {found.recounted} shards recounted, "
        f"{found.recounted - found.miscounted} agree with the ledger"
    )
    return STOPPED if found.problems else DONE


def print_areas(rows: Sequence[Any], limit: int = 30) -> None:
    """The areas table on screen, the first lines of it."""
    table = Table("micrograph", "class", "pixels", "area fraction", "area um2", "pixel size um")
    for row in rows[:limit]:
        fraction = "-" if row.area_fraction is None else f"{row.area_fraction:.5f}"
        area = "-" if row.area_um2 is None else f"{row.area_um2:.6g}"
        size = "unknown" if row.pixel_size_um_y is None else f"{row.pixel_size_um_y:g} x {row.pixel_size_um_x:g}"
        table.add_row(escape(row.micrograph), escape(row.class_name), str(row.pixel_count), fraction, area, size)
    console.print(table)
    if len(rows) > limit:
        console.print(f"... and {len(rows) - limit} more rows in areas.csv")


def postprocess(settings: PostprocessSettings, start: StartRay) -> int:
    """Derive a run without specks and holes, and print its areas."""
    from microseg_ray.runs.derived import postprocess as postprocessing

    scheduler: postprocessing.Scheduler = "threads"
    if settings.workers:
        start()
        from microseg_ray.on_ray.dask import dask_scheduler

        scheduler = dask_scheduler(settings.workers)
    with progress_bar() as bar:
        result = postprocessing.postprocess(settings, lambda done, total: bar.update("shards", done, total), scheduler)
    print_areas(result.areas)
    console.print(f"{result.computed} shards computed, {len(result.kept)} micrographs were complete already")
    console.print(f"run: {escape(str(result.run.folder))}, made from {escape(str(result.parent.folder))}")
    return quarantine(result.failures, result.run.folder / "failures.csv")


def measure(settings: MeasureSettings, _start: StartRay) -> int:
    """Write a run's tables again from its counts, list sections and draw overlays where that is asked for."""
    from microseg_ray.runs.folder import Run

    run = Run.open(settings.run)
    failures = run.failures()
    with run.locked():
        if settings.pixel_size_um is not None:
            run.recalibrate(settings.pixel_size_um)
        rows = run.write_tables(run.names(), failures)
        print_areas(rows)
        if settings.sections is not None:
            _sections(settings, run)
        if settings.overlays:
            from microseg_ray.report.overlays import draw_overlays

            drawn = draw_overlays(run, settings.overlays)
            console.print(f"{len(drawn.written)} overlays: {escape(str(run.folder / 'overlays'))}")
            for name, reason in drawn.left_out.items():
                console.print(f"[yellow]{escape(name)}, no overlay:[/] {escape(reason)}")
    return quarantine(failures, run.folder / "failures.csv")


def _sections(settings: MeasureSettings, run: Run) -> None:
    """Which sections hold a class, and the percentages of all classes; no model is asked, and no truth."""
    from microseg_ray.evaluation.sections import ShapeRule, sections_of_run

    rule = ShapeRule(settings.find_max_pixels, settings.find_lines)
    found = sections_of_run(run, settings.sections or 1, settings.find, rule)
    found.write(run.folder)
    for name, shares in found.percent.items():
        parts = ", ".join(f"{spec.name} {share or '-'} %" for spec, share in zip(run.classes, shares, strict=True))
        console.print(f"{name}: {parts}", markup=False)
    rows = [(name, row) for name, listed in found.rows.items() for row in listed]
    for name, row in rows[:SHOWN_SECTIONS]:
        where = f"section {row.section} at (y, x) = ({row.y0}, {row.x0})"
        console.print(f"{name}, {where}: {row.class_name}, {row.pixel_count} px", markup=False)
    if len(rows) > SHOWN_SECTIONS:
        console.print(f"... and {len(rows) - SHOWN_SECTIONS} more rows in sections.csv")
    if not rows:
        console.print("no section holds it" if settings.find else "no section holds a class")


def report(settings: ReportSettings, _start: StartRay) -> int:
    """Write the HTML page of a run."""
    from microseg_ray.report import report_run

    console.print(escape(str(report_run(settings.run))))
    return DONE
