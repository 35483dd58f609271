"""The demo: simulated micrographs with exact masks through every job, and the measured areas beside the true ones."""

from __future__ import annotations

import csv
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.errors import SettingsError
from microseg_ray.files import BOOKS, children, delete_file, delete_folder, move, sole_writer
from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine
from microseg_ray.jobs.tables import pieces
from microseg_ray.outputs import Kind, claim, foreign_in
from microseg_ray.settings import (
    DemoSettings,
    EvaluateSettings,
    ModelSettings,
    OptimizerSettings,
    SegmentSettings,
    TileSettings,
    TrainSettings,
    settings_from,
)

if TYPE_CHECKING:
    from microseg_ray.evaluation.result import Evaluation
    from microseg_ray.files import Place
    from microseg_ray.runs.segment import Segmented

__all__ = ["Demonstrated", "demo", "demonstrate"]

MARKER = ".microseg_demo"
TRAINING_SIDE = 768
HELD_OUT = 2
Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True)
class Demonstrated:
    """Result of the demo.

    Attributes:
        segmented: The run over the held-out micrographs, the large one among them.
        evaluation: Its masks against the exact ones.
        truth: True area fraction by (micrograph, class name).
        page: The HTML page.
    """

    segmented: Segmented
    evaluation: Evaluation
    truth: dict[tuple[str, str], float]
    page: Place


def demo(settings: DemoSettings, start: StartRay) -> int:
    """Everything on simulated micrographs, measured areas beside the true ones."""
    from microseg_ray.evaluation.metrics import classification_report

    began = time.monotonic()
    with progress_bar() as bar:
        shown = demonstrate(settings, bar.update, start)
    table = Table("micrograph", "class", "measured fraction", "true fraction", "difference", "area um2")
    for row in shown.segmented.areas:
        true = shown.truth[row.micrograph, row.class_name]
        measured = row.area_fraction or 0.0
        area = "-" if row.area_um2 is None else f"{row.area_um2:.1f}"
        table.add_row(row.micrograph, row.class_name, f"{measured:.5f}", f"{true:.5f}", f"{measured - true:+.5f}", area)
    console.print(table)
    console.print(classification_report(shown.evaluation.pooled, shown.evaluation.classes))
    engine = shown.segmented.plan
    console.print(f"seams: {engine.verdict}; {pieces(engine.engine)}")
    console.print(f"held-out mean IoU: {shown.evaluation.pooled.mean_iou:.4f}")
    console.print(f"page: {escape(str(shown.page))}")
    console.print(f"demo finished in {time.monotonic() - began:.0f} s")
    return quarantine(
        shown.segmented.ledger.failures, shown.segmented.run.folder / "failures.csv", shown.segmented.accounts
    )


def demonstrate(settings: DemoSettings, report: Report, start_ray: Callable[[], None]) -> Demonstrated:
    """Simulate, tile, train, segment, evaluate, report.

    Args:
        settings: The job's settings.
        report: Called with (stage, done, total, detail).
        start_ray: Called before Ray is used.

    Raises:
        SettingsError: The output holds something that no demo wrote.
        RunMismatchError: Another demo is writing there.
    """
    output = Path(settings.output).absolute()
    _require_own(output, overwrite=settings.overwrite)
    with sole_writer(output):
        _fresh_folder(output, overwrite=settings.overwrite)
        return _demonstrate(settings, output, report, start_ray)


def _demonstrate(settings: DemoSettings, output: Path, report: Report, start_ray: Callable[[], None]) -> Demonstrated:
    from microseg_ray.evaluation.job import evaluate
    from microseg_ray.on_ray import actors
    from microseg_ray.report import report_run
    from microseg_ray.simulation import simulate_archive

    learn, keep = output / "train", output / "archive"
    simulate_archive(learn, settings.count, (TRAINING_SIDE, TRAINING_SIDE), settings.seed)
    report("simulate", 1, 2, "")
    # The held-out archive has other seeds: nothing in it was seen in training.
    simulate_archive(keep, HELD_OUT, (1500, 1101), settings.seed + 1000)
    large = simulate_archive(output / "large", 1, (settings.size, settings.size), settings.seed + 2000)
    truth = _truth(keep) | _adopt(output / "large", keep, large)
    report("simulate", 2, 2, "")
    # The demo runs on any machine: with one CPU on one worker.
    settings = settings.model_copy(update={"workers": min(settings.workers, os.cpu_count() or 1)})
    if settings.workers:
        start_ray()
    _train(settings, learn, output, report)
    own = {"workers": settings.workers, "ray": settings.ray}
    segmented = actors.segment(
        settings_from(
            SegmentSettings,
            {
                "archive": str(keep / "images"),
                "checkpoint": str(output / "model" / "best"),
                "output": str(output / "run"),
                **own,
            },
        ),
        lambda progress: report("segment", progress.shards_done, progress.shards, "shards"),
        start_ray,
    )
    compared = {"masks": str(keep / "masks"), "predictions": str(output / "run"), "output": str(output / "evaluation")}
    evaluation = evaluate(settings_from(EvaluateSettings, compared))
    page = report_run(segmented.run.folder, truth, title="microseg_ray demo: simulated sections, measured and true")
    return Demonstrated(segmented, evaluation, truth, page)


def _train(settings: DemoSettings, learn: Path, output: Path, report: Report) -> None:
    from microseg_ray.on_ray import fits, rows
    from microseg_ray.simulation import simulate_micrograph

    tiled = {
        "images": str(learn / "images"),
        "masks": str(learn / "masks"),
        "output": str(output / "tiles"),
        "classes": simulate_micrograph((8, 8), 0).classes,
        "splits": {"val": 1 / settings.count},
        "tile": 256,
        "overlap": 32,
        "workers": settings.workers,
        "ray": settings.ray,
    }
    rows.tile(settings_from(TileSettings, tiled), lambda stage, done, total: report(f"tile ({stage})", done, total, ""))
    trained = {
        "tiles": str(output / "tiles"),
        "output": str(output / "model"),
        "epochs": settings.epochs,
        "batch": 8,
        "model": ModelSettings(name="unet", width=12, depth=3),
        "optimizer": OptimizerSettings(learning_rate=4e-3),
        # One worker with all cores: on two cores a second process only costs its start.
        "workers": min(1, settings.workers),
        "ray": settings.ray,
    }
    fits.train(
        settings_from(TrainSettings, trained),
        lambda progress: report("train", progress.epoch, progress.epochs, _epoch(progress.last)),
    )


def _epoch(last: dict[str, object] | None) -> str:
    return "" if last is None else f"validation mean IoU {last['val_mean_iou']:.4f}"


def _require_own(output: Path, *, overwrite: bool) -> list[Place]:
    """What an earlier demo left, to be deleted."""
    found = [path for path in children(output) if path.name not in BOOKS]
    if found:
        if not (output / MARKER).exists() or not overwrite:
            raise SettingsError(f"demo.output: {output} is not empty and no earlier demo's; give an empty folder")
        foreign = foreign_in(output)
        if foreign:
            raise SettingsError(
                f"demo.output: {foreign[0]} is not a demo's, so nothing in {output} is deleted; give an empty folder"
            )
    return found


def _fresh_folder(output: Path, *, overwrite: bool) -> None:
    # The lock stays, which this job holds.
    for path in _require_own(output, overwrite=overwrite):
        if path.is_dir():
            delete_folder(path)
        else:
            delete_file(path)
    claim(output, "demo", {MARKER: Kind.FILE}, proven=True)
    (output / MARKER).touch()


def _truth(folder: Path) -> dict[tuple[str, str], float]:
    with (folder / "truth.csv").open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    return {(_file_name(row["micrograph"]), row["class"]): float(row["area_fraction"]) for row in rows}


def _file_name(name: str) -> str:
    return name if name.endswith(".tif") else f"{name}.tif"


def _adopt(source: Path, archive: Path, written: list[tuple[Path, Path]]) -> dict[tuple[str, str], float]:
    """Move the large micrograph into the archive under a name of its own."""
    image, mask = written[0]
    claim(archive, "demo", dict.fromkeys(("images/large.tif", "masks/large.png"), Kind.FILE))
    move(image, archive / "images" / "large.tif")
    move(mask, archive / "masks" / "large.png")
    found = {("large.tif", name): value for (_, name), value in _truth(source).items()}
    delete_folder(source)
    return found
