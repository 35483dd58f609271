"""What the page starts: `next` and `learn`, one at a time, each in a process of its own that ends with the page's."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import InputError
from microseg_ray.report.labelling.rounds import PROGRESS_FILE, Rounds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Work"]

_PATIENCE = 10.0
"""Seconds that a process has to end by itself."""
_LINES = 12
_KINDS = ("next", "learn")


class Work:
    """The one process that a page has started, running or ended.

    Args:
        run: The run's folder.
        labels: The folder of labels.
    """

    def __init__(self, run: Path, labels: Path) -> None:
        self._run, self._labels = run, labels
        self._lock = threading.Lock()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the page
        self._process: subprocess.Popen[bytes] | None = None
        self._kind, self._began, self._ended, self._cancelled = "", 0.0, 0.0, False

    def start(self, kind: str, options: Sequence[str] = ()) -> None:
        """Start `microseg KIND RUN --labels LABELS OPTIONS`.

        Raises:
            InputError: Something is running already.
        """
        if kind not in _KINDS:
            raise InputError(kind, "cannot be started from the page", f"it can start {' and '.join(_KINDS)}")
        with self._lock:
            if self._running():
                raise InputError(self._kind, "is running already", "wait for it, or cancel it")
            self._labels.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, "-m", "microseg_ray.cli", kind, "--run", str(self._run)]
            command += ["--labels", str(self._labels), *options]
            self._log.seek(0)
            self._log.truncate()
            self._process = subprocess.Popen(  # noqa: S603 - our own program, and no shell reads the names
                command, stdin=subprocess.DEVNULL, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
            )
            self._kind, self._began, self._ended, self._cancelled = kind, time.time(), 0.0, False

    def cancel(self) -> None:
        """End what is running; nothing of a complete round is lost."""
        with self._lock:
            process = self._process
            if process is None or process.poll() is not None:
                return
            self._cancelled = True
            process.terminate()
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def close(self) -> None:
        """End with the page."""
        self.cancel()
        self._log.close()

    def status(self) -> dict[str, Any]:
        """What is running, how far it is, or how it ended; as plain JSON types."""
        running = self._running()
        process = self._process
        if process is None:
            return {"kind": "", "running": False}
        found: dict[str, Any] = {"kind": self._kind, "running": running, "began": self._began}
        if not running:
            self._ended = self._ended or time.time()
            # 3: done, and something was set aside.
            found |= {"failed": process.returncode not in {0, 3}, "cancelled": self._cancelled, "says": self._tail()}
        found["seconds"] = round((self._ended or time.time()) - self._began, 1)
        return found | (self._progress() if self._kind == "learn" else {})

    def _running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def _progress(self) -> dict[str, Any]:
        """What the round wrote last; nothing of an earlier one."""
        try:
            found = json.loads((Rounds(self._labels).folder / PROGRESS_FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        if self._process is None or found.get("pid") != self._process.pid:
            return {}
        return {key: found.get(key) for key in ("stage", "done", "total", "detail")}

    def _tail(self) -> str:
        with self._lock:
            self._log.seek(0)
            lines = self._log.read().decode("utf-8", "replace").splitlines()
        return "\n".join(lines[-_LINES:])
