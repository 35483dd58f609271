"""An archive of micrographs: the plain loop beside one and two workers on Ray, after the start of Ray.

A tiny model, so that reading, writing and scheduling weigh most. Ray's share is what the same archive takes longer with one
worker than in the plain loop.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Table, in_turns, measured, run_named
from benchmarks.material import make_checkpoint, segment_archive, write_micrograph

PLAIN = "plain loop"


def way(arguments: dict[str, Any]) -> None:
    """Segment a single micrograph first, so that imports and Ray's start are not counted."""
    options = ["--workers", str(arguments["workers"]), "--threads", "1"]
    if arguments["workers"]:
        options += ["--ray.num_cpus", "2"]

    with tempfile.TemporaryDirectory() as name:
        segment_archive(arguments["small"], arguments["checkpoint"], f"{name}/small", options)

        def work() -> dict[str, Any]:
            segment_archive(arguments["archive"], arguments["checkpoint"], f"{name}/run", options)
            return {"count": arguments["count"]}

        measured(work)


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks archive`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks archive", description=__doc__)
    parser.add_argument("--count", type=int, default=40, help="micrographs; the issue's figure is for 1000")
    parser.add_argument("--side", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="unet")
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--depth", type=int, default=2)
    chosen = parser.parse_args(arguments)
    columns = ("way", "s", "micrographs per s", "s against the plain loop")
    table = Table("archive", " ".join(["python -m benchmarks archive", *arguments]), columns)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        options = {"width": chosen.width, "depth": chosen.depth}
        checkpoint = str(make_checkpoint(folder / "checkpoint", chosen.model, options))
        (folder / "archive").mkdir()
        first = write_micrograph(folder / "archive" / "0000.tif", chosen.side, chosen.side)
        for number in range(1, chosen.count):
            # The same pixels under other names: hard links cost no disk.
            (folder / "archive" / f"{number:04d}.tif").hardlink_to(first)
        small = str(write_micrograph(folder / "small.tif", 96, 96))
        shared = {"checkpoint": checkpoint, "archive": str(folder / "archive"), "small": small, "count": chosen.count}
        ways = {
            PLAIN: {**shared, "workers": 0},
            "1 worker on Ray": {**shared, "workers": 1},
            "2 workers on Ray": {**shared, "workers": 2},
        }
        found = in_turns("benchmarks.archive", ways, chosen.rounds)
    for label, used in found.items():
        if not used:
            table.rows.append((label, "could not run", "", ""))
            continue
        wall = statistics.median(u.wall for u in used)
        against = statistics.median(u.wall / b.wall for u, b in zip(used, found[PLAIN], strict=False))
        table.rows.append((label, f"{wall:.1f}", f"{chosen.count / wall:.2f}", f"{against:.2f}"))
        table.figures[f"{label} / {PLAIN}"] = round(against, 3)
    table.notes.append(
        f"{chosen.count} micrographs of {chosen.side} x {chosen.side} px, {chosen.model} of width {chosen.width} and depth "
        f"{chosen.depth}, wall seconds after a first job in the same process; medians of {chosen.rounds} rounds. Ray starts anew "
        "for the second job where the first has ended it."
    )
    return [table]


if __name__ == "__main__":
    run_named(way)
