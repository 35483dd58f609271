"""Seconds and memory of survey and plan, by shards and by micrographs; nothing is computed.

The micrographs are real files: zarr arrays without a chunk, or small TIFFs, written anew and deleted afterwards; no info bar
is looked for, because in pixels of one value the search reads a quarter of the rows. Each row is a process of its own.
`driver, peak` is its largest resident set, `before` what it was before the survey (interpreter and imports). With workers,
the start of Ray counts.

    python -m benchmarks plan                              # 1e3 to 1e6 shards, 1e3 to 1e4 micrographs
    python -m benchmarks plan --micrographs 100000 --workers 2
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness import cpu_name, peak_mib, resident_mib, run_part
from benchmarks.material import make_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.runs.drive import Pending
    from microseg_ray.runs.tasks import Outcome

SHARD = 2048


class Nothing:
    """An executor that says of every task that it is done: what is left is the driver."""

    def run(self, pending: Pending) -> Iterator[Outcome]:
        """Yield outcomes in the order of the tasks."""
        from microseg_ray.runs.tasks import Outcome

        while pending:
            yield Outcome(pending.popleft(), ok=True)

    def close(self) -> None:
        """Nothing is open."""


def make_archive(folder: Path, micrographs: int, side: int) -> None:
    """Micrographs of so many shards a side; of 0: TIFFs of 64 px."""
    if not side:
        import numpy as np
        import tifffile

        for number in range(micrographs):
            path = folder / f"{number // 1000:03d}" / f"{number:06d}.tif"
            if number % 1000 == 0:
                path.parent.mkdir(parents=True)
                tifffile.imwrite(path, np.full((64, 64), 90, np.uint8))
                content = path.read_bytes()
            path.write_bytes(content)
        return
    import zarr

    for number in range(micrographs):
        zarr.create_array(
            folder / f"{number:04d}.zarr",
            shape=(side * SHARD, side * SHARD),
            chunks=(512, 512),
            dtype="uint8",
            fill_value=90,
        )


def one(archive: str, checkpoint: str, output: str, workers: str) -> None:
    """Survey, forecast, and the scheduling of every shard to an executor that does nothing; prints JSON."""
    from microseg_ray.runs import drive
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.forecast import forecast
    from microseg_ray.runs.setup import prepare_job
    from microseg_ray.runs.worker import ArchiveWorker
    from microseg_ray.settings import PlanSettings

    settings = PlanSettings(
        archive=archive,
        checkpoint=checkpoint,
        output=output,
        workers=int(workers),
        shard=SHARD,
        source={"info_bar": "none"},
        ray={"num_cpus": max(1, int(workers))},
    )
    before = resident_mib()
    began, cpu = time.perf_counter(), time.process_time()
    job = prepare_job(settings)
    run = Run.at(output, job.identity)
    if settings.workers:
        from microseg_ray.on_ray.actors import actor_pool
        from microseg_ray.on_ray.start import start_ray

        executor: drive.Executor = actor_pool(lambda: start_ray(settings.ray), settings, job.config, ArchiveWorker)
    else:
        executor = drive.PlainLoop(ArchiveWorker(job.config))
    ledger, progress = drive.survey(run, job.inputs, job.config, lambda: executor, lambda _: None, dry=True)
    cost = forecast(ledger.prepared, 0, ledger.failures, job.plan, run.folder, len(job.config.classes))
    planned, planned_cpu = time.perf_counter() - began, time.process_time() - cpu
    executor.close()
    if ledger.failures:
        raise SystemExit(f"{len(ledger.failures)} micrographs failed: {ledger.failures[0]}")
    began = time.perf_counter()
    drive.work(run, ledger, progress, Nothing, lambda _: None)
    figures = {
        "shards": cost.missing,
        "planned": planned,
        "cpu": planned_cpu,
        "scheduled": time.perf_counter() - began,
        "before": before,
        "peak": peak_mib(),
    }
    print(json.dumps(figures))


def row(folder: Path, micrographs: int, side: int, workers: int) -> str:
    """One row of the table."""
    archive = folder / "archive"
    make_archive(archive, micrographs, side)
    places = [str(archive), str(folder / "model"), str(folder / "run")]
    found = json.loads(run_part("benchmarks.plan_scale", ["--one", *places, str(workers)]))
    kind = f"{side} x {side} shards" if side else "TIFF, one shard"
    return (
        f"| {micrographs:,} of {kind} | {found['shards']:,} | {workers} | {found['planned']:.1f} | {found['cpu']:.1f} | "
        f"{found['scheduled']:.1f} | {found['before']:.0f} | {found['peak']:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", type=int, help="only this many TIFFs")
    parser.add_argument("--workers", type=int, default=0, help="processes on Ray that read headers; 0: threads")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    rows = [(1, 32), (10, 32), (10, 100), (100, 100), (1, 98), (1, 256), (1000, 0), (10000, 0)]
    chosen = deque([(arguments.micrographs, 0)] if arguments.micrographs else rows)
    print(f"{cpu_name()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    print(
        "| micrographs | shards | workers | survey and plan, s | CPU s | scheduling, s | before, MiB | driver, peak MiB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        make_checkpoint(Path(name) / "model", "unet", {"width": 2, "depth": 2}, ("matrix", "pore"))
        for micrographs, side in chosen:
            with tempfile.TemporaryDirectory() as place:
                (Path(place) / "model").symlink_to(Path(name) / "model")
                print(row(Path(place), micrographs, side, arguments.workers), flush=True)


if __name__ == "__main__":
    main()
