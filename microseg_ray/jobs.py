"""The jobs as the command line runs them: call the engine, show progress, print what came out, give the exit code."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from microseg_ray.archive.drive import Progress as RunProgress
    from microseg_ray.archive.forecast import Forecast
    from microseg_ray.catalog import Failure
    from microseg_ray.settings import (
        DemoSettings,
        EvaluateSettings,
        InfoSettings,
        MeasureSettings,
        PlanSettings,
        PostprocessSettings,
        ReportSettings,
        SegmentSettings,
        SimulateSettings,
        TileSettings,
        TrainSettings,
        VerifySettings,
    )

__all__ = ["STEPS", "Bar", "progress_bar"]

DONE, STOPPED, QUARANTINED = 0, 1, 3
SHOWN_FAILURES = 20
LOG_SECONDS = 10.0
StartRay = Callable[[], None]
console = Console(highlight=False)


class Bar:
    """A progress bar on a terminal, a line now and then in a log."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, tuple[float, str]] = {}

    def update(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` are done."""
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total, detail="")
            self._bar.update(self._tasks[what], completed=done, total=total, detail=detail)
            return
        now, line = time.monotonic(), f"{what}: {done} of {total} {detail}".rstrip()
        told, last = self._told.get(what, (now if done < total else 0.0, ""))
        self._told.setdefault(what, (told, last))
        if line != last and (now - told >= LOG_SECONDS or (done == total and done > 0)):
            self._told[what] = (now, line)
            console.print(line, markup=False)


@contextmanager
def progress_bar() -> Iterator[Bar]:
    """A bar for the time of a job."""
    if not console.is_terminal:
        yield Bar(None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield Bar(bar)


def _quarantine(failures: Sequence[Failure], where: Path) -> int:
    """Name what was set aside; the exit code."""
    if not failures:
        return DONE
    console.print(f"[yellow]{len(failures)} quarantined[/], listed in {escape(str(where))}:")
    for failure in failures[:SHOWN_FAILURES]:
        console.print(f"  {escape(failure.path)} ({escape(failure.stage)}): {escape(failure.reason)}")
    if len(failures) > SHOWN_FAILURES:
        console.print(f"  ... and {len(failures) - SHOWN_FAILURES} more")
    return QUARANTINED


def simulate(settings: SimulateSettings, _start: StartRay) -> int:
    """Write simulated micrographs with exact masks."""
    from microseg_ray.simulation import simulate_archive

    size = (settings.size, settings.size) if isinstance(settings.size, int) else settings.size
    written = simulate_archive(Path(settings.output), settings.count, size, settings.seed, settings.preset)
    console.print(f"{len(written)} micrographs of {size[0]} x {size[1]} px with masks in {escape(settings.output)}")
    return DONE


def tile(settings: TileSettings, start: StartRay) -> int:
    """Make a tile store and print what is in it."""
    from microseg_ray import tiling

    with progress_bar() as bar:
        tiled = tiling.tile(settings, bar.update, start)
    table = Table("split", "micrographs", "tiles", *(item.name for item in settings.classes))
    for line in tiled.summary:
        table.add_row(line.split, str(line.micrographs), str(line.tiles), *(f"{share:.4f}" for share in line.fractions))
    console.print(table)
    spec = tiled.store.spec
    where = escape(str(tiled.store.folder))
    console.print(f"{spec.tiles} tiles of {spec.side} px ({spec.channels} channel, {spec.dtype}) in {where}")
    if settings.scaling.clahe is not None:
        console.print(
            "[yellow]warning:[/] scaling.clahe equalises each tile by itself: what a model sees of a pixel depends on the "
            "tile, so stitched masks can show where tiles meet, and runs will say unsafe"
        )
    if tiled.left_out:
        console.print(f"{tiled.left_out} tiles without enough labelled pixels were left out")
    return _quarantine(tiled.failures, tiled.store.folder / "failures.csv")


def train(settings: TrainSettings, start: StartRay) -> int:
    """Train and print where the checkpoints are."""
    from microseg_ray import training

    with progress_bar() as bar:

        def report(progress: training.TrainProgress) -> None:
            last = progress.last
            detail = f"epoch {progress.epoch}" if last is None else _epoch_line(last)
            done = (progress.epoch - 1) * progress.steps + progress.step if progress.steps > 1 else progress.epoch
            total = progress.epochs * progress.steps if progress.steps > 1 else progress.epochs
            bar.update("training steps" if progress.steps > 1 else "epochs", done, total, detail)

        trained = training.train(settings, report, start)
    row = max(trained.history, key=lambda item: float(item["val_mean_iou"] or item["train_mean_iou"] or 0))
    console.print(
        f"{len(trained.history)} epochs; best is epoch {row['epoch']}: "
        f"validation mean IoU {row['val_mean_iou'] or 'not measured (no split val)'}, training mean IoU {row['train_mean_iou']}"
    )
    console.print(f"checkpoints: {escape(str(trained.best))} and {escape(str(trained.last))}")
    return DONE


def _epoch_line(row: dict[str, Any]) -> str:
    parts = [f"epoch {row['epoch']}", f"loss {row['loss']:.4f}"]
    for key, name in (("train_mean_iou", "train mIoU"), ("val_mean_iou", "val mIoU")):
        if row[key] is not None:
            parts.append(f"{name} {row[key]:.4f}")
    return ", ".join(parts)


def evaluate(settings: EvaluateSettings, _start: StartRay) -> int:
    """Compare masks and print the classification report."""
    from microseg_ray import evaluation
    from microseg_ray.metrics import classification_report

    with progress_bar() as bar:
        result = evaluation.evaluate(settings, lambda done, total: bar.update("micrographs", done, total))
    console.print(classification_report(result.pooled, result.classes))
    document = result.document()
    table = Table("", "pixel accuracy", "mean IoU", *(f"IoU {name}" for name in result.classes))
    for key in ("pooled", "per_image"):
        figures = document[key]
        ious = [_shown(figures["classes"][name]["iou"]) for name in result.classes]
        table.add_row(key, _shown(figures["pixel_accuracy"]), _shown(figures["mean_iou"]), *ious)
    console.print(table)
    console.print(f"{len(result.per_image)} micrographs; {escape(str(Path(settings.output) / 'metrics.json'))}")
    return _quarantine(result.failures, Path(settings.output) / "failures.csv")


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def segment(settings: SegmentSettings, start: StartRay) -> int:
    """Segment an archive and print its areas."""
    from microseg_ray import segmentation

    began = time.monotonic()
    with progress_bar() as bar:

        def report(progress: RunProgress) -> None:
            bar.update("micrographs opened", progress.opened, progress.micrographs)
            if progress.shards:
                detail = f"{progress.finished} of {progress.micrographs} finished"
                bar.update("shards", progress.shards_done, progress.shards, detail)

        result = segmentation.segment(settings, report, start, on_forecast=print_forecast)
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
    return _quarantine(ledger.failures, result.run.folder / "failures.csv")


def plan(settings: PlanSettings, start: StartRay) -> int:
    """Print what segment would do; the exit code says whether something would be quarantined."""
    from microseg_ray import segmentation

    with progress_bar() as bar:
        cost = segmentation.plan(
            settings, lambda progress: bar.update("micrographs opened", progress.opened, progress.micrographs), start
        )
    print_forecast(cost)
    return _quarantine(cost.failures, Path(settings.output) / "failures.csv (not written by plan)")


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
        ("halo tax", f"{cost.halo_tax:.2f} pixels computed for each pixel kept"),
        ("seams", f"{cost.plan.verdict}{reason}"),
        ("memory", f"{cost.worker_bytes / 1024**3:.2f} GiB per worker, projected peak"),
        ("disk", f"at most {cost.disk_bytes / 1e9:.3f} GB, {cost.free_bytes / 1e9:.1f} GB free"),
    ):
        table.add_row(name, escape(value))
    console.print(table)


def verify(settings: VerifySettings, _start: StartRay) -> int:
    """Recompute random shards of a run and compare the bytes; 1 on any difference."""
    from microseg_ray.verification import verify as check

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
    from microseg_ray import postprocessing

    scheduler: postprocessing.Scheduler = "threads"
    if settings.workers:
        start()
        import ray
        from ray.util.dask import ray_dask_get

        # As many tasks at a time as workers were asked for.
        share = max(0.01, float(ray.cluster_resources().get("CPU", 1.0)) / settings.workers)
        scheduler = partial(ray_dask_get, ray_remote_args={"num_cpus": int(share) if share > 1 else share})
    with progress_bar() as bar:
        result = postprocessing.postprocess(settings, lambda done, total: bar.update("shards", done, total), scheduler)
    print_areas(result.areas)
    console.print(f"{result.computed} shards computed, {len(result.kept)} micrographs were complete already")
    console.print(f"run: {escape(str(result.run.folder))}, made from {escape(str(result.parent.folder))}")
    return _quarantine(result.failures, result.run.folder / "failures.csv")


def measure(settings: MeasureSettings, _start: StartRay) -> int:
    """Write a run's tables again from its counts."""
    from microseg_ray.archive import Run

    run = Run.open(settings.run)
    failures = run.failures()
    with run.locked():
        if settings.pixel_size_um is not None:
            run.recalibrate(settings.pixel_size_um)
        rows = run.write_tables(run.names(), failures)
    print_areas(rows)
    return _quarantine(failures, run.folder / "failures.csv")


def info(settings: InfoSettings, _start: StartRay) -> int:
    """Say what the engine sees in files."""
    from microseg_ray.catalog import Failure as Failed
    from microseg_ray.errors import InputError
    from microseg_ray.sources import open_micrograph

    failures = []
    for path in settings.files:
        try:
            with open_micrograph(path) as micrograph:
                seen = micrograph.info
        except InputError as error:
            failures.append(Failed(path, "open", str(error).removeprefix(f"{path}: ")))
            continue
        size = "unknown" if seen.pixel_size_um is None else f"{seen.pixel_size_um[0]:g} x {seen.pixel_size_um[1]:g} um"
        source = f" ({seen.pixel_size_source})" if seen.pixel_size_um is not None else ""
        reading = "regions are read lazily" if seen.lazy else f"decoded whole, {seen.decoded_bytes / 1e6:.1f} MB"
        console.print(f"[bold]{escape(path)}[/]")
        side = f"{seen.shape[0]} x {seen.shape[1]} px (height x width)"
        console.print(f"  {seen.format}, {side}, {seen.channels} channel, {seen.dtype}")
        console.print(f"  pixel size (y x x): {size}{escape(source)}; {reading}")
    for failure in failures:
        console.print(f"[yellow]{escape(failure.path)}[/]: {escape(failure.reason)}")
    return QUARANTINED if failures else DONE


def report(settings: ReportSettings, _start: StartRay) -> int:
    """Write the HTML page of a run."""
    from microseg_ray.report import report_run

    console.print(escape(str(report_run(settings.run))))
    return DONE


def demo(settings: DemoSettings, start: StartRay) -> int:
    """Everything on simulated micrographs, measured areas beside the true ones."""
    from microseg_ray import demo as demonstration
    from microseg_ray.metrics import classification_report

    began = time.monotonic()
    with progress_bar() as bar:
        shown = demonstration.demo(settings, bar.update, start)
    table = Table("micrograph", "class", "measured fraction", "true fraction", "difference", "area um2")
    for row in shown.segmented.areas:
        true = shown.truth[row.micrograph, row.class_name]
        measured = row.area_fraction or 0.0
        area = "-" if row.area_um2 is None else f"{row.area_um2:.1f}"
        table.add_row(row.micrograph, row.class_name, f"{measured:.5f}", f"{true:.5f}", f"{measured - true:+.5f}", area)
    console.print(table)
    console.print(classification_report(shown.evaluation.pooled, shown.evaluation.classes))
    engine = shown.segmented.plan
    console.print(f"seams: {engine.verdict}; tile {engine.engine.tile}, halo {engine.engine.halo}")
    console.print(f"held-out mean IoU: {shown.evaluation.pooled.mean_iou:.4f}")
    console.print(f"page: {escape(str(shown.page))}")
    console.print(f"demo finished in {time.monotonic() - began:.0f} s")
    return _quarantine(shown.segmented.ledger.failures, shown.segmented.run.folder / "failures.csv")


STEPS: dict[str, Callable[[Any, StartRay], int]] = {
    "simulate": simulate,
    "tile": tile,
    "train": train,
    "evaluate": evaluate,
    "plan": plan,
    "segment": segment,
    "verify": verify,
    "postprocess": postprocess,
    "measure": measure,
    "report": report,
    "info": info,
    "demo": demo,
}
