"""The export-run job: prints how many files of each format were written."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from microseg_ray.settings.export_run import ExportRunSettings

__all__ = ["export_run"]


def export_run(settings: ExportRunSettings, _start: StartRay) -> int:
    """Write a run in other programs' formats."""
    from microseg_ray.runs.exports.job import export_run as export

    with progress_bar() as bar:
        done = export(settings, lambda number, total: bar.update("micrographs", number, total))
    counts = ", ".join(f"{count} {kind}" for kind, count in done.written.items())
    console.print(f"written: {counts} in {escape(str(done.folder))}")
    return quarantine(done.failures, done.folder / "failures.csv", done.accounts)
