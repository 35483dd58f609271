"""Segmentation on a pool of Ray actors.

Uses plain actors with two calls in flight each instead of Ray Data; see benchmarks/pool.py and docs/decisions/0003.
Tasks contain coordinates; pixels are never sent between processes. Headers are asked for in groups, because one is read in
the time that a call takes.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import ray

from microseg_ray.errors import MicrosegError
from microseg_ray.on_ray.environment import worker_environment
from microseg_ray.on_ray.metrics import PoolMetrics
from microseg_ray.on_ray.resources import Demand, fitting, nodes_with, require, waiting
from microseg_ray.runs import segment as without_ray
from microseg_ray.runs.plan import SHARDS_IN_FLIGHT
from microseg_ray.runs.tasks import BandTask, FinishTask, LevelTask, Outcome, PrepareTask, Task, timed
from microseg_ray.runs.worker import ArchiveWorker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from microseg_ray.runs.config import WorkerConfig
    from microseg_ray.runs.drive import Pending, Progress
    from microseg_ray.runs.forecast import Forecast
    from microseg_ray.runs.segment import Segmented
    from microseg_ray.settings import EngineSettings, PlanSettings, SegmentSettings

__all__ = ["ActorPool", "actor_pool", "plan", "segment"]

START_TRIES = 3
GROUP_SECONDS = 0.1
"""Seconds that a worker is to take for the headers that it is given in one call."""
MOST_GROUPED = 64
MOST_COLLECTED = 64
"""Results that are collected before workers get new tasks; meanwhile each has its second call."""


@dataclass
class _Slot:
    """One actor and its tasks in flight, by call."""

    actor: Any
    ready: Any
    up: bool = False
    tasks: dict[Any, tuple[Task, ...]] = field(default_factory=dict)
    alone: bool = False
    since: float = field(default_factory=time.monotonic)


class _Remote:
    """The actor: an `ArchiveWorker` in a process of its own."""

    def __init__(self, worker_class: type[ArchiveWorker], config: WorkerConfig) -> None:
        self._worker = worker_class(config)

    def ready(self) -> None:
        """Return as soon as the process runs."""

    def do(self, tasks: tuple[Task, ...]) -> list[Outcome]:
        return [timed(self._worker.do, task) for task in tasks]


class _Groups:
    """How many headers are asked for in one call: one at first, then as many as are read in `GROUP_SECONDS`."""

    def __init__(self) -> None:
        self.size = 1

    def take(self, pending: Pending) -> tuple[Task, ...]:
        """The tasks of the next call; the queue of a survey holds nothing but headers."""
        tasks = [pending.popleft()]
        while isinstance(tasks[0], PrepareTask) and len(tasks) < self.size and pending:
            tasks.append(pending.popleft())
        return tuple(tasks)

    def learn(self, tasks: tuple[Task, ...], seconds: float) -> None:
        """Note how long a call took."""
        if isinstance(tasks[0], PrepareTask):
            fitting = int(GROUP_SECONDS * len(tasks) / max(seconds, 1e-6))
            self.size = max(1, min(fitting, 2 * self.size, MOST_GROUPED))


class ActorPool:
    """Executor that runs tasks on Ray actors, with two calls in flight per actor, and handles worker failures.

    A worker that dies or stalls is replaced. Its tasks are retried one at a time, so that the next failure has a single
    cause. A task that was in flight at `attempts` failures, the last time alone, yields a failed outcome.

    Args:
        config: Configuration of the workers.
        demand: Number of actors, and what each takes of which nodes.
        attempts: Number of worker failures after which a task fails.
        timeout: Seconds without a result after which a worker is considered stalled.
        worker_class: Class of the workers; tests pass one that injects failures.
        look: Seconds between two looks at the cluster, after which there are as many actors as it has room for; None: their
            number stays.
    """

    def __init__(
        self,
        config: WorkerConfig,
        demand: Demand,
        *,
        attempts: int = 3,
        timeout: float = 900.0,
        worker_class: type[ArchiveWorker] = ArchiveWorker,
        look: float | None = None,
    ) -> None:
        self._demand, self._look, self._looked = demand, look, time.monotonic()
        self._attempts_allowed = attempts
        self._timeout = timeout
        self._shard = config.plan.shard
        self._groups = _Groups()
        self._metrics = PoolMetrics(config.plan.shard)
        self._attempts: dict[Task, int] = {}
        self._suspects: deque[Task] = deque()
        self._failed_starts = 0
        remote = ray.remote(_Remote).options(
            num_cpus=demand.cpus,
            num_gpus=demand.gpus,
            **demand.elsewhere,
            max_concurrency=SHARDS_IN_FLIGHT,
            max_restarts=0,
            runtime_env={"env_vars": worker_environment(config.threads)},
        )
        self._spawn: Callable[[], Any] = lambda: remote.remote(worker_class, config)
        self._slots = [self._new_slot() for _ in range(demand.processes)]

    def run(self, pending: Pending) -> Iterator[Outcome]:
        """Yield one outcome per task; the consumer may add to `pending` between two outcomes."""
        with waiting(f"one of {len(self._slots)} workers") as started:
            while True:
                self._follow()
                self._feed(pending)
                running = {reference: slot for slot in self._slots for reference in slot.tasks}
                if not (running or pending or self._suspects):
                    return
                starting = {slot.ready: slot for slot in self._slots if not slot.up}
                for reference in _ready([*running, *starting]):
                    if reference in starting:
                        self._mark_started(starting[reference])
                        started()
                    # Of a worker that was found dead just now, nothing is in flight any more.
                    elif reference in running[reference].tasks:
                        yield from self._collect(reference, running[reference])
                busy = [slot for slot in self._slots if slot.tasks]
                self._metrics.waiting(sum(len(slot.tasks) for slot in busy), [slot.since for slot in busy])
                yield from self._check_stalled()

    def close(self) -> None:
        """Stop all actors."""
        for slot in self._slots:
            ray.kill(slot.actor)
        self._slots = []

    def _new_slot(self) -> _Slot:
        actor = self._spawn()
        return _Slot(actor, actor.ready.remote())

    def _follow(self) -> None:
        """Have as many actors as the cluster has room for, if it is time to look.

        An actor that has started stays: a node that goes takes its actors with it, and what replaced them starts nowhere.
        """
        if self._look is None or time.monotonic() - self._looked < self._look:
            return
        self._looked = time.monotonic()
        wanted = max(1, fitting(self._demand, nodes_with(self._demand.labels)))
        waiting_ones = [slot for slot in self._slots if not slot.up]
        for slot in waiting_ones[: max(0, len(self._slots) - wanted)]:
            ray.kill(slot.actor)
            self._slots.remove(slot)
        self._slots += [self._new_slot() for _ in range(wanted - len(self._slots))]

    def _feed(self, pending: Pending) -> None:
        up = [slot for slot in self._slots if slot.up]
        for index, slot in enumerate(up):
            if self._suspects and not slot.tasks:
                slot.alone = True
                self._submit(slot, (self._suspects.popleft(),))
            # While suspects wait, the first worker gets no new tasks, so that it becomes idle.
            elif not (slot.alone and slot.tasks) and not (self._suspects and index == 0):
                slot.alone = False
                while pending and len(slot.tasks) < SHARDS_IN_FLIGHT:
                    self._submit(slot, self._groups.take(pending))

    def _submit(self, slot: _Slot, tasks: tuple[Task, ...]) -> None:
        if not slot.tasks:
            slot.since = time.monotonic()
        slot.tasks[slot.actor.do.remote(tasks)] = tasks

    def _collect(self, reference: Any, slot: _Slot) -> Iterator[Outcome]:
        try:
            outcomes: list[Outcome] = ray.get(reference)
        except (
            ray.exceptions.RayActorError,
            ray.exceptions.WorkerCrashedError,
            ray.exceptions.OutOfMemoryError,
        ) as error:
            yield from self._replace(slot, f"its worker died ({_first_line(error)})")
            return
        except ray.exceptions.RayError as error:
            reason, detail = _first_line(error), str(error)
            outcomes = [Outcome(task, ok=False, reason=reason, detail=detail) for task in slot.tasks[reference]]
        now = time.monotonic()
        self._groups.learn(slot.tasks.pop(reference), now - slot.since)
        slot.since = now
        self._metrics.done(outcomes)
        yield from outcomes

    def _check_stalled(self) -> Iterator[Outcome]:
        now = time.monotonic()
        for slot in self._slots:
            tasks = (task for group in slot.tasks.values() for task in group)
            shards = max((shards_of(task, self._shard) for task in tasks), default=1)
            if slot.tasks and now - slot.since > self._timeout * shards:
                ray.kill(slot.actor)
                yield from self._replace(slot, f"no result within shard_timeout ({self._timeout:g} s)")

    def _mark_started(self, slot: _Slot) -> None:
        """Let a started worker receive tasks. A worker that fails to start has none, so no task is counted as failed."""
        try:
            ray.get(slot.ready)
        except ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts >= START_TRIES:
                raise MicrosegError(
                    f"Ray cannot start workers ({_last_line(error)}); this is not caused by an input: see "
                    "Ray's logs, then run the same command again"
                ) from error
            self._restart(slot)
            return
        slot.up = True
        self._failed_starts = 0

    def _restart(self, slot: _Slot) -> None:
        slot.actor = self._spawn()
        slot.ready, slot.up = slot.actor.ready.remote(), False

    def _replace(self, slot: _Slot, reason: str) -> Iterator[Outcome]:
        tasks = [task for group in slot.tasks.values() for task in group]
        certain = len(tasks) == 1
        slot.tasks.clear()
        self._restart(slot)
        for task in tasks:
            self._attempts[task] = self._attempts.get(task, 0) + 1
            # With several tasks in flight the cause is unknown, so none of them fails for good.
            if certain and self._attempts[task] >= self._attempts_allowed:
                yield Outcome(task, ok=False, reason=f"given up after {self._attempts[task]} tries: {reason}")
            else:
                self._suspects.append(task)


def _ready(references: list[Any]) -> list[Any]:
    """What is ready, at most `MOST_COLLECTED`; empty after a second without any.

    A look at all calls takes time that grows with the workers, so what it finds is collected before the next one.
    """
    first, _ = ray.wait(references, num_returns=1, timeout=1.0)
    if not first:
        return []
    ready: list[Any] = ray.wait(references, num_returns=min(len(references), MOST_COLLECTED), timeout=0)[0]
    return ready


def shards_of(task: Task, side: int) -> int:
    """How many times `shard_timeout` a task has: once for each shard of the mask or of a level that it computes or reads.

    Args:
        task: The task; a header has the time of one shard.
        side: Side of a shard in pixels.

    Example:
        >>> from microseg_ray.runs.tasks import Calibration, FinishTask
        >>> from microseg_ray.sources import View
        >>> shards_of(FinishTask("a", "a", "a", View((40960, 40960)), (0, 1), Calibration(None, "", None)), 2048)
        400
    """
    match task:
        case BandTask():
            return len(task.shards)
        case LevelTask():
            return 4 * len(task.shards)
        case FinishTask():
            # Building the pyramid reads every shard once; where that was done in pieces, the ledger is read.
            return -(-task.view.shape[0] // side) * -(-task.view.shape[1] // side)
        case _:
            return 1


def _last_line(error: BaseException) -> str:
    return ([line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__])[-1][:200]


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__


def actor_pool(
    start_ray: Callable[[], None], settings: EngineSettings, config: WorkerConfig, worker_class: type[ArchiveWorker]
) -> ActorPool:
    """Start Ray and create the pool of a run.

    Args:
        start_ray: Called before Ray is used.
        settings: Source of `workers`, `gpu`, `attempts` and `shard_timeout`.
        config: Configuration of the workers.
        worker_class: Class of the workers.
    """
    start_ray()
    auto = settings.workers == "auto"
    demand = Demand.of(
        1 if settings.workers == "auto" else settings.workers,
        settings.ray,
        gpus=settings.worker_gpus if settings.gpu else 0.0,
        options="--workers, --gpu" if settings.gpu else "--workers",
    )
    require(demand, settings.ray)
    return ActorPool(
        config,
        _placed(demand, float(config.threads), auto=auto),
        attempts=settings.attempts,
        timeout=settings.shard_timeout,
        worker_class=worker_class,
        look=settings.ray.look if auto else None,
    )


def _placed(demand: Demand, threads: float, *, auto: bool) -> Demand:
    """The demand with the CPUs of each worker: those of its threads, or its part of what there is.

    Args:
        demand: What was found to fit.
        threads: Of each worker.
        auto: Whether as many workers are made as there is room for.
    """
    nodes = nodes_with(demand.labels)
    cpus = [node.get("CPU", 0.0) for node in nodes]
    if not auto:
        return replace(demand, cpus=max(0.01, min(threads, sum(cpus) / demand.processes)))
    whole = replace(demand, cpus=max(0.01, min(threads, max(cpus, default=1.0))))
    return replace(whole, processes=max(1, fitting(whole, nodes)))


def plan(
    settings: PlanSettings,
    report: Callable[[Progress], None] = lambda _: None,
    start_ray: Callable[[], None] = lambda: None,
) -> Forecast:
    """`runs.segment.plan`, opening the micrographs on Ray actors.

    Args:
        settings: The job's settings.
        report: Called after each micrograph.
        start_ray: Called before Ray is used.
    """
    return without_ray.plan(settings, report, partial(actor_pool, start_ray))


def segment(
    settings: SegmentSettings,
    report: Callable[[Progress], None] = lambda _: None,
    start_ray: Callable[[], None] = lambda: None,
    worker_class: type[ArchiveWorker] = ArchiveWorker,
    on_forecast: Callable[[Forecast], None] = lambda _: None,
) -> Segmented:
    """`runs.segment.segment` on Ray actors; `workers: 0` runs in this process, without Ray.

    Args:
        settings: The job's settings.
        report: Called after each task.
        start_ray: Called before the first actor is created, and only if there is work.
        worker_class: Class of the workers; tests pass one that injects failures.
        on_forecast: Called with the forecast of the run, before its first shard.
    """
    return without_ray.segment(settings, report, partial(actor_pool, start_ray), worker_class, on_forecast)
