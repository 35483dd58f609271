"""Survey and schedule are streams: a million shards take no more memory than a thousand, and nothing is lost or done twice."""

from __future__ import annotations

import threading
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.runs.drive import SURVEY_THREADS, PlainLoop, in_threads, survey, work
from microseg_ray.runs.folder import Run
from microseg_ray.runs.forecast import forecast
from microseg_ray.runs.queue import TaskQueue
from microseg_ray.runs.setup import prepare_job
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.shard_set import ShardSet
from microseg_ray.runs.tasks import Outcome, ShardTask
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import PlanSettings, SegmentSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.runs.drive import Pending


class Counting:
    """An executor that only counts, so that what is measured is the driver."""

    def __init__(self) -> None:
        self.seen: Counter[str] = Counter()

    def run(self, pending: Pending) -> Iterator[Outcome]:
        while pending:
            task = pending.popleft()
            self.seen[type(task).__name__] += 1
            yield Outcome(task, ok=True)

    def close(self) -> None:
        pass


def peak_of_plan(folder, checkpoint, side: int) -> int:
    """Peak bytes of survey, forecast and schedule of one micrograph of side x side shards, which has no pixels."""
    archive = folder / f"{side}"
    zarr.create_array(archive / "large.zarr", shape=(side * 256, side * 256), chunks=(256, 256), dtype="uint8")
    job = prepare_job(
        PlanSettings(
            archive=str(archive), checkpoint=str(checkpoint), output=str(folder / f"run{side}"), workers=0, shard=256,
            source={"info_bar": "none"},
        )
    )  # fmt: skip
    run = Run.at(folder / f"run{side}", job.identity)
    executor, counting = PlainLoop(ArchiveWorker(job.config)), Counting()
    tracemalloc.start()
    try:
        ledger, progress = survey(run, job.inputs, job.config, lambda: executor, lambda _: None, dry=True)
        cost = forecast(ledger.prepared, 0, ledger.failures, job.plan, run.folder, 3)
        work(run, ledger, progress, lambda: counting, lambda _: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert not ledger.failures
    assert cost.missing == cost.shards == progress.shards == ledger.computed == side**2
    # Above 32 shards of level 1 finishing is divided; this executor finds nothing left to do of it.
    assert counting.seen == {"ShardTask": side**2, "FinishTask": 1, **({"BeginTask": 1} if side > 10 else {})}
    return peak


def test_ten_times_the_shards_take_no_more_memory(checkpoint, tmp_path):
    peak_of_plan(tmp_path, checkpoint, 2)  # what is loaded on first use
    few, many = peak_of_plan(tmp_path, checkpoint, 16), peak_of_plan(tmp_path, checkpoint, 51)
    # A list of the 2,345 further tasks would take 600 kB; the grid's rows and columns are what remains.
    assert many - few < 150_000


@given(
    grid=st.tuples(st.integers(1, 9), st.integers(1, 19)),
    chosen=st.sets(st.tuples(st.integers(0, 8), st.integers(0, 18))),
)
def test_a_set_of_shards_is_what_was_put_in(grid, chosen):
    inside = {(row, column) for row, column in chosen if row < grid[0] and column < grid[1]}
    found = ShardSet.of(grid, inside)
    assert list(found) == sorted(inside)
    assert len(found) == len(inside)
    assert bool(found) == bool(inside)
    assert list(ShardSet(grid)) == list(np.ndindex(*grid))
    assert len(ShardSet(grid)) == grid[0] * grid[1]
    assert ShardSet.of(grid, np.ndindex(*grid)) == ShardSet(grid)


def test_tasks_are_made_when_they_are_asked_for():
    made: list[int] = []
    queue = TaskQueue(made.append(number) or number for number in range(5))
    assert made == []
    assert [queue.popleft(), queue.popleft()] == [0, 1]
    assert made == [0, 1]
    assert queue
    queue.appendleft(9)
    assert [queue.popleft() for _ in range(4)] == [9, 2, 3, 4]
    assert not queue
    with pytest.raises(IndexError):
        queue.popleft()


def test_looks_are_parallel_in_order_and_few_at_a_time():
    together = threading.Barrier(SURVEY_THREADS, timeout=60)
    asked: list[int] = []

    def look(number: int) -> int:
        if number < SURVEY_THREADS:
            together.wait()  # passes only if the first ones run at the same time
        return -number

    def items() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    found = in_threads(look, items())
    assert [next(found) for _ in range(20)] == [-number for number in range(20)]
    assert len(asked) <= 20 + 2 * SURVEY_THREADS
    found.close()
    with pytest.raises(ZeroDivisionError):
        list(in_threads(lambda number: 1 // number, [1, 0]))


def test_a_store_that_was_begun_lists_what_is_missing(archive, checkpoint, tmp_path):
    job = prepare_job(
        SegmentSettings(archive=str(archive), checkpoint=str(checkpoint), output=str(tmp_path), shard=256, workers=0)
    )
    run = Run.create(tmp_path, job.identity, job.record)
    executor = PlainLoop(ArchiveWorker(job.config))
    ledger, _ = survey(run, job.inputs, job.config, lambda: executor, lambda _: None)
    assert ledger.prepared["large.tif"].missing == ShardSet((3, 3))
    found = ledger.prepared["large.tif"]
    for shard in ((0, 2), (2, 0)):
        path = str(run.store_path("large.tif"))
        task = ShardTask("large.tif", ledger.paths["large.tif"], path, found.view, found.limits, shard)
        assert executor.worker.do(task).ok
    again, _ = survey(run, job.inputs, job.config, lambda: executor, lambda _: None)
    executor.close()
    left = [shard for shard in np.ndindex(3, 3) if shard not in {(0, 2), (2, 0)}]
    assert list(again.prepared["large.tif"].missing) == MaskStore.open(run.store_path("large.tif")).missing() == left
