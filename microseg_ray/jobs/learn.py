"""The learn job: prints what a round of learning changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine
from microseg_ray.names import text

if TYPE_CHECKING:
    from microseg_ray.settings.learn import LearnSettings

__all__ = ["learn"]


def learn(settings: LearnSettings, _start: StartRay) -> int:
    """Learn from labels and print what changed; exit code 3 where a micrograph was set aside."""
    from microseg_ray.quarantine import write_failures
    from microseg_ray.report.labelling import learning
    from microseg_ray.report.viewer.subject import name_of

    with progress_bar() as bar:
        found = learning.learn(settings, bar.update)
    done = found.round
    table = Table("micrograph", "changed", "labelled pixels right before", "and now (they were trained on)")
    for change in done.changes:
        shares = (
            f"{100 * part / change.labelled:.1f} %" if change.labelled else "-"
            for part in (change.right_before, change.right_after)
        )
        changed = f"{100 * change.changed / max(1, change.pixels):.2f} %"
        table.add_row(escape(text(name_of(change.key))), changed, *shares)
    console.print(table)
    counts = ", ".join(f"{name} {count}" for name, count in zip(done.classes, done.labelled, strict=True))
    console.print(f"labelled pixels in the training tiles: {escape(counts)}", soft_wrap=True)
    times = ", ".join(f"{stage} {value:.1f} s" for stage, value in done.seconds.items())
    console.print(f"round {done.number}: {done.steps} steps; {times}")
    for note in found.notes:
        console.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    console.print(f"checkpoint: {escape(str(found.checkpoint))}", soft_wrap=True)
    where = found.checkpoint.parent.parent / "failures.csv"
    if found.failures:
        write_failures(where, found.failures)
    return quarantine(found.failures, where)
