"""What scheduling costs: the shards of one micrograph through a plain loop, the actor pool and Ray Data, in one run.

Run `python benchmarks/pool.py`; one to three minutes on two cores. The model is a threshold, so what is left is reading,
committing and scheduling. A job goes several times over the micrograph: its first round shows the start-up, the later
ones the steady state. Every job must give the same counts, or the script fails. Results: docs/decisions/0003.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import statistics
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from rich.console import Console
from rich.table import Table

from microseg_ray.on_ray.actors import ActorPool
from microseg_ray.on_ray.resources import Demand
from microseg_ray.on_ray.start import start_ray
from microseg_ray.runs.config import WorkerConfig
from microseg_ray.runs.drive import PlainLoop
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.tasks import ShardTask
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import ClassSpec, RaySettings, Scaling
from microseg_ray.sources import View
from microseg_ray.stitching import EnginePlan

if TYPE_CHECKING:
    from collections.abc import Iterator

CLASSES = (ClassSpec(name="dark", color="#202020"), ClassSpec(name="bright", color="#e69f00"))


class Threshold:
    """A model that costs next to nothing."""

    classes = len(CLASSES)

    def masks(self, batch: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
        return (batch[:, 0] > sum(limits) / 2).astype(np.uint8)


class ThresholdWorker(ArchiveWorker):
    """The engine's own worker with that model."""

    def __init__(self, config: WorkerConfig) -> None:
        super().__init__(config, Threshold())


@dataclass(frozen=True)
class Job:
    """What every executor gets to do."""

    path: Path
    folder: Path
    spec: MaskSpec
    rounds: int


def in_process(config: WorkerConfig, tasks: list[ShardTask], _workers: int) -> Iterator[bool]:
    for outcome in PlainLoop(ThresholdWorker(config)).run(deque(tasks)):
        yield outcome.ok


def actor_pool(config: WorkerConfig, tasks: list[ShardTask], workers: int) -> Iterator[bool]:
    pool = ActorPool(config, Demand(workers), worker_class=ThresholdWorker)
    try:
        for outcome in pool.run(deque(tasks)):
            yield outcome.ok
    finally:
        pool.close()


def ray_data(config: WorkerConfig, tasks: list[ShardTask], workers: int) -> Iterator[bool]:
    """The same worker in `map_batches` on rows of coordinates, a row a block so that a call covers a shard."""
    import ray.data

    shared = tasks[0]

    class Mapper:
        def __init__(self) -> None:
            self.worker = ThresholdWorker(config)

        def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bool]]:
            shards = zip(batch["y"].tolist(), batch["x"].tolist(), strict=True)
            return {
                "ok": [
                    self.worker.do(ShardTask("m", shared.path, shared.store, shared.view, shared.limits, shard)).ok
                    for shard in shards
                ]
            }

    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    rows = [{"y": task.shard[0], "x": task.shard[1]} for task in tasks]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Mapper, batch_size=1, compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=0.9
    )
    for row in dataset.iter_rows():
        yield bool(row["ok"])


def measure(run: Any, config: WorkerConfig, job: Job, workers: int) -> tuple[float, float, list[float]]:
    """One job from nothing, all rounds in it: seconds to the first shard, to the last, and per later round."""
    store = MaskStore.create(job.folder / "mask.zarr", job.spec, {})
    shards = list(itertools.product(range(job.spec.shards[0]), range(job.spec.shards[1]))) * job.rounds
    tasks = [ShardTask("m", str(job.path), store.path, View(job.spec.shape), (0.0, 255.0), shard) for shard in shards]
    times = []
    began = time.perf_counter()
    for ok in run(config, tasks, workers):
        if not ok:
            raise SystemExit("a shard failed")
        times.append(time.perf_counter() - began)
    if len(times) != len(tasks) or store.missing():
        raise SystemExit(f"{len(times)} of {len(tasks)} shards came back, {len(store.missing())} are missing")
    reference = job.folder / "reference.npy"
    if reference.exists():
        np.testing.assert_array_equal(store.counts, np.load(reference))
    else:
        np.save(reference, store.counts)
    # The first round overlaps with the start of the other workers.
    ends = times[len(tasks) // job.rounds - 1 :: len(tasks) // job.rounds]
    return times[0], ends[0], [after - before for before, after in itertools.pairwise(ends)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=8192, help="side of the micrograph in px")
    parser.add_argument("--shard", type=int, default=1024, help="side of a shard in px, a multiple of 512")
    parser.add_argument("--rounds", type=int, default=3, help="times that a job goes over the micrograph")
    parser.add_argument("--jobs", type=int, default=2, help="jobs per executor, one executor after the other")
    chosen = parser.parse_args()
    spec = MaskSpec((chosen.side, chosen.side), CLASSES, chosen.shard)
    plan = EnginePlan(tile=min(1024, chosen.shard), halo=0, stride=1, shard=chosen.shard)
    config = WorkerConfig(
        runtime="torch",
        checkpoint="none",
        precision="fp32",
        device="cpu",
        threads=1,
        plan=plan,
        identity={},
        classes=CLASSES,
        channels=1,
        scaling=Scaling(),
        fingerprint="stat",
        verdict="exact",
    )
    began = time.perf_counter()
    start_ray(RaySettings(num_cpus=2))
    ray_start = time.perf_counter() - began
    executors = {
        ("in-process loop", "-"): (in_process, 0),
        ("ActorPool", "1"): (actor_pool, 1),
        ("ActorPool", "2"): (actor_pool, 2),
        ("Ray Data map_batches", "1"): (ray_data, 1),
        ("Ray Data map_batches", "2"): (ray_data, 2),
    }
    found: dict[tuple[str, str], list[tuple[float, float, list[float]]]] = {key: [] for key in executors}
    with tempfile.TemporaryDirectory(prefix="microseg_pool_") as name:
        path = Path(name) / "micrograph.tif"
        smooth = np.random.default_rng(0).integers(0, 256, (chosen.side // 64, chosen.side // 64), dtype=np.uint8)
        tifffile.imwrite(path, np.kron(smooth, np.ones((64, 64), np.uint8)), tile=(512, 512))
        job = Job(path, Path(name), spec, chosen.rounds)
        for _ in range(chosen.jobs):
            for key, (run, workers) in executors.items():
                found[key].append(measure(run, config, job, workers))
    shards = spec.shards[0] * spec.shards[1]
    console = Console(width=120)
    console.print(f"{shards} shards of {chosen.shard} px; ray.init itself took {ray_start:.1f} s, once")
    console.print(table_of(found))
    return 0


def table_of(found: dict[tuple[str, str], list[tuple[float, float, list[float]]]]) -> Table:
    """The best and the median, because the machine is shared."""
    table = Table(
        "executor", "workers", "first shard s", "first round s", "later round s, best", "median", "best / loop"
    )
    loop = 0.0
    for key, jobs in found.items():
        rounds = [seconds for _, _, later in jobs for seconds in later]
        loop = loop or min(rounds)
        first, whole = min(job[0] for job in jobs), min(job[1] for job in jobs)
        figures = (first, whole, min(rounds), statistics.median(rounds), min(rounds) / loop)
        table.add_row(*key, *(f"{value:.2f}" for value in figures))
    return table


if __name__ == "__main__":
    sys.exit(main())
