"""The verify job: prints how many recomputed shards are equal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import DONE, STOPPED, StartRay, console, print_accounts, progress_bar

if TYPE_CHECKING:
    from microseg_ray.settings import VerifySettings

__all__ = ["verify"]


def verify(settings: VerifySettings, _start: StartRay) -> int:
    """Recompute random shards of a run and compare the bytes; 1 on any difference."""
    from microseg_ray.runs.verify import verify as check

    with progress_bar() as bar:
        found = check(settings, lambda done, total: bar.update("shards", done, total))
    for problem in found.problems:
        console.print(f"[red]{escape(problem)}[/]")
    if found.advice:
        console.print(f"[yellow]{escape(found.advice)}[/]")
    console.print(
        f"{found.recomputed} shards recomputed, {found.equal} equal byte for byte; {found.recounted} shards recounted, "
        f"{found.recounted - found.miscounted} agree with the ledger"
    )
    print_accounts(found.accounts)
    return STOPPED if found.problems else DONE
