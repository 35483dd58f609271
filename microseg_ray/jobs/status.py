"""The status job: prints where a run stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import DONE, QUARANTINED, SHOWN_FAILURES, StartRay, console, duration
from microseg_ray.names import text

if TYPE_CHECKING:
    from microseg_ray.runs.status import RunStatus
    from microseg_ray.settings import StatusSettings

__all__ = ["status"]

_STALE_SECONDS = 60.0


def status(settings: StatusSettings, _start: StartRay) -> int:
    """Print where a run stands; exit code 3 where something was quarantined."""
    from microseg_ray.runs.status import run_status

    found = run_status(settings.run)
    if settings.as_json:
        print(json.dumps(found.as_json(), ensure_ascii=True))
    else:
        _print(found)
    return QUARANTINED if found.failures else DONE


def _print(found: RunStatus) -> None:
    console.print(f"run: {escape(text(found.run))}", soft_wrap=True)
    begun = f", {found.not_begun} not begun" if found.not_begun else ""
    failed = len({each.path for each in found.failures})
    aside = f", {failed} quarantined" if failed else ""
    console.print(f"micrographs: {found.finished} of {found.micrographs} finished{aside}{begun}")
    share = f" ({100 * found.shards_done / found.shards:.1f} %)" if found.shards else ""
    console.print(f"shards: {found.shards_done} of {found.shards} done{share}")
    if found.last_commit is not None:
        console.print(f"last commit: {duration(found.last_commit)} ago")
    console.print(_writer(found), soft_wrap=True)
    if found.shards_per_second is not None:
        rate = f"{found.shards_per_second:.3g} shards/s over {found.session_shards} shards of the last session"
        left = "" if found.seconds_left is None or found.complete else f"; about {duration(found.seconds_left)} left"
        console.print(f"rate: {rate}{left}")
    for each in found.failures[:SHOWN_FAILURES]:
        console.print(
            f"  [yellow]{escape(text(each.path))}[/] ({escape(each.stage)}): {escape(each.reason)}", soft_wrap=True
        )
    if len(found.failures) > SHOWN_FAILURES:
        console.print(f"  ... and {len(found.failures) - SHOWN_FAILURES} more in failures.csv")


def _writer(found: RunStatus) -> str:
    if found.writer == "writing":
        who = "a job" if found.writer_pid is None else f"process {found.writer_pid}"
        slow = found.last_commit is not None and found.last_commit > _STALE_SECONDS and not found.complete
        where = "this machine" if found.writer_host is None else f"the machine {found.writer_host}"
        return f"writer: {who} of {where}" + (", but nothing was committed for a while" if slow else "")
    if found.writer == "unknown":
        return "writer: this system does not say who holds the run's lock"
    if found.complete:
        return "writer: none; the run is complete"
    return "writer: none on this machine; if none is on another either, the command that made the run goes on with it"
