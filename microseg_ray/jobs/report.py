"""The report job: prints where the HTML page is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import DONE, StartRay, console, print_accounts

if TYPE_CHECKING:
    from microseg_ray.settings import ReportSettings

__all__ = ["report"]


def report(settings: ReportSettings, _start: StartRay) -> int:
    """Write the HTML page of a run."""
    from microseg_ray.report import report_run
    from microseg_ray.runs.folder import Run

    console.print(escape(str(report_run(settings.run))))
    print_accounts(Run.open(settings.run).accounts())
    return DONE
