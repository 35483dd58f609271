"""The jobs that make and judge models, as the command line runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import (
    DONE,
    StartRay,
    console,
    progress_bar,
    quarantine,
    shown,
)

if TYPE_CHECKING:
    from microseg_ray.settings import EvaluateSettings, TrainSettings


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
        ious = [shown(figures["classes"][name]["iou"]) for name in result.classes]
        table.add_row(key, shown(figures["pixel_accuracy"]), shown(figures["mean_iou"]), *ious)
    console.print(table)
    console.print(f"{len(result.per_image)} micrographs; {escape(str(Path(settings.output) / 'metrics.json'))}")
    return quarantine(result.failures, Path(settings.output) / "failures.csv")
