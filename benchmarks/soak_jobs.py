"""What the soak runs: jobs as processes that are as real to kill as a user's."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, NoReturn

import psutil

from benchmarks.harness import ROOT

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

LONGEST = 240.0
"""Seconds after which a job counts as hung."""
POLL = 0.01
TIMED = 0.3
"""Share of the faults whose moment is a time; the moment of the others is a number of files in the output."""
CLASSES = '["matrix", "pore", "crack"]'
GONE_SECONDS = 30.0
"""Seconds in which the processes of a killed job have to end."""


PRELOADED = (
    *(
        "dask.array",
        "matplotlib.figure",
        "pandas",
        "pyarrow.parquet",
        "ray.data",
        "ray.util.dask",
        "skimage.measure",
        "torch",
    ),
    *(f"microseg_ray.jobs.{name}" for name in ("measure", "postprocess", "segment", "tile", "verify")),
    *(
        "microseg_ray.runs.segment",
        "microseg_ray.runs.verify",
        "microseg_ray.on_ray.actors",
        "microseg_ray.on_ray.rows",
    ),
)


@dataclass(frozen=True)
class Place:
    """Where everything of a soak lies."""

    folder: Path

    @property
    def images(self) -> Path:
        return self.folder / "archive" / "images"

    @property
    def parent(self) -> Path:
        """The undisturbed run of `segment`, which postprocess and measure begin with."""
        return self.folder / "undisturbed" / "segment" / "run"


@dataclass(frozen=True)
class Job:
    """One way of doing a job.

    Attributes:
        name: As in the table.
        reference: Name of the undisturbed output that it has to equal.
        words: Of the command line, given the place and the output.
        faults: Those that are injected.
        begins_with_parent: Whether the output begins as a copy of the parent.
        anew: Words that make a finished output anew where a micrograph was set aside; none: the same command does.
    """

    name: str
    reference: str
    words: Callable[[Place, Path], list[str]]
    faults: tuple[str, ...]
    begins_with_parent: bool = False
    anew: tuple[str, ...] = ()


def _segment(workers: int) -> Callable[[Place, Path], list[str]]:
    def words(place: Place, output: Path) -> list[str]:
        given = ["--archive", str(place.images), "--checkpoint", str(place.folder / "model"), "--output", str(output)]
        return ["segment", *given, "--shard", "128", "--threads", "1", "--runtime", "torch", "--workers", str(workers)]

    return words


def _postprocess(workers: int) -> Callable[[Place, Path], list[str]]:
    def words(place: Place, output: Path) -> list[str]:
        given = ["--run", str(place.parent), "--output", str(output), "--min_speck", "9", "--majority", "1"]
        return ["postprocess", *given, "--workers", str(workers)]

    return words


def _tile(workers: int) -> Callable[[Place, Path], list[str]]:
    def words(place: Place, output: Path) -> list[str]:
        masks = place.folder / "archive" / "masks"
        given = ["--images", str(place.images), "--masks", str(masks), "--classes", CLASSES, "--output", str(output)]
        return ["tile", *given, "--tile", "64", "--overlap", "16", "--workers", str(workers)]

    return words


def _measure(_: Place, output: Path) -> list[str]:
    return ["measure", "--run", str(output), "--exports.write", "false"]


DRIVER = ("driver: SIGKILL", "driver: SIGTERM", "driver: SIGINT", "driver: SIGINT twice")
WORKER = "worker: SIGKILL"
CHANGED = "micrograph rewritten"
HARMS = ("cut short", "emptied", "bits flipped", "overwritten")
DAMAGED = tuple(f"{part} {harm}" for part in ("shard", "counts", "metadata") for harm in HARMS)
TABLES = tuple(f"table {harm}" for harm in HARMS)
MICROGRAPHS = (CHANGED, "micrograph removed")
JOBS = (
    Job("segment, in one process", "segment", _segment(0), (*DRIVER, *DAMAGED, *MICROGRAPHS)),
    Job("segment, 2 Ray workers", "segment", _segment(2), (*DRIVER, WORKER, WORKER, *MICROGRAPHS)),
    Job("postprocess, in one process", "postprocess", _postprocess(0), (*DRIVER, *DAMAGED)),
    Job("postprocess, 2 Ray workers", "postprocess", _postprocess(2), (*DRIVER, WORKER)),
    Job("measure", "measure", _measure, (*DRIVER, *TABLES), begins_with_parent=True),
    Job("tile, in one process", "tile", _tile(0), (*DRIVER, *MICROGRAPHS), anew=("--overwrite", "true")),
    Job("tile, 2 Ray workers", "tile", _tile(2), (*DRIVER, WORKER)),
)


@dataclass
class Ended:
    """How a process of a job ended.

    Attributes:
        code: Its exit code; negative: a signal.
        said: What it printed.
        seconds: How long it ran.
        injected: Whether the fault came before its end.
        moment: When it came.
        outlived: Names of processes of the job that were there `GONE_SECONDS` after its end, and were ended by the soak.
    """

    code: int
    said: str
    seconds: float
    injected: bool = True
    moment: str = ""
    outlived: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Moment:
    """When a fault comes: so many seconds after the start, or as soon as the output has so many files, and a little later."""

    seconds: float | None
    files: int
    later: float

    @classmethod
    def drawn(cls, chance: random.Random, seconds: float, files: int) -> Moment:
        """A moment of an undisturbed job that takes `seconds` and writes `files`."""
        if chance.random() < TIMED:
            return cls(chance.uniform(0, seconds), 0, 0.0)
        return cls(None, chance.randrange(files), chance.uniform(0, 0.1))

    def __str__(self) -> str:
        return f"after {self.seconds:.1f} s" if self.seconds is not None else f"at {self.files} files"

    def waited(self, process: subprocess.Popen[bytes] | Forked, output: Path, already: int) -> bool:
        """Wait for it; whether the process still runs then."""
        began = time.monotonic()
        while process.poll() is None and time.monotonic() - began < LONGEST:
            elapsed = time.monotonic() - began
            if elapsed >= self.seconds if self.seconds is not None else count(output) >= max(self.files, already):
                time.sleep(self.later)
                return process.poll() is None
            time.sleep(POLL)
        return False


def count(output: Path) -> int:
    """Files below a folder."""
    return sum(len(files) for _, _, files in os.walk(output))


class Forked:
    """A job in a copy of this process, which has imported what jobs need: it starts in a moment, and is as real to kill.

    Nothing is computed in this process, so that no thread is lost in the copy.
    """

    def __init__(self, words: list[str], said: IO[bytes], environment: dict[str, str], folder: Path) -> None:
        sys.stdout.flush()
        self.pid = os.fork()
        self.code: int | None = None
        if self.pid == 0:
            os.setsid()
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os.chdir(folder)
            os.environ.update(environment)
            _main(words)

    def poll(self) -> int | None:
        """The exit code, as that of `Popen`; None while it runs."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.code = os.waitstatus_to_exitcode(status) if pid else None
        return self.code

    def wait(self, timeout: float = LONGEST) -> int:
        """The exit code."""
        began = time.monotonic()
        while (code := self.poll()) is None:
            if time.monotonic() - began > timeout:
                raise subprocess.TimeoutExpired(str(self.pid), timeout)
            time.sleep(POLL)
        return code

    def send_signal(self, number: int) -> None:
        """As that of `Popen`."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """As that of `Popen`."""
        self.send_signal(signal.SIGKILL)


def _main(words: list[str]) -> NoReturn:
    """The command line, and the end of this process."""
    code = 1
    try:
        from microseg_ray.cli import main

        code = main(words)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:  # noqa: BLE001 - as the interpreter's own end does
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()  # noqa: SLF001 - Ray ends in one
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def preload() -> None:
    """Import what jobs import, so that a copy of this process need not."""
    for name in PRELOADED:
        importlib.import_module(name)


@dataclass
class Running:
    """A job as a process of its own, with the output in a file.

    Attributes:
        fresh: Whether it is the command itself, from the start of the interpreter; else `Forked`.
    """

    place: Place
    words: list[str]
    fresh: bool = False
    process: subprocess.Popen[bytes] | Forked = field(init=False)
    log: Path = field(init=False)
    began: float = field(init=False)

    def __post_init__(self) -> None:
        self.log = self.place.folder / "said.txt"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            # Ray's own is 15, so that its workers would starve beside anything else on the machine.
            "RAY_worker_niceness": "0",
            "RAY_TMPDIR": str(self.place.folder / "r"),
        }
        self.began = time.monotonic()
        with self.log.open("wb") as said:
            if not self.fresh:
                self.process = Forked(self.words, said, environment, self.place.folder)
                return
            self.process = subprocess.Popen(
                [sys.executable, "-m", "microseg_ray.cli", *self.words],
                stdout=said,
                stderr=said,
                env=environment,
                cwd=self.place.folder,
                start_new_session=True,
            )

    def end(self, moment: str = "", *, injected: bool = True) -> Ended:
        """Wait for the end of the job and of all processes that it started."""
        family = self.family()
        try:
            code = self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        seconds = time.monotonic() - self.began
        outlived = end_processes({*family, *_naming(self.place.folder)})
        said = self.log.read_text(encoding="utf-8", errors="replace")
        return Ended(code, said, seconds, injected, moment, outlived)

    def family(self) -> list[psutil.Process]:
        """What the job has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def workers(self) -> list[psutil.Process]:
        """The processes of Ray that run code of the job."""
        found = []
        for each in self.family():
            with contextlib.suppress(psutil.Error):
                if each.cmdline() and each.cmdline()[0].startswith("ray::") and "IDLE" not in each.cmdline()[0]:
                    found.append(each)
        return found


def _naming(folder: Path) -> list[psutil.Process]:
    """Processes of Ray that have this soak's folder on their command line."""
    found = []
    for each in psutil.process_iter(["pid", "cmdline"]):
        if each.pid != os.getpid() and any(f"{folder}/r" in word for word in each.info["cmdline"] or []):
            found.append(each)
    return found


def end_processes(left: set[psutil.Process]) -> list[str]:
    """Give processes `GONE_SECONDS`, then kill them; their names."""
    _, alive = psutil.wait_procs([each for each in left if each.is_running()], timeout=GONE_SECONDS)
    names = []
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            names.append(f"{each.name()} ({each.status()})")
            each.kill()
    psutil.wait_procs(alive, timeout=10)
    return names
