"""The segment job without Ray: an archive through an executor into a run.

The executor is the plain loop of this process, or a pool that the caller gives: `on_ray.actors` has one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import Account, file_account
from microseg_ray.errors import SettingsError
from microseg_ray.fence import Fence
from microseg_ray.files import sole_writer
from microseg_ray.outputs import Kind
from microseg_ray.runs.bands import Division
from microseg_ray.runs.calibration import keep_calibration
from microseg_ray.runs.config import WorkerConfig
from microseg_ray.runs.drive import Executor, Ledger, PlainLoop, Progress, survey, work
from microseg_ray.runs.folder import LOG_FILES, Run
from microseg_ray.runs.forecast import Forecast, forecast
from microseg_ray.runs.log import watched
from microseg_ray.runs.setup import prepare_job
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from microseg_ray.runs.plan import RunPlan
    from microseg_ray.runs.setup import Job
    from microseg_ray.settings import PlanSettings, SegmentSettings
    from microseg_ray.statistics.areas import AreaRow

__all__ = ["PoolFactory", "Segmented", "plan", "segment"]

AUTO_BANDS = 16
"""Bands of a single micrograph on a cluster that may grow."""
PoolFactory = Callable[[EngineSettings, WorkerConfig, type[ArchiveWorker]], Executor]
"""Makes the executor of a run with `workers` above 0."""


@dataclass(frozen=True)
class Segmented:
    """The result of the segment job.

    Attributes:
        run: The run.
        plan: Tiles, halo, memory, verdict.
        ledger: What was done, kept and quarantined.
        areas: The rows of areas.csv, read from areas.parquet when they are asked for.
        seams: The seam measurements of all micrographs together.
        note: What the run kept from before and the settings did not give; "" for nothing.
        dropped: Files that showed older masks and were removed.
        accounts: Files, pages and pixels: seen = used + set aside + not taken.
    """

    run: Run
    plan: RunPlan
    ledger: Ledger
    areas: Sequence[AreaRow]
    seams: Mapping[str, Any]
    note: str = ""
    dropped: Sequence[str] = ()
    accounts: Sequence[Account] = ()


@contextmanager
def _executors(
    settings: EngineSettings, config: WorkerConfig, pool: PoolFactory | None, worker_class: type[ArchiveWorker]
) -> Iterator[Callable[[], Executor]]:
    """Gives the executor on first need, so that a run with nothing to do starts neither Ray nor workers."""
    if settings.workers and pool is None:
        raise SettingsError(
            f"{settings.job}.workers: {settings.workers} worker processes need Ray; call microseg_ray.on_ray.actors.segment, "
            "or give workers 0 to run in this process"
        )
    made: list[Executor] = []

    def executor() -> Executor:
        if not made:
            made.append(
                PlainLoop(worker_class(config))
                if pool is None or settings.workers == 0
                else pool(settings, config, worker_class)
            )
        return made[0]

    try:
        yield executor
    finally:
        for each in made:
            each.close()


@contextmanager
def _fenced(
    settings: EngineSettings, job: Job, pool: PoolFactory | None, worker_class: type[ArchiveWorker]
) -> Iterator[tuple[Callable[[], Executor], WorkerConfig]]:
    """The executor of a job that writes, and its configuration: workers of an earlier job cannot write from here on."""
    config = replace(job.config, fence=Fence.raised(settings.output))
    with _executors(settings, config, pool, worker_class) as executor:
        yield executor, config


def plan(
    settings: PlanSettings,
    report: Callable[[Progress], None] = lambda _: None,
    pool: PoolFactory | None = None,
) -> Forecast:
    """What `segment` with the same settings would do; changes nothing.

    Args:
        settings: The job's settings.
        report: Called after each micrograph.
        pool: Makes the executor where `workers` is above 0.

    Raises:
        InputError: The archive is missing or empty.
        CheckpointError: The checkpoint cannot be used.
        RunMismatchError: The output holds a run of another model or other settings.
        SettingsError: Settings that cannot work or do not fit the memory.
    """
    settings, _ = keep_calibration(settings)
    job = prepare_job(settings)
    run = Run.at(settings.output, job.identity, overwrite=settings.overwrite)
    with _executors(settings, job.config, pool, ArchiveWorker) as executor:
        ledger, _ = survey(run, job.inputs, job.config, executor, report, dry=True)
    cost = _forecast(settings, job, run, ledger)
    return replace(cost, accounts=plan_accounts(job, ledger))


def _forecast(settings: EngineSettings, job: Job, run: Run, ledger: Ledger) -> Forecast:
    return forecast(
        ledger.prepared,
        len(ledger.kept),
        ledger.failures,
        job.plan,
        run.folder,
        len(job.config.classes),
        shared_by(settings),
    )


def shared_by(settings: EngineSettings) -> int:
    """Processes that a single micrograph is divided for into bands of strips: with `auto` those of this machine, or 16."""
    if settings.workers != "auto":
        return settings.workers
    return AUTO_BANDS if settings.ray.address or os.environ.get("RAY_ADDRESS") else os.cpu_count() or 1


def plan_accounts(job: Job, ledger: Ledger) -> tuple[Account, ...]:
    """What a run would use of an archive: files, pages and pixels."""
    listed = [item.name for item in job.inputs]
    done = {*ledger.prepared, *ledger.kept}
    files = file_account(listed, done, ledger.failures, job.not_taken)
    kept = ledger.measured.values()
    pages = sum(found.calibration.pages for found in ledger.prepared.values()) + sum(each.pages for each in kept)
    other = {"of other pages (source.page)": pages - len(done)} if pages > len(done) else {}
    views = [found.view for found in ledger.prepared.values()]
    bars = sum(view.info_bar * view.shape[1] for view in views) + sum(each.bar_pixels for each in kept)
    pixels = sum(view.shape[0] * view.shape[1] for view in views) + sum(each.pixels for each in kept)
    return (
        files,
        Account("pages", pages, len(done), 0, other),
        Account("pixels", pixels, pixels - bars, 0, {"of info bars": bars}),
    )


def segment(
    settings: SegmentSettings,
    report: Callable[[Progress], None] = lambda _: None,
    pool: PoolFactory | None = None,
    worker_class: type[ArchiveWorker] = ArchiveWorker,
    on_forecast: Callable[[Forecast], None] = lambda _: None,
    on_warning: Callable[[str], None] = lambda _: None,
) -> Segmented:
    """Segment an archive, or what is missing of it.

    Args:
        settings: The job's settings; `workers: 0` runs in this process, without Ray.
        report: Called after each task.
        pool: Makes the executor where `workers` is above 0; called only if there is something to do.
        worker_class: For tests that inject failures.
        on_forecast: Called with the cost of the run, before its first shard.
        on_warning: Called with a line for each slow shard, and where nothing gets done, then from another thread.

    Returns:
        The run, its ledger and its areas.

    Raises:
        InputError: The archive is missing or empty.
        CheckpointError: The checkpoint cannot be used.
        RunMismatchError: The output holds a run of another model or other settings.
        StoreError: The disk is full.
    """
    settings, kept = keep_calibration(settings)
    job = prepare_job(settings)
    # The lock comes first: `overwrite` must not delete what another job is writing.
    with sole_writer(settings.output), _fenced(settings, job, pool, worker_class) as (executor, config):
        run = Run.create(settings.output, job.identity, job.record, overwrite=settings.overwrite)
        run.claim(dict.fromkeys(LOG_FILES, Kind.FILE))
        with watched(run.folder, executor, on_warning) as (log, watched_executor):
            ledger, progress = survey(run, job.inputs, config, watched_executor, report)
            log.write("surveyed", micrographs=len(job.inputs), complete=len(ledger.kept), shards=_left(ledger))
            cost = _forecast(settings, job, run, ledger)
            cost.refuse_full_disk(run.folder)
            on_forecast(cost)
            division = Division(job.plan.engine, shared_by(settings)) if job.plan.engine.strip else None
            work(run, ledger, progress, watched_executor, report, division)
            # An input that broke after an earlier run still has that run's mask, which is not measured any more.
            failed = {failure.path for failure in ledger.failures}
            ledger.failures.sort()
            names = [item.name for item in job.inputs if item.name not in failed]
            with config.writing():
                dropped = run.drop_outdated()
                areas, accounts = run.write_tables(names, ledger.failures, ledger.measured)
    run = Run.open(run.folder)
    return Segmented(run, job.plan, ledger, areas, run.document["seams"], kept, dropped, accounts)


def _left(ledger: Ledger) -> int:
    """Shards that the survey found missing."""
    return sum(len(found.missing) for found in ledger.prepared.values())
