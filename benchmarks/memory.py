"""Peak memory of one worker against the size of the micrograph: law 3, measured.

Prints a table; run with `python benchmarks/memory.py [--large]`. Each row is a process of its own that segments shards of
one uncompressed TIFF by the plain loop and reads its peak resident set from the operating system.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import tifffile

from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard
from microseg_ray.models.checkpoint import save_checkpoint
from microseg_ray.models.footprint import measure_footprint
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.on_ray.environment import worker_environment
from microseg_ray.settings import ClassSpec, SegmentSettings, settings_from

CLASSES = tuple(
    ClassSpec(name=name, color=color) for name, color in (("a", "#000000"), ("b", "#ff0000"), ("c", "#00ff00"))
)


def make_checkpoint(folder: Path, width: int, depth: int) -> Path:
    """An untrained U-Net: memory does not depend on what it learnt."""
    import torch

    torch.manual_seed(0)
    options = {"width": width, "depth": depth}
    model = build_model("unet", 1, len(CLASSES), options).eval()
    card = ModelCard(
        architecture="unet",
        options=options,
        in_channels=1,
        classes=CLASSES,
        receptive_field=measure_receptive_field(model, 1),
        footprint=measure_footprint(model, 1),
    )
    save_checkpoint(folder, model, card)
    return folder


def make_micrograph(path: Path, side: int) -> None:
    """A large TIFF of repeated noise, written without holding it."""
    block = np.random.default_rng(side).integers(0, 256, (512, 512), dtype=np.uint8)
    target = tifffile.memmap(path, shape=(side, side), dtype=np.uint8)
    row = np.tile(block, (1, -(-side // 512)))[:, :side]
    for y0 in range(0, side, 512):
        target[y0 : y0 + 512] = row[: min(512, side - y0)]
    target.flush()


def peak_bytes() -> int:
    """Peak resident set of this program; getrusage would report its parent's where that was larger."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


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
    return {"peak": peak_bytes(), "projected": job.plan.worker_bytes, "shards": done, "tile": job.plan.engine.tile}


def measure(side: int, width: int, depth: int, shards: int) -> dict[str, float]:
    """One row, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(folder / "model", width, depth)
        make_micrograph(folder / "large.tif", side)
        child = [str(folder / "large.tif"), str(folder / "model"), str(folder / "run"), str(shards)]
        done = subprocess.run(
            [sys.executable, __file__, "--child", *child],
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, **worker_environment(1)},
        )
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--child", nargs=4)
    parser.add_argument(
        "--large", action="store_true", help="a U-Net of width 32 and depth 4 too, on two shards (minutes)"
    )
    arguments = parser.parse_args()
    if arguments.child:
        archive, checkpoint, output, shards = arguments.child
        print(json.dumps(segment_shards(archive, checkpoint, output, int(shards))))
        return
    rows = [("U-Net width 4, depth 2", side, 4, 2, 0) for side in (4096, 16384, 32768)]
    if arguments.large:
        rows += [("U-Net width 32, depth 4", side, 32, 4, 2) for side in (4096, 16384)]
    print(f"{'model':<34} {'side px':>8} {'shards':>7} {'tile':>5} {'peak MiB':>9} {'projected':>10}")
    for label, side, width, depth, shards in rows:
        row = measure(side, width, depth, shards)
        print(
            f"{label:<34} {side:>8} {row['shards']:>7} {row['tile']:>5} "
            f"{row['peak'] / 2**20:>9.0f} {row['projected'] / 2**20:>10.0f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
