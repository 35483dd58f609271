"""Seconds and memory of survey and plan, by shards and by micrographs; workers 0, nothing is computed.

The micrographs are real headers without pixels: zarr arrays without a chunk, or hard links of a small TIFF; no info bar is
looked for, because in pixels of one value the search reads a quarter of the rows. Each row is a process of its own. `driver,
peak` is its largest resident set, `before` what it was before the survey (interpreter and imports).

    python benchmarks/plan_scale.py                      # 1e3 to 1e6 shards, 1e3 to 1e4 micrographs
    python benchmarks/plan_scale.py --micrographs 100000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

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


def resident() -> tuple[int, int]:
    """Resident bytes of this program now, and at most; getrusage would report its parent's where that was larger."""
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    now, most = (
        int(next(line.split()[1] for line in status if line.startswith(name))) * 1024 for name in ("VmRSS", "VmHWM")
    )
    return now, most


def make_checkpoint(folder: Path) -> None:
    """A tiny U-Net with random weights."""
    from microseg_ray.models import build_model
    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.checkpoint import save_checkpoint
    from microseg_ray.models.footprint import measure_footprint
    from microseg_ray.models.receptive_field import measure_receptive_field
    from microseg_ray.settings import ClassSpec

    options = {"width": 2, "depth": 2}
    model = build_model("unet", 1, 2, options).eval()
    card = ModelCard(
        architecture="unet",
        options=options,
        in_channels=1,
        classes=(ClassSpec(name="matrix"), ClassSpec(name="pore")),
        receptive_field=measure_receptive_field(model, 1),
        footprint=measure_footprint(model, 1),
    )
    save_checkpoint(folder, model, card)


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
                first = path
            else:
                # A file of its own for whoever opens it, without a hundred thousand files to write.
                path.hardlink_to(first)
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


def one(archive: str, checkpoint: str, output: str) -> None:
    """Survey, forecast, and the scheduling of every shard to an executor that does nothing; prints JSON."""
    from microseg_ray.runs import drive
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.forecast import forecast
    from microseg_ray.runs.setup import prepare_job
    from microseg_ray.runs.worker import ArchiveWorker
    from microseg_ray.settings import PlanSettings

    settings = PlanSettings(
        archive=archive, checkpoint=checkpoint, output=output, workers=0, shard=SHARD, source={"info_bar": "none"}
    )
    before = resident()[0]
    began, cpu = time.perf_counter(), time.process_time()
    job = prepare_job(settings)
    run = Run.at(output, job.identity)
    executor = drive.PlainLoop(ArchiveWorker(job.config))
    ledger, progress = drive.survey(run, job.inputs, job.config, lambda: executor, lambda _: None, dry=True)
    cost = forecast(ledger.prepared, 0, ledger.failures, job.plan, run.folder, len(job.config.classes))
    planned, planned_cpu = time.perf_counter() - began, time.process_time() - cpu
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
        "peak": resident()[1],
    }
    print(json.dumps(figures))


def row(folder: Path, micrographs: int, side: int) -> str:
    """One row of the table."""
    archive = folder / "archive"
    make_archive(archive, micrographs, side)
    command = [sys.executable, __file__, "--one", str(archive), str(folder / "model"), str(folder / "run")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    kind = f"{side} x {side} shards" if side else "TIFF, one shard"
    return (
        f"| {micrographs:,} of {kind} | {found['shards']:,} | {found['planned']:.1f} | {found['cpu']:.1f} | "
        f"{found['scheduled']:.1f} | {found['before'] / 1024**2:.0f} | {found['peak'] / 1024**2:.0f} |"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micrographs", type=int, help="only this many TIFFs")
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(*arguments.one)
        return
    rows = [(1, 32), (10, 32), (10, 100), (100, 100), (1, 98), (1, 256), (1000, 0), (10000, 0)]
    chosen = deque([(arguments.micrographs, 0)] if arguments.micrographs else rows)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n"
    )
    print("| micrographs | shards | survey and plan, s | CPU s | scheduling, s | before, MiB | driver, peak MiB |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        make_checkpoint(Path(name) / "model")
        for micrographs, side in chosen:
            with tempfile.TemporaryDirectory() as place:
                (Path(place) / "model").symlink_to(Path(name) / "model")
                print(row(Path(place), micrographs, side), flush=True)


if __name__ == "__main__":
    main()
