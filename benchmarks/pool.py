"""What scheduling costs: the shards of one micrograph through a plain loop, the actor pool and Ray Data, in one run.

Run `python benchmarks/pool.py`; it takes one to three minutes on two cores. The model is a threshold, so what is left is reading,
committing and scheduling. Start-up is the time until the first shard is back, a round the time per shard after that
times the number of shards: both from the same job, and every job starts its workers anew, as a run does.
Every job must give the same counts, or the script fails. The results are in docs/decisions/0003.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from rich.console import Console
from rich.table import Table

from microseg_ray.archive import ArchiveWorker, ShardTask
from microseg_ray.archive.drive import PlainLoop
from microseg_ray.archive.worker import WorkerConfig
from microseg_ray.cli import start_ray
from microseg_ray.segmentation import ActorPool
from microseg_ray.settings import ClassSpec, RaySettings, Scaling
from microseg_ray.stitching import EnginePlan
from microseg_ray.stores import MaskSpec, MaskStore

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


def in_process(config: WorkerConfig, tasks: list[ShardTask], _workers: int) -> Iterator[bool]:
    for outcome in PlainLoop(ThresholdWorker(config)).run(deque(tasks)):
        yield outcome.ok


def actor_pool(config: WorkerConfig, tasks: list[ShardTask], workers: int) -> Iterator[bool]:
    pool = ActorPool(config, workers=workers, worker_class=ThresholdWorker)
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
                    self.worker.do(ShardTask("m", shared.path, shared.store, shared.shape, shared.limits, shard)).ok
                    for shard in shards
                ]
            }

    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = [{"y": task.shard[0], "x": task.shard[1]} for task in tasks]
    dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        Mapper, batch_size=1, compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=0.9
    )
    for row in dataset.iter_rows():
        yield bool(row["ok"])


def measure(
    run: Any, config: WorkerConfig, spec: MaskSpec, path: Path, folder: Path, workers: int
) -> tuple[float, float]:
    """One job from nothing: seconds until the first shard is back, and seconds per round after that."""
    store = MaskStore.create(folder / "mask.zarr", spec, {})
    shards = itertools.product(range(spec.shards[0]), range(spec.shards[1]))
    tasks = [ShardTask("m", str(path), store.path, spec.shape, (0.0, 255.0), shard) for shard in shards]
    times = []
    began = time.perf_counter()
    for ok in run(config, tasks, workers):
        if not ok:
            raise SystemExit("a shard failed")
        times.append(time.perf_counter() - began)
    if len(times) != len(tasks) or store.missing():
        raise SystemExit(f"{len(times)} of {len(tasks)} shards came back, {len(store.missing())} are missing")
    reference = folder / "reference.npy"
    if reference.exists():
        np.testing.assert_array_equal(store.counts, np.load(reference))
    else:
        np.save(reference, store.counts)
    return times[0], (times[-1] - times[0]) / (len(times) - 1) * len(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=8192, help="side of the micrograph in px")
    parser.add_argument("--shard", type=int, default=1024, help="side of a shard in px, a multiple of 512")
    parser.add_argument(
        "--rounds", type=int, default=3, help="jobs per executor; the table shows the best and the spread"
    )
    chosen = parser.parse_args()
    spec = MaskSpec((chosen.side, chosen.side), CLASSES, chosen.shard)
    plan = EnginePlan(tile=min(1024, chosen.shard), halo=0, stride=1, shard=chosen.shard)
    config = WorkerConfig(
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
        pixel_size_um=None,
        verdict="exact",
    )
    began = time.perf_counter()
    start_ray(RaySettings(num_cpus=2))
    ray_start = time.perf_counter() - began
    table = Table("executor", "workers", "start-up s", "round s, best", "round s, worst", "round / loop", "whole job s")
    with tempfile.TemporaryDirectory(prefix="microseg_pool_") as name:
        folder = Path(name)
        path = folder / "micrograph.tif"
        smooth = np.random.default_rng(0).integers(0, 256, (chosen.side // 64, chosen.side // 64), dtype=np.uint8)
        tifffile.imwrite(path, np.kron(smooth, np.ones((64, 64), np.uint8)), tile=(512, 512))
        loop = 0.0
        count = len(list(itertools.product(range(spec.shards[0]), range(spec.shards[1]))))
        for title, run, workers in (
            ("in-process loop", in_process, 0),
            ("ActorPool", actor_pool, 1),
            ("ActorPool", actor_pool, 2),
            ("Ray Data map_batches", ray_data, 1),
            ("Ray Data map_batches", ray_data, 2),
        ):
            found = [measure(run, config, spec, path, folder, workers) for _ in range(chosen.rounds)]
            rounds = [seconds for _, seconds in found]
            best = min(rounds)
            loop = loop or best
            start = min(seconds for seconds, _ in found)
            whole = min(first + seconds * (count - 1) / count for first, seconds in found)
            figures = (start, best, max(rounds), best / loop, whole)
            table.add_row(title, str(workers or "-"), *(f"{value:.2f}" for value in figures))
    console = Console(width=120)
    console.print(f"{count} shards of {chosen.shard} px; ray.init itself took {ray_start:.1f} s, once")
    console.print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
