"""Where a run stands, read from its files alone: nothing is opened for writing, and no lock is taken.

A shard is done when its counts are there, and the time of that file is when it was committed. So rate, time left and the last
commit are those of the disk, whoever writes, on whichever machine, and after whatever crash.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from microseg_ray.errors import UNREADABLE
from microseg_ray.files import LOCK_FILE, ObjectPath
from microseg_ray.files.lease import LEASE_SECONDS, read_lease
from microseg_ray.names import text
from microseg_ray.quarantine import Failure
from microseg_ray.runs.folder import LOG_FILES, Run
from microseg_ray.runs.waiting import not_begun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.files import Place

__all__ = ["RunStatus", "run_status"]

Writer = Literal["writing", "none", "unknown"]

_LOCKS = Path("/proc/locks")
_FEWEST = 2
"""Shards of a session from which a rate is told."""


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        run: The folder.
        micrographs: Those with a mask, finished or not, with a failure, or of the archive and not begun.
        finished: Those that are finished: pyramid and metadata are written.
        not_begun: Those without a mask.
        shards: Of all masks that were begun.
        shards_done: Those that are committed.
        failures: What was quarantined when the run ended last, and in a session that goes on, by its log.
        writer: `writing`: a process of this machine holds the run's lock. `none`: no process of this machine does; one of
            another machine may. `unknown`: this system does not say who holds locks.
        writer_pid: Its process, or None.
        writer_host: Its machine, where the run lies in an object store: there the lock says so.
        last_commit: Seconds since the last shard was committed; None where there is none.
        session_shards: Shards committed since the run was started or resumed last.
        shards_per_second: Of this session alone, up to now where somebody writes; None with fewer than two shards.
        seconds_left: Of the shards that are missing, at this rate; None where nobody writes or there is no rate.
    """

    run: str
    micrographs: int
    finished: int
    not_begun: int
    shards: int
    shards_done: int
    failures: tuple[Failure, ...] = ()
    writer: Writer = "unknown"
    writer_pid: int | None = None
    writer_host: str | None = None
    last_commit: float | None = None
    session_shards: int = 0
    shards_per_second: float | None = None
    seconds_left: float | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing is missing but what was quarantined."""
        return self.finished + len({each.path for each in self.failures}) >= self.micrographs

    def as_json(self) -> dict[str, Any]:
        """The same for JSON; names as they are shown."""
        document = asdict(self) | {"run": text(self.run), "complete": self.complete}
        document["failures"] = [{key: text(value) for key, value in asdict(each).items()} for each in self.failures]
        return document


@dataclass
class _Sums:
    finished: int = 0
    shards: int = 0
    done: int = 0
    times: list[float] = field(default_factory=list)


def run_status(folder: str | os.PathLike[str], now: float | None = None) -> RunStatus:
    """Look at a run.

    Args:
        folder: The run folder.
        now: Seconds since the epoch; default: the clock of this machine. Files of another machine's clock are compared with it.

    Raises:
        StoreError: There is no run, or its run.json is damaged.
    """
    run = Run.open(folder)
    now = time.time() if now is None else now
    # Written at the start of each session, and at its end.
    began = (run.folder / "run.json").stat().st_mtime
    names = run.names()
    failures = sorted({*run.failures(), *_logged(run.folder)})
    sums = _Sums()
    for name in names:
        _add(sums, run.store_path(name))
    failed = {failure.path for failure in failures}
    later = not_begun(run, {*names, *failed})
    writer, pid, host = _writer(run.folder / LOCK_FILE, now)
    last = max(sums.times, default=None)
    session = sorted(each for each in sums.times if each >= began)
    rate = None
    if len(session) >= _FEWEST:
        # The first one has the start of the workers before it. A run that stands still becomes slower with each second.
        until = now if writer == "writing" else session[-1]
        rate = (len(session) - 1) / max(until - session[0], 1e-3)
    left = None if rate is None or writer == "none" else (sums.shards - sums.done) / rate
    return RunStatus(
        str(run.folder),
        len({*names, *failed, *later}),
        sums.finished,
        len(later),
        sums.shards,
        sums.done,
        tuple(failures),
        writer,
        pid,
        host,
        None if last is None else max(0.0, now - last),
        len(session),
        rate,
        left,
    )


def _logged(folder: Place) -> list[Failure]:
    """What a session set aside that has not come to its end, by its log: failures.csv is written at the end."""
    found: list[Failure] = []
    for name in reversed(LOG_FILES):
        try:
            with (folder / name).open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if '"event": "begin"' in line or '"event": "end"' in line:
                        found.clear()
                    elif '"event": "failed"' in line:
                        event = json.loads(line)
                        found.append(Failure(event["micrograph"], event["stage"], event["reason"]))
        except (OSError, *UNREADABLE):
            # No log, or a last line that is being written.
            continue
    return found


def _add(sums: _Sums, store: Place) -> None:
    """The shards of one mask, by the names and times of its files: opening each array would take a hundred times as long."""
    try:
        attributes = json.loads((store / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        record = attributes["microseg"]
        shards = math.prod(-(-int(side) // int(record["shard"])) for side in record["shape"])
    except (OSError, *UNREADABLE):
        # Just being made, or damaged, which `verify` names.
        return
    times = list(_times(store / "counts" / "c"))
    sums.finished += "ome" in attributes
    sums.shards += shards
    sums.done += min(len(times), shards)
    sums.times += times


def _times(folder: Place) -> Iterator[float]:
    """When each chunk below a folder was written; unfinished ones have names that are no numbers."""
    if isinstance(folder, ObjectPath):
        yield from (each["last_modified"].timestamp() for each in folder.below())
        return
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.isdigit():
                    if entry.is_dir(follow_symlinks=False):
                        yield from _times(Path(entry.path))
                    else:
                        yield entry.stat().st_mtime
    except OSError:
        return


def _writer(lock: Place, now: float) -> tuple[Writer, int | None, str | None]:
    """Who holds a lock, by the kernel's list: taking it to see would stop a job that begins in that moment."""
    if isinstance(lock, ObjectPath):
        return _leaseholder(lock, now)
    try:
        found = lock.stat()
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return ("none" if _LOCKS.exists() else "unknown"), None, None
    except OSError:
        return "unknown", None, None
    wanted = (os.major(found.st_dev), os.minor(found.st_dev), found.st_ino)
    for line in lines:
        fields = line.split()
        if "->" in fields or len(fields) < 6:
            continue
        major, minor, inode = fields[5].split(":")
        if int(inode) == wanted[2] and (int(major, 16), int(minor, 16)) == wanted[:2]:
            return "writing", int(fields[4]) if int(fields[4]) > 0 else None, None
    return "none", None, None


def _leaseholder(lock: ObjectPath, now: float) -> tuple[Writer, int | None, str | None]:
    """Who writes into a folder of an object store, on whichever machine: the lock is written anew every few seconds."""
    record, _ = read_lease(lock.parent)
    if record is None or record.free or now - lock.stat().st_mtime > LEASE_SECONDS:
        return "none", None, None
    host, _, process = record.owner.rpartition(":")
    return "writing", int(process) if process.isdecimal() else None, text(host)
