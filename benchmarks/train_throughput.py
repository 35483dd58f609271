"""Samples a second of `train` against a plain PyTorch loop with its data in memory, in turns: A B A B.

The plain loop takes crops that are ready in memory, without augmentation: forward, cross entropy, backward, AdamW, nothing
else. Network, batch, crop, precision, memory layout and threads are the same. What an epoch adds at its end (validation,
checkpoints) is not counted. CPU seconds are taken in one process, a step of one after a step of the other, because a busy machine
changes from one second to the next; what `train` prepares in its own thread counts. The first steps are left out.

    python benchmarks/train_throughput.py                        # four pairs of each row
    python benchmarks/train_throughput.py --only streamed --pairs 1
    python benchmarks/train_throughput.py --curves               # loss of bf16 and fp32, three seeds each
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

CLASSES, TILES, SIDE = ("matrix", "grain", "pore"), 96, 512
WARM_UP = 3

FULL = {
    "rotate": 180,
    "scale": [0.7, 1.4],
    "gamma": [0.75, 1.33],
    "brightness": 0.15,
    "contrast": 0.25,
    "noise": 0.08,
    "blur": 0.6,
}
ROWS: dict[str, dict[str, Any]] = {
    "in memory, default augmentation": {},
    "in memory, rotation, scale, gamma, noise, blur": {"augment": FULL},
    "streamed from disk, default augmentation": {"held_bytes": 0},
    "streamed from disk, rotation, scale, gamma, noise, blur": {"held_bytes": 0, "augment": FULL},
}


def make_store(folder: Path) -> None:
    """A tile store of blobs and noise: three classes by two thresholds of a smooth field."""
    import numpy as np
    from scipy.ndimage import zoom

    from microseg_ray.settings import ClassSpec, Scaling
    from microseg_ray.tiles.spec import TileSpec
    from microseg_ray.tiles.store import TileStore, write_table

    spec = TileSpec(TILES, SIDE, 0, 1, "uint8", tuple(ClassSpec(name=name) for name in CLASSES), Scaling())
    store = TileStore.create(folder, spec, {})
    random = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for shard in range(spec.shards):
        count = len(spec.shard_range(shard))
        fields = np.stack(
            [zoom(random.random((SIDE // 16, SIDE // 16), np.float32), 16, order=1) for _ in range(count)]
        )
        masks = (fields > 0.45).astype(np.uint8) + (fields > 0.65)
        images = (60 + 50 * masks + random.normal(0, 25, masks.shape)).clip(0, 255).astype(np.uint8)[:, None]
        store.write_shard(shard, images, masks)
        for mask in masks:
            pixels = {f"count_{index}": int((mask == index).sum()) for index in range(len(CLASSES))}
            place = {"micrograph": f"{len(rows)}.tif", "group": f"{len(rows)}", "split": "train", "y0": 0, "x0": 0}
            rows.append({**place, "low": 0.0, "high": 255.0, **pixels})
    write_table(folder, rows)


class PlainLoop:
    """A loop that does nothing but train, a step at a time."""

    def __init__(self, options: dict[str, Any]) -> None:
        import numpy as np
        import torch

        from microseg_ray.models import build_model
        from microseg_ray.tiles.store import TileStore

        self.options = options
        torch.set_num_threads(options["threads"])
        torch.manual_seed(0)
        store, crop = TileStore.open(options["tiles"]), options["crop"]
        images, masks, _ = store.read(store.rows("train"))
        self.scaled = torch.from_numpy(images[:, :, :crop, :crop].astype(np.float32) / 255)
        self.labels = torch.from_numpy(masks[:, :crop, :crop].astype(np.int64))
        model = build_model(options["model"], 1, len(CLASSES), {}).train()
        self.model = model.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(self) -> None:
        """Forward, loss, backward, update."""
        import torch
        from torch.nn import functional as F  # noqa: N812 - torch's own name for it

        chosen = torch.randint(0, len(self.scaled), (self.options["batch"],))
        inputs, target = self.scaled[chosen].contiguous(memory_format=torch.channels_last), self.labels[chosen]
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.options["precision"] == "bf16"):
            logits = self.model(inputs)
        F.cross_entropy(logits.float(), target, ignore_index=255).backward()
        self.optimizer.step()


def own_loop(options: dict[str, Any], on_step: Callable[[], None]) -> float:
    """`train`, with a call after each step; the seconds that a step waited for its tiles."""
    from microseg_ray.fitting.history import read_history
    from microseg_ray.fitting.loop import fit
    from microseg_ray.fitting.workers import Workers
    from microseg_ray.settings import TrainSettings

    given = ("batch", "crop", "threads", "precision", "augment", "held_bytes")
    with tempfile.TemporaryDirectory() as output:
        settings = TrainSettings(
            tiles=options["tiles"],
            output=output,
            epochs=1,
            workers=0,
            steps_per_epoch=options["steps"] + WARM_UP,
            model={"name": options["model"]},
            **{key: options[key] for key in given if key in options},
        )
        fit(settings, Workers(), lambda _: False, lambda *_: on_step())
        return float(read_history(output)[-1]["data_wait"])


def in_turns(options: dict[str, Any]) -> dict[str, Any]:
    """CPU seconds of both, a step of one after a step of the other: whatever else runs here disturbs both alike.

    The tiles of `train` are prepared in a thread beside the plain loop's steps, so its share is all that the plain loop's
    own thread did not take.
    """
    plain, times = PlainLoop(options), []

    def on_step() -> None:
        began = time.thread_time()
        plain.step()
        times.append((time.process_time(), time.thread_time() - began))

    own_loop(options, on_step)
    pairs = []
    size = options["steps"] // options["pairs"]
    for first in range(WARM_UP - 1, len(times) - size, size):
        spent = sum(alone for _, alone in times[first + 1 : first + size + 1])
        pairs.append((spent / size, (times[first + size][0] - times[first][0] - spent) / size))
    return {"pairs": pairs}


def alone(options: dict[str, Any]) -> dict[str, Any]:
    """Seconds a step of one of the two by the clock on the wall, and what it waited for tiles."""
    times: list[float] = []
    waited = 0.0
    if options["kind"] == "plain":
        plain = PlainLoop(options)
        for _ in range(options["steps"] + WARM_UP):
            plain.step()
            times.append(time.perf_counter())
    else:
        waited = own_loop(options, lambda: times.append(time.perf_counter()))
    return {"wall": (times[-1] - times[WARM_UP - 1]) / (len(times) - WARM_UP), "waited": waited}


def measured(options: dict[str, Any]) -> dict[str, Any]:
    """A run in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(options)], check=True, capture_output=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(options: dict[str, Any], only: str, *, wall: bool) -> str:
    """The rows, pair by pair."""
    columns = [
        *(
            "`train`",
            "plain, CPU s a step",
            "train, CPU s a step",
            "samples a CPU second: share of the plain loop's, by pair",
        ),
        "median",
    ]
    if wall:
        columns += ["samples a second by the wall clock: share, one run each", "waited for tiles, ms a step"]
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for name, more in ROWS.items():
        if only not in name:
            continue
        pairs = measured({**options, **more, "kind": "turns"})["pairs"]
        shares = [first / second for first, second in pairs]
        seconds = [", ".join(f"{value:.3f}" for value in part) for part in zip(*pairs, strict=True)]
        cells = [name, *seconds, ", ".join(f"{share:.3f}" for share in shares), f"**{statistics.median(shares):.3f}**"]
        if wall:
            plain, own = (measured({**options, **more, "kind": kind}) for kind in ("plain", "train"))
            cells += [f"{plain['wall'] / own['wall']:.3f}", f"{1000 * own['waited']:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return "\n".join(lines)


def curves(tiles: str, threads: int, epochs: int = 6, steps: int = 15) -> str:
    """Loss after each epoch in both precisions, three seeds each: the spread of the seeds beside the difference."""
    from microseg_ray.fitting.train import train
    from microseg_ray.settings import TrainSettings

    found: dict[str, list[list[float]]] = {"bf16": [], "fp32": []}
    for seed in range(3):
        for precision, rows in found.items():
            with tempfile.TemporaryDirectory() as output:
                trained = train(
                    TrainSettings(
                        tiles=tiles, output=output, epochs=epochs, steps_per_epoch=steps, batch=8, crop=64, workers=0,
                        threads=threads, seed=seed, precision=precision, optimizer={"learning_rate": 2e-3},
                    )
                )  # fmt: skip
            rows.append([float(row["loss"]) for row in trained.history])
    lines = ["| epoch | " + " | ".join(f"{name}, seed {seed}" for seed in range(3) for name in found) + " |"]
    lines.append("|---|" + "---|" * 6)
    for epoch in range(epochs):
        values = [found[name][seed][epoch] for seed in range(3) for name in found]
        lines.append(f"| {epoch + 1} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    last = {name: [rows[-1] for rows in each] for name, each in found.items()}
    apart = max(abs(one - other) for one, other in zip(*last.values(), strict=True))
    spread = max(max(values) - min(values) for values in last.values())
    lines.append(f"\nLast epoch: bf16 and fp32 of one seed are at most {apart:.4f} apart, seeds up to {spread:.4f}.")
    return "\n".join(lines)


def main() -> None:
    """Print the table, or the curves."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=16, help="in all pairs together")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="resunet")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--only", default="", help="rows whose name holds this")
    parser.add_argument(
        "--wall", action="store_true", help="also by the wall clock, which says something on a quiet machine only"
    )
    parser.add_argument("--curves", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        options = json.loads(arguments.one)
        print(json.dumps((in_turns if options["kind"] == "turns" else alone)(options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_store(Path(folder))
        if arguments.curves:
            print(curves(folder, arguments.threads))
            return
        names = ("steps", "pairs", "batch", "crop", "threads", "model", "precision")
        options = {"tiles": folder, **{name: getattr(arguments, name) for name in names}}
        text = table(options, arguments.only, wall=arguments.wall)
    print(
        f"\n{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}\n"
    )
    print(text)


if __name__ == "__main__":
    main()
