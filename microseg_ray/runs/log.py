"""What happened in a run and when: RUN/logs/segment.jsonl, a JSON object a line, and warnings of slow and stuck shards.

The results of a run do not depend on it, and its identity knows nothing of it. The driver alone writes it, as outcomes come in.

```
{"time": "2026-11-28T01:02:03.456+00:00", "event": "shard", "run": "/data/run", "micrograph": "a.tif", "shard": [0, 1],
 "seconds": 0.41, "worker": "node3:4711"}
```
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import statistics
import threading
import time
from collections import deque
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

from microseg_ray.files import ObjectPath, rotate
from microseg_ray.names import text
from microseg_ray.runs.folder import LOG_FILES
from microseg_ray.runs.tasks import AuditTask, BandTask, BeginTask, FinishTask, LevelTask, PrepareTask, ShardTask

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from microseg_ray.files import Place
    from microseg_ray.runs.drive import Executor, Pending
    from microseg_ray.runs.tasks import Outcome

__all__ = ["Patience", "RunLog", "Watched", "watched"]

MOST_BYTES = 1 << 24
SENT_SECONDS = 30.0
"""How often a log in an object store is sent."""
_REMEMBERED = 200
_FEWEST = 20
_EVENTS = {
    PrepareTask: "prepared",
    ShardTask: "shard",
    BandTask: "band",
    BeginTask: "finishing",
    LevelTask: "pyramid",
    AuditTask: "seam",
    FinishTask: "finished",
}


@dataclass(frozen=True)
class Patience:
    """When a shard is slow, and when a run is stuck.

    Attributes:
        factor: A shard is slow that takes so many times the median of the last ones,
        slow: and at least so many seconds.
        stuck: Without an outcome for so many seconds, or for `factor` times the slowest of the last shards, a run is stuck.
    """

    factor: float = 5.0
    slow: float = 10.0
    stuck: float = 120.0


class _Sent:
    """A log in an object store, to which nothing can be appended: it is sent whole, every half minute and at its end.

    Args:
        path: The object.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path = path
        try:
            self._text = path.read_text()
        except FileNotFoundError:
            self._text = ""
        self._sent = time.monotonic()

    def write(self, line: str) -> None:
        self._text += line

    def flush(self) -> None:
        if time.monotonic() - self._sent > SENT_SECONDS:
            self._send()

    def tell(self) -> int:
        return len(self._text)

    def close(self) -> None:
        self._send()

    def _send(self) -> None:
        self._sent = time.monotonic()
        self._path.write(self._text.encode())


class RunLog:
    """Appends lines to the log of a run; at 16 MiB it is renamed and a new one begun, so that two of them are kept.

    Args:
        folder: The run folder.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     log = RunLog(Path(folder))
        ...     log.write("begin", micrographs=3)
        ...     log.close()
        ...     line = json.loads(Path(folder, "logs/segment.jsonl").read_text())
        >>> line["event"], line["micrographs"]
        ('begin', 3)
    """

    def __init__(self, folder: Place, most: int = MOST_BYTES) -> None:
        self._run, self._most = text(str(folder)), most
        self._path, self._older = (folder / name for name in LOG_FILES)
        self._lock = threading.Lock()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._opened()

    def _opened(self) -> IO[str] | _Sent:
        return _Sent(self._path) if isinstance(self._path, ObjectPath) else self._path.open("a", encoding="utf-8")

    def write(self, event: str, **fields: Any) -> None:
        """Append a line. A disk that is full stops the run at its next shard, not here."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "event": event, "run": self._run, **fields})
        with self._lock, contextlib.suppress(OSError):
            self._file.write(line + "\n")
            self._file.flush()
            if self._file.tell() > self._most:
                self._file.close()
                rotate(self._path, self._older)
                self._file = self._opened()

    def close(self) -> None:
        """Close the file."""
        with self._lock, contextlib.suppress(OSError):
            self._file.close()


class Watched:
    """An executor whose outcomes are logged.

    Args:
        inner: Runs the tasks.
        log: Where to.
        warn: Called with a line for the user, from another thread where a run is stuck.
        patience: When.
    """

    def __init__(
        self, inner: Executor, log: RunLog, warn: Callable[[str], None], patience: Patience | None = None
    ) -> None:
        self._inner, self._log, self._warn = inner, log, warn
        self._patience = patience or Patience()
        self._recent: deque[float] = deque(maxlen=_REMEMBERED)
        self._last = time.monotonic()

    def run(self, pending: Pending) -> Iterator[Outcome]:
        """As the inner one."""
        over = threading.Event()
        watch = threading.Thread(target=self._watch, args=(over,), daemon=True)
        self._last = time.monotonic()
        watch.start()
        try:
            for outcome in self._inner.run(pending):
                self._last = time.monotonic()
                self._note(outcome)
                yield outcome
        finally:
            over.set()
            watch.join()

    def close(self) -> None:
        """As the inner one."""
        self._inner.close()

    def _note(self, outcome: Outcome) -> None:
        task = outcome.task
        fields: dict[str, Any] = {"micrograph": text(task.name)}
        shards = 0
        match task:
            case ShardTask():
                fields["shard"], shards = list(task.shard), 1
            case BandTask():
                fields["shards"] = [list(task.shards[0]), list(task.shards[-1])]
                fields["count"] = shards = len(task.shards)
            case LevelTask():
                fields["shards"] = [list(task.shards[0]), list(task.shards[-1])]
                fields["count"] = len(task.shards)
            case AuditTask():
                fields["seam"] = task.seam
            case _:
                pass
        fields |= {"seconds": round(outcome.seconds, 3), "worker": outcome.worker}
        if not outcome.ok:
            self._log.write("failed", **fields, stage=task.stage, reason=outcome.reason)
            return
        self._log.write(_EVENTS[type(task)], **fields)
        if shards:
            self._judge(fields, outcome.seconds / shards)

    def _judge(self, fields: dict[str, Any], seconds: float) -> None:
        usual = statistics.median(self._recent) if len(self._recent) >= _FEWEST else None
        self._recent.append(seconds)
        if usual is not None and seconds > max(self._patience.slow, self._patience.factor * usual):
            self._log.write("slow", **fields, usual_seconds=round(usual, 3))
            where = f"shard {fields.get('shard') or fields.get('shards')} of {fields['micrograph']}"
            self._warn(f"slow: {where} took {seconds:.0f} s, {usual:.1f} s are usual ({fields['worker']})")

    def _watch(self, over: threading.Event) -> None:
        told = 0.0
        while not over.wait(min(5.0, self._patience.stuck / 4)):
            waited = time.monotonic() - self._last
            allowed = max(self._patience.stuck, self._patience.factor * max(list(self._recent), default=0.0))
            if waited > allowed and self._last != told:
                told = self._last
                self._log.write("stuck", seconds=round(waited, 1))
                self._warn(f"stuck: nothing was done for {waited:.0f} s; RUN/logs/segment.jsonl says what came last")


@contextlib.contextmanager
def watched(
    folder: Place, executor: Callable[[], Executor], warn: Callable[[str], None], patience: Patience | None = None
) -> Iterator[tuple[RunLog, Callable[[], Executor]]]:
    """The log of a session, and the executor whose outcomes go into it.

    Args:
        folder: The run folder.
        executor: Gives the executor.
        warn: Called with a line for the user.
        patience: When.
    """
    log = RunLog(folder)
    made: list[Watched] = []

    def give() -> Executor:
        if not made:
            made.append(Watched(executor(), log, warn, patience))
        return made[0]

    log.write("begin", pid=os.getpid(), host=socket.gethostname())
    how = "interrupted"
    try:
        yield log, give
        how = "end"
    finally:
        log.write(how)
        log.close()
