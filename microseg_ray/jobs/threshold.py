"""The threshold job: prints the areas."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine
from microseg_ray.jobs.tables import print_areas, print_dropped

if TYPE_CHECKING:
    from microseg_ray.settings import ThresholdSettings

__all__ = ["threshold"]


def threshold(settings: ThresholdSettings, _start: StartRay) -> int:
    """Write masks and areas, and print the areas."""
    from microseg_ray.runs.derived import threshold as thresholding

    with progress_bar() as bar:
        found = thresholding.threshold(settings, lambda done, total: bar.update("maps", done, total))
    print_areas(found.areas)
    print_dropped(found.dropped)
    console.print(f"masks and areas: {escape(str(found.folder))}")
    return quarantine(found.failures, found.folder / "failures.csv", found.accounts)
