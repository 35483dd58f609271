"""Strips beside tiles and the bare forward pass: one micrograph from a file to a mask on disk, the same model and runtime.

`bare forward` computes exactly the pixels of the micrograph in tiles without a halo, and writes nothing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from benchmarks.harness import Table, in_turns
from benchmarks.material import make_checkpoint, write_micrograph
from benchmarks.segment import BASE, add_rows


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks strips`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks strips", description=__doc__)
    parser.add_argument("--shape", type=int, nargs=2, default=(4096, 4096), help="height and width, px")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--model", default="resunet")
    parser.add_argument("--roi", type=int, default=1024, help="tile of the bare pass, px")
    parser.add_argument("--strip", type=int, nargs="+", default=[256])
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--precision", default="bf16")
    chosen = parser.parse_args(arguments)
    columns = ("way", "MPix per CPU s", "MPix per s", f"share of {BASE}", "pixels unlike tiles", "peak MiB")
    table = Table("strips", " ".join(["python -m benchmarks strips", *arguments]), columns)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        height, width = chosen.shape
        shared = {
            "checkpoint": str(make_checkpoint(folder / "checkpoint", chosen.model)),
            "file": str(write_micrograph(folder / "large.tif", height, width)),
            "small": str(write_micrograph(folder / "small.tif", 96, 96)),
            "shape": (height, width),
            "runtime": chosen.runtime,
        }
        options = ["--precision", chosen.precision, "--runtime", chosen.runtime]
        ways = {BASE: {**shared, "method": "bare", "tile": chosen.roi}}
        for label, more in {
            "segment, tiles": ["--path", "tiles"],
            **{f"segment, strips of {rows}": ["--path", "strips", "--strip", str(rows)] for rows in chosen.strip},
        }.items():
            keep = str(folder / f"{len(ways)}.npy")
            ways[label] = {**shared, "method": "segment", "options": [*options, *more], "keep": keep}
        found = in_turns("benchmarks.segment", ways, chosen.rounds)
        add_rows(table, found, ways, "segment, tiles")
    table.notes.append(
        f"{chosen.model}, {height} x {width} px, {chosen.runtime} {chosen.precision}, one thread; medians of {chosen.rounds} "
        "rounds, ratios of CPU seconds within a round."
    )
    return [table]
