"""The jobs about classes of whole micrographs, as the command line runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine, shown

if TYPE_CHECKING:
    from microseg_ray.settings.classify import ClassifierJobSettings, ClassifySettings

__all__ = ["classifier", "classify"]


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
        _print_metrics(metrics, f"split {split}")
    console.print(f"checkpoints: {escape(str(done.best))} and {escape(str(done.last))}")
    return quarantine(labelled.failures, output / "failures.csv")


def classify(settings: ClassifySettings, _start: StartRay) -> int:
    """Classify an archive and print how many micrographs each class has."""
    from microseg_ray.classification import classify as run

    with progress_bar() as bar:
        done = run(settings, lambda count, total: bar.update("micrographs", count, total))
    for index, name in enumerate(done.classes):
        own = [item for item in done.verdicts if item.label == index]
        least = min((float(item.probabilities[index]) for item in own), default=None)
        console.print(f"{escape(name)}: {len(own)} micrographs, least probability {shown(least)}")
    if done.metrics is not None:
        _print_metrics(done.metrics, "all")
    console.print(f"classes: {escape(str(done.folder / 'classes.csv'))}")
    return quarantine(done.failures, done.folder / "failures.csv")


def _print_metrics(metrics: dict[str, Any], title: str) -> None:
    table = Table("class", "precision", "recall", "F1", "micrographs", title=title)
    for name, figures in metrics["classes"].items():
        values = (shown(figures[key]) for key in ("precision", "recall", "f1"))
        table.add_row(escape(name), *values, str(figures["support"]))
    console.print(table)
    rule = metrics.get("one_feature_rule")
    beside = f"; one threshold on the mean gradient: {shown(rule['accuracy'])}" if rule else ""
    console.print(f"accuracy {shown(metrics['accuracy'])} of {metrics['micrographs']} micrographs{beside}")
