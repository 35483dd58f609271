"""The classify job: prints how many micrographs each class has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.classes import print_class_metrics
from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine, shown

if TYPE_CHECKING:
    from microseg_ray.settings import ClassifySettings

__all__ = ["classify"]


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
        print_class_metrics(done.metrics, "all")
    console.print(f"classes: {escape(str(done.folder / 'classes.csv'))}")
    return quarantine(done.failures, done.folder / "failures.csv", done.accounts)
