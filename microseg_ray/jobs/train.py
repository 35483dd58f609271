"""The train job: prints the epochs and where the checkpoints are."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from microseg_ray.settings import TrainSettings

__all__ = ["train"]


def train(settings: TrainSettings, start: StartRay) -> int:
    """Train and print where the checkpoints are."""
    from microseg_ray.fitting import train as training

    with progress_bar() as bar:

        def report(progress: training.TrainProgress) -> None:
            last = progress.last
            detail = f"epoch {progress.epoch}" if last is None else _epoch_line(last)
            bar.update("training steps" if progress.steps > 1 else "epochs", *progress.counted, detail)

        launch = None
        if settings.workers:
            from microseg_ray.on_ray.fits import launch_fit

            launch = partial(launch_fit, start)
        trained = training.train(settings, report, launch)
    row = next(item for item in reversed(trained.history) if item["best"] == "True")
    console.print(
        f"{len(trained.history)} epochs; best is epoch {row['epoch']} by {settings.select}: "
        f"validation mean IoU {row['val_mean_iou'] or 'not measured (no split val)'}, training mean IoU {row['train_mean_iou']}"
    )
    if trained.weights:
        console.print(escape(trained.weights))
    if trained.stopped:
        console.print(f"ended early: {escape(trained.stopped)}")
    console.print(f"checkpoints: {escape(str(trained.best))} and {escape(str(trained.last))}")
    if settings.unlabelled is not None:
        confident = float(trained.history[-1]["confident"] or 0)
        console.print(f"confident pixels of micrographs without labels: {confident:.1%} in the last epoch")
    return quarantine(list(trained.failures), trained.last.parent / "failures.csv", trained.accounts)


def _epoch_line(row: dict[str, Any]) -> str:
    parts = [f"epoch {row['epoch']}", f"loss {row['loss']:.4f}"]
    for key, name in (("train_mean_iou", "train mIoU"), ("val_mean_iou", "val mIoU")):
        if row[key] is not None:
            parts.append(f"{name} {row[key]:.4f}")
    return ", ".join(parts)
