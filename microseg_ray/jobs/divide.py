"""The divide job: prints how many regions each split has."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from microseg_ray.settings import DivideSettings

__all__ = ["divide"]


def divide(settings: DivideSettings, _start: StartRay) -> int:
    """Write regions of micrographs and their table."""
    from microseg_ray import catalog

    with progress_bar() as bar:
        done = catalog.divide(settings, lambda number, total: bar.update("divide", number, total))
    counts = Counter(row.split for row in done.rows)
    per_split = ", ".join(f"{split} {count}" for split, count in sorted(counts.items()))
    console.print(
        f"{len(done.rows)} regions ({escape(per_split)}), listed in {escape(str(done.folder / 'catalog.csv'))}"
    )
    return quarantine(done.failures, done.folder / "failures.csv", done.accounts)
