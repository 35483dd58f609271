"""The bare forward pass: tiles that lie in memory through each runtime, a thread each; no halo, nothing stitched or written."""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import Table, in_turns, measured, ratios, run_named
from benchmarks.material import make_checkpoint, make_micrograph

BASE = "torch bf16"


def way(arguments: dict[str, Any]) -> None:
    """Warm up with one tile, then predict them all."""
    import numpy as np

    from microseg_ray.models.predictor import load_predictor

    side, megapixels = arguments["tile"], arguments["megapixels"]
    count = max(1, round(megapixels * 1e6 / side**2))
    tiles = np.stack([make_micrograph(side, side, seed) for seed in range(min(count, 4))])[:, None]
    if arguments["runtime"] == "onnx":
        predict = onnx_session(arguments["checkpoint"], side)
    else:
        predictor = load_predictor(
            arguments["checkpoint"], precision=arguments["precision"], threads=1, runtime=arguments["runtime"]
        )
        predict = lambda tile: predictor.masks(tile, (0.0, 255.0))  # noqa: E731
    predict(tiles[:1])

    def work() -> dict[str, Any]:
        for number in range(count):
            predict(tiles[number % len(tiles)][None])
        return {"pixels": count * side**2}

    measured(work)


def onnx_session(checkpoint: str, side: int) -> Any:
    """The exported file in ONNX Runtime: what a user without this project would run."""
    import numpy as np
    import onnxruntime

    path = Path(checkpoint).parent / f"model_{side}.onnx"
    if not path.exists():
        from microseg_ray.cli import main

        code = main(["export", "--checkpoint", checkpoint, "--output", str(path), "--format", "onnx"])
        if code:
            raise SystemExit("export failed")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    kind = np.uint8 if "uint8" in session.get_inputs()[0].type else np.float32
    return lambda tile: session.run(None, {name: tile.astype(kind)})[0].argmax(1)


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks forward`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks forward", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tile", type=int, default=1024)
    parser.add_argument("--megapixels", type=float, default=8)
    parser.add_argument("--models", nargs="+", default=["resunet", "unet"])
    chosen = parser.parse_args(arguments)
    columns = ("model", "runtime", "MPix per CPU s", "MPix per s", f"against {BASE}", "peak MiB")
    table = Table("forward", " ".join(["python -m benchmarks forward", *arguments]), columns)
    with tempfile.TemporaryDirectory() as name:
        for model in chosen.models:
            checkpoint = str(make_checkpoint(Path(name) / model / "checkpoint", model))
            shared = {"checkpoint": checkpoint, "tile": chosen.tile, "megapixels": chosen.megapixels}
            ways = {
                f"{runtime} {precision}": {**shared, "runtime": runtime, "precision": precision}
                for runtime, precision in (
                    ("torch", "bf16"),
                    ("openvino", "bf16"),
                    ("torch", "fp32"),
                    ("openvino", "fp32"),
                    ("onnx", "fp32"),
                )
            }
            found = in_turns("benchmarks.forward", ways, chosen.rounds)
            against = ratios(found, BASE)
            for label, used in found.items():
                if not used:
                    table.rows.append((model, label, "could not run", "", "", ""))
                    continue
                cpu, wall, peak = (
                    statistics.median(u.result["pixels"] / 1e6 / u.cpu for u in used),
                    statistics.median(u.result["pixels"] / 1e6 / u.wall for u in used),
                    max(u.peak for u in used),
                )
                table.rows.append((model, label, f"{cpu:.2f}", f"{wall:.2f}", f"{against[label]:.2f}", f"{peak:.0f}"))
                table.figures[f"{model}: {label} / {BASE}"] = round(against[label], 3)
    table.notes.append(
        f"One thread, tiles of {chosen.tile} px, {chosen.megapixels:g} MPix a round after a warm-up; medians of "
        f"{chosen.rounds} rounds, ratios of CPU seconds within a round."
    )
    return [table]


if __name__ == "__main__":
    run_named(way)
