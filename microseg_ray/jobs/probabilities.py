"""The probabilities job: prints how many maps were written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from microseg_ray.settings import ProbabilitiesSettings

__all__ = ["probabilities"]


def probabilities(settings: ProbabilitiesSettings, _start: StartRay) -> int:
    """Write the probability maps of a run as files."""
    from microseg_ray.runs.probabilities import write_probabilities

    with progress_bar() as bar:
        done = write_probabilities(settings, lambda number, total: bar.update("maps", number, total))
    console.print(f"{len(done.maps)} probability maps in {escape(str(done.folder))}")
    return quarantine(done.failures, done.folder / "failures.csv", done.accounts)
