"""A roofline: what this machine allows a network at most, and what the runtime reaches.

The machine: multiplications and additions per second of a large float32 matrix product, and bytes per second of a large copy,
one thread each. The network: both counted for a pixel of the image, with its norms folded, elementwise steps and
concatenations taken as fused, and every other result written once and read once by each reader. The roof is the slower of the
two. S. Williams, A. Waterman, D. Patterson, Commun. ACM 52 (2009) 65, doi:10.1145/1498765.1498785.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Table, in_turns, measured, run_named
from benchmarks.material import make_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from microseg_ray.models.strips.trace import Node

MACHINE = "machine"
FORWARD = "openvino fp32"
SIDE = 3072
MIB = 256


def way(arguments: dict[str, Any]) -> None:
    """The machine's two limits, or the forward pass of one network."""
    if arguments["method"] == "forward":
        from benchmarks import forward

        forward.way(arguments)
        return
    import torch

    torch.set_num_threads(1)
    left, right = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    source = torch.rand(MIB << 18)
    target = torch.empty_like(source)

    def work() -> dict[str, Any]:
        return {
            "flops": 2 * SIDE**3 / quickest(lambda: left @ right),
            # Read once, written once.
            "bytes": 2 * source.nbytes / quickest(lambda: target.copy_(source)),
        }

    measured(work)


def quickest(step: Callable[[], Any], times: int = 5) -> float:
    """CPU seconds of the quickest of several repetitions, after one that is not counted."""
    step()
    found = []
    for _ in range(times):
        began = time.process_time()
        step()
        found.append(time.process_time() - began)
    return min(found)


def needs(nodes: Sequence[Node], itemsize: int = 4) -> tuple[float, float]:
    """Operations and bytes for one pixel of the image, at least.

    Args:
        nodes: As `traced` gives them.
        itemsize: Bytes of a number.
    """
    from microseg_ray.models.strips.rows import Same

    flops = moved = 0.0
    for node in nodes:
        flops += 2 * node.row_work * float(node.width)
        if node.operation is None or not isinstance(node.operation.rows, Same):
            used = [node, *(nodes[each] for each in node.inputs)]
            moved += sum(itemsize * each.row_numbers * float(each.width) for each in used)
    return flops, moved


def counted(model: str) -> tuple[float, float]:
    """`needs` of an architecture with its options at their defaults, one channel and four classes."""
    from microseg_ray.models import build_model
    from microseg_ray.models.folding import fold_norms
    from microseg_ray.models.strips.trace import traced

    network = fold_norms(build_model(model, 1, 4, {}).eval().requires_grad_(requires_grad=False))
    return needs(traced(network, 1, 32))


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks roofline`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks roofline", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--megapixels", type=float, default=4)
    parser.add_argument("--models", nargs="+", default=["resunet", "unet", "efficientnet_unet"])
    chosen = parser.parse_args(arguments)
    columns = ("model", "kFLOP a pixel", "bytes a pixel", "FLOP a byte", "bound by", "roof", "reached", "share of it")
    table = Table("roofline", " ".join(["python -m benchmarks roofline", *arguments]), columns)
    with tempfile.TemporaryDirectory() as name:
        ways: dict[str, dict[str, Any]] = {MACHINE: {"method": MACHINE}}
        for model in chosen.models:
            checkpoint = str(make_checkpoint(Path(name) / model / "checkpoint", model))
            ways[model] = {
                "method": "forward", "checkpoint": checkpoint, "tile": chosen.tile, "megapixels": chosen.megapixels,
                "runtime": "openvino", "precision": "fp32",
            }  # fmt: skip
        found = in_turns("benchmarks.roofline", ways, chosen.rounds)
    flops = max(used.result["flops"] for used in found[MACHINE])
    speed = max(used.result["bytes"] for used in found[MACHINE])
    for model in chosen.models:
        work, moved = counted(model)
        roof = min(flops / work, speed / moved) / 1e6
        reached = statistics.median(used.result["pixels"] / 1e6 / used.cpu for used in found[model])
        bound = "arithmetic" if flops / work < speed / moved else "memory"
        numbers = f"{work / 1e3:.0f}", f"{moved:.0f}", f"{work / moved:.0f}"
        table.rows.append((model, *numbers, bound, f"{roof:.2f}", f"{reached:.2f}", f"{reached / roof:.2f}"))
        table.figures[f"{model} / roof"] = round(reached / roof, 3)
    table.notes.append(
        f"One thread, float32: {flops / 1e9:.0f} GFLOP/s in a matrix product of {SIDE} x {SIDE}, {speed / 1e9:.1f} GB/s in a "
        f"copy of {MIB} MiB; best of {chosen.rounds} rounds. Roof and reached in MPix per CPU second; {FORWARD}, tiles of "
        f"{chosen.tile} px."
    )
    return [table]


if __name__ == "__main__":
    run_named(way)
