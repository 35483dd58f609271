"""The classifier job: prints splits, epochs and how good the classifier is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.classes import print_class_metrics
from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from microseg_ray.settings import ClassifierJobSettings

__all__ = ["classifier"]


def classifier(settings: ClassifierJobSettings, _start: StartRay) -> int:
    """Train a classifier and print how good it is."""
    from microseg_ray.classification import fit_classifier

    with progress_bar() as bar:
        done = fit_classifier(settings, lambda epoch, epochs, line: bar.update("epochs", epoch, epochs, line))
    labelled = done.labelled
    table = Table("split", "groups", *map(escape, labelled.classes))
    for split in labelled.splits:
        own = labelled.of(split)
        counts = [str(sum(item.label == index for item in own)) for index in range(len(labelled.classes))]
        table.add_row(escape(split), str(len({item.row.group for item in own})), *counts)
    console.print(table)
    output = Path(settings.output).absolute()
    if labelled.leaks:
        what = f"{len(labelled.dropped)} micrographs left out of training" if settings.drop_leaks else "[red]kept[/]"
        console.print(f"{len(labelled.leaks)} leaks across splits, {what}: {escape(str(output / 'leaks.csv'))}")
    best = next(row for row in reversed(done.history) if row["best"])
    by = "training" if best["val_loss"] is None else "validation"
    console.print(f"{len(done.history)} epochs; best is epoch {best['epoch']} by {by} loss")
    if done.stopped:
        console.print(f"ended early: {escape(done.stopped)}")
    for split, metrics in done.metrics.items():
        print_class_metrics(metrics, f"split {split}")
    console.print(f"checkpoints: {escape(str(done.best))} and {escape(str(done.last))}")
    return quarantine(labelled.failures, output / "failures.csv", done.accounts)
