"""What the jobs say on the screen: progress, tables, what was quarantined."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from microseg_ray.names import text

if TYPE_CHECKING:
    from pathlib import Path

    from microseg_ray.accounts import Account
    from microseg_ray.quarantine import Failure

__all__ = [
    "DONE",
    "QUARANTINED",
    "STOPPED",
    "Bar",
    "StartRay",
    "console",
    "print_accounts",
    "progress_bar",
    "quarantine",
    "shown",
]

DONE, STOPPED, QUARANTINED = 0, 1, 3
SHOWN_FAILURES = 20
LOG_SECONDS = 10.0
StartRay = Callable[[], None]
console = Console(highlight=False)


class Bar:
    """A progress bar on a terminal, a line now and then in a log."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}
        self._shown: dict[str, tuple[float, str]] = {}

    def update(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` are done."""
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total, detail="")
            self._bar.update(self._tasks[what], completed=done, total=total, detail=detail)
            return
        now, line = time.monotonic(), f"{what}: {done} of {total} {detail}".rstrip()
        shown_at, last = self._shown.get(what, (now if done < total else 0.0, ""))
        self._shown.setdefault(what, (shown_at, last))
        if line != last and (now - shown_at >= LOG_SECONDS or (done == total and done > 0)):
            self._shown[what] = (now, line)
            console.print(line, markup=False)


@contextmanager
def progress_bar() -> Iterator[Bar]:
    """A bar for the time of a job."""
    if not console.is_terminal:
        yield Bar(None)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[detail]}"),
    )
    with Progress(*columns, console=console) as bar:
        yield Bar(bar)


def quarantine(failures: Sequence[Failure], where: Path, accounts: Sequence[Account] = ()) -> int:
    """Name what was set aside, and say what became of everything that was met; the exit code."""
    if failures:
        _print_failures(failures, where)
    print_accounts(accounts)
    return QUARANTINED if failures or any(each.unaccounted for each in accounts) else DONE


def print_accounts(accounts: Sequence[Account]) -> None:
    """The last lines of a job: seen = used + set aside + not taken."""
    for each in accounts:
        console.print(str(each), markup=False, style="red" if each.unaccounted else None, soft_wrap=True)


def _print_failures(failures: Sequence[Failure], where: Path) -> None:
    console.print(f"[yellow]{len(failures)} quarantined[/], listed in {escape(str(where))}:")
    for failure in failures[:SHOWN_FAILURES]:
        console.print(f"  {escape(text(failure.path))} ({escape(failure.stage)}): {escape(failure.reason)}")
    if len(failures) > SHOWN_FAILURES:
        console.print(f"  ... and {len(failures) - SHOWN_FAILURES} more")


def shown(value: float | None) -> str:
    """A figure in a table; a dash where it is not defined."""
    return "-" if value is None else f"{value:.4f}"
