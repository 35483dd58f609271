"""What the jobs say on the screen: progress, tables, what was quarantined."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from microseg_ray.names import text

if TYPE_CHECKING:
    from microseg_ray.accounts import Account
    from microseg_ray.files import Place
    from microseg_ray.quarantine import Failure

__all__ = [
    "DONE",
    "QUARANTINED",
    "STOPPED",
    "Bar",
    "Pace",
    "StartRay",
    "console",
    "duration",
    "print_accounts",
    "progress_bar",
    "quarantine",
    "shown",
]

DONE, STOPPED, QUARANTINED = 0, 1, 3
SHOWN_FAILURES = 20
LOG_SECONDS = 10.0
PACE_SECONDS = 300.0
StartRay = Callable[[], None]
console = Console(highlight=False)


class Pace:
    """Rate and time left of one bar.

    What is done at the first call was done before: by an earlier session of a run that is resumed, say. The rate is that of the
    last minutes, so that a change shows, and it falls while nothing gets done.

    Args:
        clock: Seconds.

    Example:
        >>> times = iter([0.0, 10.0, 20.0])
        >>> pace = Pace(lambda: next(times))
        >>> pace.text(900, 1000), pace.text(910, 1000), pace.text(920, 1000)
        ('', '1/s, 1 min 30 s left', '1/s, 1 min 20 s left')
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def text(self, done: int, total: int) -> str:
        """What is shown now; "" while there is no rate."""
        now = self._clock()
        if self._seen and done < self._seen[-1][1]:
            # Another round with the same name.
            self._seen.clear()
        if not self._seen or now - self._seen[-1][0] >= 1.0 or len(self._seen) == 1:
            self._seen.append((now, done))
        while len(self._seen) > 2 and now - self._seen[1][0] > PACE_SECONDS:
            self._seen.popleft()
        began, first = self._seen[0]
        if done <= first or now <= began:
            return ""
        rate = (done - first) / (now - began)
        shown_rate = f"{rate:.3g}/s" if rate >= 1 else f"{1 / rate:.3g} s each"
        return f"{shown_rate}, {duration((total - done) / rate)} left" if done < total else shown_rate


def duration(seconds: float) -> str:
    """A time in its two largest units.

    Example:
        >>> duration(5.4), duration(90), duration(7200), duration(200_000)
        ('5 s', '1 min 30 s', '2 h 0 min', '2 d 7 h')
    """
    whole = max(0, round(seconds))
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "min"), (whole % 60, "s")]
    first = next((place for place, (count, _) in enumerate(units) if count), len(units) - 1)
    return " ".join(f"{count} {unit}" for count, unit in units[first : first + 2])


class Bar:
    """A progress bar on a terminal, a line now and then in a log."""

    def __init__(self, bar: Progress | None) -> None:
        self._bar = bar
        self._tasks: dict[str, Any] = {}
        self._shown: dict[str, tuple[float, tuple[int, int, str] | None]] = {}
        self._paces: dict[str, Pace] = {}

    def update(self, what: str, done: int, total: int, detail: str = "") -> None:
        """Show that `done` of `total` are done, with rate and time left; what the first call says counts for neither."""
        given = detail
        detail = "  ".join(filter(None, (self._paces.setdefault(what, Pace()).text(done, total), detail)))
        if self._bar is not None:
            if what not in self._tasks:
                self._tasks[what] = self._bar.add_task(what, total=total, detail="")
            self._bar.update(self._tasks[what], completed=done, total=total, detail=detail)
            return
        now, line = time.monotonic(), f"{what}: {done} of {total} {detail}".rstrip()
        shown_at, last = self._shown.get(what, (now if done < total else 0.0, None))
        self._shown.setdefault(what, (shown_at, last))
        # The rate and the time left change at every call: alone they are no news, and no line.
        news, said_full = (done, total, given), last is not None and last[0] == last[1]
        if done < total and said_full:
            self._shown[what] = (shown_at, None)  # another round with the same name
        due = now - shown_at >= LOG_SECONDS and news != last
        if due or (done == total and done > 0 and not said_full):
            self._shown[what] = (now, news)
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


def quarantine(failures: Sequence[Failure], where: Place, accounts: Sequence[Account] = ()) -> int:
    """Name what was set aside, and say what became of everything that was met; the exit code."""
    if failures:
        _print_failures(failures, where)
    print_accounts(accounts)
    return QUARANTINED if failures or any(each.unaccounted for each in accounts) else DONE


def print_accounts(accounts: Sequence[Account]) -> None:
    """The last lines of a job: seen = used + set aside + not taken."""
    for each in accounts:
        console.print(str(each), markup=False, style="red" if each.unaccounted else None, soft_wrap=True)


def _print_failures(failures: Sequence[Failure], where: Place) -> None:
    console.print(f"[yellow]{len(failures)} quarantined[/], listed in {escape(str(where))}:")
    for failure in failures[:SHOWN_FAILURES]:
        console.print(f"  {escape(text(failure.path))} ({escape(failure.stage)}): {escape(failure.reason)}")
    if len(failures) > SHOWN_FAILURES:
        console.print(f"  ... and {len(failures) - SHOWN_FAILURES} more")


def shown(value: float | None) -> str:
    """A figure in a table; a dash where it is not defined."""
    return "-" if value is None else f"{value:.4f}"
