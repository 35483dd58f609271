"""Pixels computed for each pixel kept in tiles: squares beside sides that are chosen for each micrograph, by memory.

Nothing is computed: sizes follow from the settings, the model's card and the shape. Both columns hold tiles of one area, the
largest that the memory allows at shards of 2048 px, `path: tiles`.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import Table
from benchmarks.material import make_checkpoint

SHAPES = ((2048, 2048), (4096, 4096), (8192, 8192), (32768, 32768), (2048, 30000))


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks tax`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tax", description=__doc__)
    parser.add_argument("--model", default="resunet")
    parser.add_argument("--memory", nargs="+", type=float, default=[1.5, 4.0])
    chosen = parser.parse_args(arguments)
    from microseg_ray.models.card import read_card
    from microseg_ray.models.computing import Computing
    from microseg_ray.runs.plan import engine_plan
    from microseg_ray.settings import PlanSettings
    from microseg_ray.stitching import engine_grid

    columns = ("micrograph", "GiB", "precision", "squares", "tax", "chosen sides", "tax", "less computed")
    table = Table("tax", " ".join(["python -m benchmarks tax", *arguments]), columns)
    with tempfile.TemporaryDirectory() as name:
        card = read_card(make_checkpoint(Path(name), chosen.model))
    for precision in ("bf16", "fp32"):
        computing = Computing("openvino", {"runtime_precision": precision})
        for memory in chosen.memory:
            settings = PlanSettings(
                archive="a", checkpoint="c", output="o", path="tiles", memory=memory, precision=precision
            )
            plan = engine_plan(settings, card, None, computing).engine
            side = int(plan.tile_pixels**0.5) // plan.stride * plan.stride
            for shape in SHAPES:
                square, free = (
                    engine_grid(shape, each) for each in (replace(plan, tile=side, tile_area=0), plan)
                )  # fmt: skip
                less = 1 - free.halo_tax / square.halo_tax
                sizes = [" x ".join(str(each) for each in grid.tile_shape) for grid in (square, free)]
                place = f"{shape[0]} x {shape[1]}"
                table.rows.append(
                    (place, f"{memory:g}", precision, sizes[0], f"{square.halo_tax:.3f}", sizes[1],
                     f"{free.halo_tax:.3f}", f"{less:.1%}")
                )  # fmt: skip
                table.figures[f"{place}, {memory:g} GiB, {precision}"] = round(less, 4)
    table.notes.append(
        f"`{chosen.model}`, halo {plan.halo} px, OpenVINO's memory; (height x width) of tiles and micrographs."
    )
    return [table]
