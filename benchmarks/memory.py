"""Peak memory of one worker against the size of the micrograph: law 3, measured.

Prints a table; run with `python -m benchmarks memory [--large | --strips]`. Each row is a process of its own that segments shards
of one uncompressed TIFF by the plain loop, or with `--strips` all of it, and reads its peak resident set from the operating
system.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.harness import peak_mib, run_part
from benchmarks.material import make_checkpoint, segment_archive, write_micrograph
from microseg_ray.on_ray.environment import worker_environment
from microseg_ray.settings import SegmentSettings, settings_from


def segment_shards(archive: str, checkpoint: str, output: str, shards: int) -> dict[str, float]:
    """Segment the first shards of one micrograph in this process."""
    from collections import deque

    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.setup import prepare_job
    from microseg_ray.runs.tasks import PrepareTask, ShardTask
    from microseg_ray.runs.worker import ArchiveWorker

    job = prepare_job(settings_from(SegmentSettings, {"archive": archive, "checkpoint": checkpoint, "output": output}))
    run = Run.create(output, job.identity, job.record)
    worker = ArchiveWorker(job.config)
    item = job.inputs[0]
    found = worker.do(PrepareTask(item.name, item.path, str(run.store_path(item.name)))).prepared
    if found is None:
        raise SystemExit("the micrograph could not be prepared")
    pending = deque(list(found.missing)[: shards or None])
    done = len(pending)
    while pending:
        outcome = worker.do(
            ShardTask(item.name, item.path, str(run.store_path(item.name)), found.view, found.limits, pending.popleft())
        )
        if not outcome.ok:
            raise SystemExit(outcome.reason)
    return {
        "peak": peak_mib(),
        "projected": job.plan.worker_bytes / 2**20,
        "shards": done,
        "tile": job.plan.engine.tile,
    }


def segment_strips(archive: str, checkpoint: str, output: str) -> dict[str, float]:
    """Segment one micrograph in strips in this process, by the job `segment`."""
    from microseg_ray.runs.setup import prepare_job

    chosen = {"archive": archive, "checkpoint": checkpoint, "path": "strips"}
    plan = prepare_job(settings_from(SegmentSettings, {**chosen, "output": f"{output}-plan"})).plan
    # The job prints to the standard output, where the row belongs alone.
    with contextlib.redirect_stdout(sys.stderr):
        segment_archive(archive, checkpoint, output, ["--workers", "0", "--threads", "1", "--path", "strips"])
    return {
        "peak": peak_mib(),
        "projected": plan.worker_bytes / 2**20,
        "shards": 0,
        "tile": plan.engine.strip,
    }


def measure(side: int, width: int, depth: int, shards: int) -> dict[str, float]:
    """One row, in a process of its own; -1 shards: all, in strips."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(folder / "model", "unet", {"width": width, "depth": depth}, ("a", "b", "c"))
        write_micrograph(folder / "large.tif", side, side)
        child = [str(folder / "large.tif"), str(folder / "model"), str(folder / "run"), str(shards)]
        return json.loads(run_part("benchmarks.memory", ["--child", *child], worker_environment(1)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=4)
    parser.add_argument(
        "--large", action="store_true", help="a U-Net of width 32 and depth 4 too, on two shards (minutes)"
    )
    parser.add_argument(
        "--strips", action="store_true", help="whole micrographs in strips; the column `tile` has their rows"
    )
    arguments = parser.parse_args()
    if arguments.child:
        archive, checkpoint, output, shards = arguments.child
        row = (
            segment_strips(archive, checkpoint, output)
            if int(shards) < 0
            else segment_shards(archive, checkpoint, output, int(shards))
        )
        print(json.dumps(row))
        return
    rows = [("U-Net width 4, depth 2", side, 4, 2, 0) for side in (4096, 16384, 32768)]
    if arguments.strips:
        rows = [("U-Net width 4, depth 2", side, 4, 2, -1) for side in (4096, 8192, 32768)]
    elif arguments.large:
        rows += [("U-Net width 32, depth 4", side, 32, 4, 2) for side in (4096, 16384)]
    print(f"{'model':<34} {'side px':>8} {'shards':>7} {'tile':>5} {'peak MiB':>9} {'projected':>10}")
    for label, side, width, depth, shards in rows:
        row = measure(side, width, depth, shards)
        print(
            f"{label:<34} {side:>8} {row['shards']:>7} {row['tile']:>5} {row['peak']:>9.0f} {row['projected']:>10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
