"""The next job: prints the places that are most worth labelling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine
from microseg_ray.names import text

if TYPE_CHECKING:
    from microseg_ray.settings.next import NextSettings

__all__ = ["next"]

_SHOWN = 10


def next(settings: NextSettings, _start: StartRay) -> int:  # noqa: A001 - jobs are named as on the command line
    """Rank the places of a run, write them and print the first; exit code 3 where a micrograph was left out."""
    from microseg_ray.accounts import Account
    from microseg_ray.files import local_folder
    from microseg_ray.quarantine import write_failures
    from microseg_ray.report.labelling.places import NEXT_FAILURES, Search, find_places, write_places
    from microseg_ray.report.labelling.rounds import Rounds
    from microseg_ray.report.viewer.labels import Labels
    from microseg_ray.runs.folder import Run

    run = Run.open(settings.run)
    folder = (
        local_folder(run.folder, "next") / "labels"
        if settings.labels is None
        else Path(settings.labels).expanduser().absolute()
    )
    labels = Labels(folder, run.classes)
    search = Search(settings.count, settings.side, settings.shards)
    with progress_bar() as bar:
        found = find_places(
            run, labels, search, Rounds(folder).mask, lambda done, total: bar.update("micrographs", done, total)
        )
    names = [each.name for each in run.classes]
    write_places(folder, found, names)
    write_failures(folder / NEXT_FAILURES, found.failures)
    table = Table("place", "micrograph", "y, x", "score", "why")
    for rank, place in enumerate(found.places[:_SHOWN], 1):
        box = place.window.box
        where = f"{box.y0}, {box.x0}"
        table.add_row(
            str(rank), escape(text(place.window.micrograph)), where, f"{place.value:.3f}", escape(place.reasons)
        )
    console.print(table)
    if found.note:
        console.print(f"[yellow]{escape(found.note)}[/]", soft_wrap=True)
    if not found.places:
        console.print("no place is left: all of what was looked at is labelled, or nothing is computed yet")
    console.print(f"{len(found.places)} places of {found.looked_at} micrographs: {escape(str(folder / 'next.csv'))}")
    seen = found.looked_at + len(found.failures)
    return quarantine(
        found.failures, folder / NEXT_FAILURES, [Account("files", seen, found.looked_at, len(found.failures))]
    )
