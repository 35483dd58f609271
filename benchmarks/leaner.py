"""Accuracy against speed and receptive field: small models, equal short trainings on three data sets, judged on validation tiles.

The tile stores are those of the configs (`annotate`, `tile`); mudrock's is made with sample 13 as `val`. A training that was
done is not done again. Speed is the bare forward pass of one 1024 px tile in bf16, in torch and, where installed, in OpenVINO.

    python benchmarks/leaner.py                     # all; then print the table
    python benchmarks/leaner.py --only-table
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "leaner"
STORES = {
    "mudrock": "runs/mudrock/tiles_leaner",
    "superalloy": "runs/superalloy/tiles",
    "coating": "runs/coating/tiles",
}
MODELS: dict[str, dict[str, Any]] = {
    "resunet (the default)": {"name": "resunet"},
    "resunet, dilations 1 1": {"name": "resunet", "dilations": [1, 1]},
    "resunet, dilation 1": {"name": "resunet", "dilations": [1]},
    "resunet, depth 3": {"name": "resunet", "depth": 3},
    "resunet, width 16": {"name": "resunet", "width": 16},
    "unet, width 12, depth 3": {"name": "unet", "width": 12, "depth": 3},
}
STEPS, BATCH, CROP, SIDE = 60, 4, 192, 1024
OPTIMIZER = {"learning_rate": 2e-3, "weight_decay": 0.05, "betas": [0.9, 0.99], "warmup": 0.1, "end_rate": 1e-5}


def fitted(model: str, data: str, seed: int) -> float:
    """Validation mean IoU of one short training."""
    from microseg_ray.fitting.train import train
    from microseg_ray.settings import TrainSettings

    note = RUNS / f"{model}, {data}, seed {seed}.json".replace(" ", "_")
    if not note.exists():
        began = time.process_time()
        trained = train(
            TrainSettings(
                tiles=str(ROOT / STORES[data]), output=str(note.with_suffix("")), epochs=1, steps_per_epoch=STEPS, batch=BATCH,
                crop=CROP, model=MODELS[model], optimizer=OPTIMIZER, loss={"cross_entropy": 1, "dice": 0.5},
                sampling={"kind": "class_area"}, clip=5, workers=0, threads=1, seed=seed, overwrite=True,
            )
        )  # fmt: skip
        row = trained.history[-1]
        found = {"val_mean_iou": float(row["val_mean_iou"]), "cpu": time.process_time() - began}
        note.write_text(json.dumps(found), encoding="utf-8")
        print(model, data, seed, found, flush=True)
    return float(json.loads(note.read_text(encoding="utf-8"))["val_mean_iou"])


def speed(model: str) -> dict[str, float]:
    """Radius, parameters and megapixels per CPU second of the bare forward pass."""
    import torch

    from microseg_ray.models import build_model
    from microseg_ray.models.receptive_field import measure_receptive_field
    from microseg_ray.models.runtimes.choose import load_runtime, runtime_name

    options = {key: value for key, value in MODELS[model].items() if key != "name"}
    torch.set_num_threads(1)
    network = build_model(MODELS[model]["name"], 1, 3, options).eval()
    found = {
        "radius": float(measure_receptive_field(network, 1).radius),
        "parameters": float(sum(value.numel() for value in network.parameters())),
    }
    tile = torch.rand(1, 1, SIDE, SIDE)
    for name in ("torch", runtime_name("auto", "cpu")):
        compiled = load_runtime(name, "bf16", threads=1).compile(network, [tile])
        seconds = []
        for _ in range(4):
            began = time.process_time()
            compiled(tile)
            seconds.append(time.process_time() - began)
        found[name] = SIDE**2 / 1e6 / min(seconds)
    return found


def table(models: list[str], seeds: int) -> str:
    """The curve, by speed."""
    rows = []
    for model in models:
        found = speed(model)
        scores = {data: [fitted(model, data, seed) for seed in range(seeds)] for data in STORES}
        means = {data: statistics.mean(values) for data, values in scores.items()}
        cells = [f"{means[data]:.3f}" for data in STORES]
        quick = found.get("openvino", found["torch"])
        mean = statistics.mean(means.values())
        columns = [
            *(model, f"{found['radius']:.0f}", f"{found['parameters'] / 1e6:.2f}", f"{found['torch']:.2f}"),
            *(f"{quick:.2f}", *cells, f"{mean:.3f}"),
        ]
        rows.append((quick, f"| {' | '.join(columns)} |"))
    head = f"| model | radius, px | parameters, M | torch, MPix a CPU s | OpenVINO, MPix a CPU s | {' | '.join(STORES)} | mean |"
    return "\n".join([head, "|---|" + "---|" * (len(STORES) + 5), *(line for _, line in sorted(rows))])


def main() -> None:
    """Train what is not trained yet and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--only", default="", help="models whose name holds this")
    arguments = parser.parse_args()
    RUNS.mkdir(parents=True, exist_ok=True)
    models = [name for name in MODELS if arguments.only in name]
    if not arguments.only_table:
        for seed in range(arguments.seeds):
            for model in models:
                for data in STORES:
                    fitted(model, data, seed)
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, one thread\n")
    print(table(models, arguments.seeds))


if __name__ == "__main__":
    main()
