"""The course of a run: prepare every micrograph, work off the shards, finish each micrograph with its last shard.

An `Executor` decides where a task runs; the plain loop here is the reference, the actor pool in `segmentation` the
other. The order of tasks never shows in the bytes.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Protocol, TypeVar

from microseg_ray.errors import MicrosegError, StoreError
from microseg_ray.files import ObjectPath, delete_folder
from microseg_ray.outputs import require_store
from microseg_ray.quarantine import Failure
from microseg_ray.runs.finishing import Finishings, first_task
from microseg_ray.runs.queue import TaskQueue
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.tasks import (
    BandTask,
    BeginTask,
    FinishTask,
    Outcome,
    Prepared,
    PrepareTask,
    ShardTask,
    Task,
    noted_file_size,
    timed,
)
from microseg_ray.sources import fingerprint
from microseg_ray.sources.scale.provenance import OPTION, pixel_size_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from microseg_ray.files import Place
    from microseg_ray.runs.bands import Division
    from microseg_ray.runs.config import WorkerConfig
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.worker import ArchiveWorker
    from microseg_ray.statistics.areas import Measured

__all__ = ["Executor", "Input", "Ledger", "PlainLoop", "Progress", "measured_already", "survey", "work"]

SURVEY_THREADS = 4
"""Threads that read headers and the records of earlier runs: mostly they wait for the disk or the network."""

ItemT = TypeVar("ItemT")
FoundT = TypeVar("FoundT")


class Pending(Protocol):
    """Where an executor takes its tasks from: a `TaskQueue`, or a deque."""

    def __bool__(self) -> bool:
        """Whether a task is left."""

    def popleft(self) -> Task:
        """The next task."""


class Executor(Protocol):
    """Runs tasks somewhere; the consumer may add to `pending` between two outcomes."""

    def run(self, pending: Pending) -> Iterator[Outcome]:
        """Yield one outcome for every task, in any order."""

    def close(self) -> None:
        """Let go of workers and files."""


@dataclass(frozen=True)
class PlainLoop:
    """Tasks one after another in this process: what every other executor must equal, byte for byte."""

    worker: ArchiveWorker

    def run(self, pending: Pending) -> Iterator[Outcome]:
        """Yield outcomes in the order of the tasks; headers are read in threads."""
        while pending:
            task = pending.popleft()
            if isinstance(task, PrepareTask):
                yield from in_threads(partial(timed, self.worker.do), chain([task], _taken(pending)))
            else:
                yield timed(self.worker.do, task)

    def close(self) -> None:
        """Close the files that the worker holds open."""
        self.worker.close()


@dataclass(frozen=True)
class Input:
    """One file of the archive: its path below the archive's root, and where it lies."""

    name: str
    path: str


@dataclass
class Progress:
    """The progress of a run, passed to the callback after every outcome."""

    micrographs: int
    opened: int = 0
    shards: int = 0
    shards_done: int = 0
    finished: int = 0
    failed: int = 0
    pixels: int = 0


@dataclass
class Ledger:
    """The result of a run.

    Attributes:
        failures: Quarantined inputs.
        computed: Shards computed now.
        kept: Micrographs that were complete already.
        measured: Their counts, by name.
        paths: Files of the micrographs that were not complete, by name.
        prepared: What preparing found, by name.
        details: Tracebacks of the engine's own failures.
        gone: Micrographs whose file has `changed`, is `missing` or has `stalled` since it was prepared, by name.
    """

    failures: list[Failure] = field(default_factory=list)
    computed: int = 0
    kept: list[str] = field(default_factory=list)
    measured: dict[str, Measured] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    prepared: dict[str, Prepared] = field(default_factory=dict)
    details: list[str] = field(default_factory=list)
    gone: dict[str, str] = field(default_factory=dict)


def measured_already(run: Run, item: Input, config: WorkerConfig) -> Measured | None:
    """The counts of a micrograph whose mask is complete and bound to this run and to the file as it is now, else None."""
    path = run.store_path(item.name)
    try:
        if not path.exists():
            return None
        store = MaskStore.open(path)
        bound = {**config.identity, "fingerprint": fingerprint(item.path, config.fingerprint)}
        same = all(store.identity.get(key) == value for key, value in bound.items())
        wanted = config.source.pixel_size_um
        by_option = str(store.note.get("pixel_size_source", "")).startswith(OPTION)
        # A size that the user gave, and then not again, is not one that the file states.
        sized = noted_file_size(store) == wanted if wanted is not None else not by_option
        sized &= store.note.get("calibration_mark", "") == pixel_size_mark(item.path, config.source, config.fingerprint)
        complete = same and sized and store.finished and not store.missing()
        return run.measured_in(item.name, store) if complete else None
    except (MicrosegError, OSError):
        return None


def survey(
    run: Run,
    inputs: Sequence[Input],
    config: WorkerConfig,
    executor: Callable[[], Executor],
    report: Callable[[Progress], None],
    *,
    dry: bool = False,
) -> tuple[Ledger, Progress]:
    """Find out what is complete, and look at the headers of the rest.

    Args:
        run: The run folder.
        inputs: The archive.
        config: The configuration of the workers.
        executor: Gives the executor; called only if something is not complete.
        report: Called after every micrograph.
        dry: Change nothing on disk.

    Returns:
        The ledger so far, and the progress.
    """
    ledger = Ledger()
    progress = Progress(len(inputs))
    if any_masks(run):
        found = in_threads(lambda item: measured_already(run, item, config), inputs)
        ledger.measured = {item.name: counts for item, counts in zip(inputs, found, strict=True) if counts is not None}
    ledger.kept = sorted(ledger.measured)
    todo = [item for item in inputs if item.name not in ledger.measured]
    ledger.paths = {item.name: item.path for item in todo}
    progress.opened = progress.finished = len(ledger.kept)
    report(progress)
    if todo:
        pending = TaskQueue(PrepareTask(item.name, item.path, str(run.store_path(item.name)), dry) for item in todo)
        for outcome in executor().run(pending):
            progress.opened += 1
            if _noted(outcome, ledger, progress) and outcome.prepared is not None:
                ledger.prepared[outcome.task.name] = outcome.prepared
            report(progress)
    return ledger, progress


def work(
    run: Run,
    ledger: Ledger,
    progress: Progress,
    executor: Callable[[], Executor],
    report: Callable[[Progress], None],
    division: Division | None = None,
) -> None:
    """Do what the survey found missing; books everything in the ledger.

    Args:
        run: The run folder.
        ledger: The survey's.
        progress: The survey's.
        executor: Gives the executor; called only if there is something to do.
        report: Called after every task.
        division: How micrographs are divided into bands of strips; None: into shards.

    Raises:
        StoreError: A task failed in a way that makes going on senseless (disk full).
    """
    left = {name: len(found.missing) for name, found in ledger.prepared.items()}
    progress.shards = sum(left.values())
    idle = sorted(name for name in left if not left[name])
    last = (_first(run, name, ledger) for name in idle if not ledger.prepared[name].finished)
    units: Iterator[Task] = _shards(run, ledger) if division is None else _bands(run, ledger, division)
    pending = TaskQueue(chain(units, last))
    progress.finished += sum(1 for name in idle if ledger.prepared[name].finished)
    if not pending:
        return
    large = Finishings(lambda name: _finish(run, name, ledger))
    for outcome in executor().run(pending):
        task = outcome.task
        if not _noted(outcome, ledger, progress):
            large.give_up(task.name)
        elif isinstance(task, ShardTask | BandTask):
            done = len(task.shards) if isinstance(task, BandTask) else 1
            ledger.computed += done
            progress.shards_done += done
            left[task.name] -= done
            if not left[task.name]:
                pending.appendleft(_first(run, task.name, ledger))
        elif isinstance(task, FinishTask):
            progress.finished += 1
        else:
            pending.insert(large.after(outcome))
        report(progress)
    for name, how in ledger.gone.items():
        if how == "changed":
            _drop(run.store_path(name))


def _drop(path: Place) -> None:
    """Delete the mask of a file that has changed: its first shards are of one image and its last ones may be of another.

    No worker writes to it any more. The same command would make it anew in any case, because it is bound to the older file.
    """
    if path.exists():
        require_store(path)
        delete_folder(path)


def in_threads(look: Callable[[ItemT], FoundT], items: Iterable[ItemT]) -> Iterator[FoundT]:
    """What `look` finds, in the order of the items; a few at a time, so that a long list is never held.

    Args:
        look: Called in threads.
        items: Asked for as they are needed.

    Example:
        >>> list(in_threads(abs, range(-9, 0))) == [9, 8, 7, 6, 5, 4, 3, 2, 1]
        True
    """
    left = iter(items)
    with ThreadPoolExecutor(SURVEY_THREADS) as pool:
        coming: deque[Future[FoundT]] = deque(pool.submit(look, item) for item in islice(left, 2 * SURVEY_THREADS))
        try:
            while coming:
                found = coming.popleft().result()
                coming.extend(pool.submit(look, item) for item in islice(left, 1))
                yield found
        finally:
            for each in coming:
                each.cancel()


def _taken(pending: Pending) -> Iterator[Task]:
    while pending:
        yield pending.popleft()


def any_masks(run: Run) -> bool:
    """Whether there is a mask at all: where there is none, no micrograph is complete."""
    masks = run.folder / "masks"
    if isinstance(masks, ObjectPath):
        return masks.is_dir()
    try:
        with os.scandir(masks) as entries:
            return next(entries, None) is not None
    except OSError:
        return False


def _noted(outcome: Outcome, ledger: Ledger, progress: Progress) -> bool:
    """Book a failure; whether the outcome is good."""
    if outcome.ok:
        return True
    if outcome.fatal:
        raise StoreError(
            f"{outcome.task.path}: {outcome.reason}; the run stops here and can be resumed with the same command"
        )
    if outcome.task.name in ledger.gone:
        return False  # the first of its tasks that found it gone said so
    if outcome.gone:
        ledger.gone[outcome.task.name] = outcome.gone
    progress.failed += 1
    ledger.failures.append(Failure(outcome.task.name, outcome.task.stage, outcome.reason))
    if outcome.detail:
        ledger.details.append(f"{outcome.task.name} ({outcome.task.stage})\n{outcome.detail}")
    return False


def _by_size(ledger: Ledger) -> list[tuple[str, Prepared]]:
    """The largest micrographs first: a huge one begun last would keep one worker busy alone."""
    return sorted(ledger.prepared.items(), key=lambda item: (-item[1].view.shape[0] * item[1].view.shape[1], item[0]))


def _bands(run: Run, ledger: Ledger, division: Division) -> Iterator[BandTask]:
    """All missing shards in bands."""
    parts = division.parts(sum(1 for found in ledger.prepared.values() if found.missing))
    for name, found in _by_size(ledger):
        path, store = ledger.paths[name], str(run.store_path(name))
        for shards in division.bands(list(found.missing), found.view.shape, parts):
            if name in ledger.gone:
                break
            yield BandTask(name, path, store, found.view, found.limits, shards)


def _shards(run: Run, ledger: Ledger) -> Iterator[ShardTask]:
    """All missing shards."""
    for name, found in _by_size(ledger):
        path, store = ledger.paths[name], str(run.store_path(name))
        for shard in found.missing:
            if name in ledger.gone:
                break
            yield ShardTask(name, path, store, found.view, found.limits, shard)


def _first(run: Run, name: str, ledger: Ledger) -> FinishTask | BeginTask:
    return first_task(_finish(run, name, ledger), ledger.prepared[name].missing.grid)


def _finish(run: Run, name: str, ledger: Ledger) -> FinishTask:
    found = ledger.prepared[name]
    return FinishTask(
        name,
        ledger.paths[name],
        str(run.store_path(name)),
        found.view,
        found.limits,
        found.calibration,
    )
