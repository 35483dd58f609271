"""Trains and judges the three data sets of the training issue with three seeds each, by the commands of the README.

Each run is `annotate`, `tile`, `train`, `evaluate` with the config of its name; what is there is not run again, so a
killed benchmark resumes. At the end the table of docs/results/training.md is printed and, with --write, written.

    python benchmarks/training.py                      # all
    python benchmarks/training.py coating --seeds 0    # one
    python benchmarks/training.py --only-table --write
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
RUNS = ROOT / "runs" / "training"
PAGE = ROOT / "docs" / "results" / "training.md"


@dataclass(frozen=True)
class Task:
    """One data set: its config, what is judged, and what stands beside it."""

    config: str
    annotate: bool
    judged: tuple[str, ...]  # further arguments of `evaluate`
    beside: tuple[tuple[str, str], ...]  # (what, figures)
    whole: tuple[str, ...] = ()  # `evaluate` once more without the config: the same pixels as one large micrograph


TASKS = {
    "mudrock": Task(
        "mudrock_whole",
        annotate=False,
        judged=("--split", "test"),
        beside=(("seed_pred on the same 25 files", "seed_pred"), ("majority class", "majority")),
        whole=("--images", "../shared/data/mudrock/mosaics/15_images.png", "--image_suffix", "_images",
               "--masks", "../shared/data/mudrock/mosaics/15_labels.png", "--mask_suffix", "_labels"),
    ),
    "superalloy": Task(
        "superalloy",
        annotate=True,
        judged=("--split", "test"),
        beside=(("U-Net++, ResNet-50, MicroNet weights, published", "micro-IoU .942"), ("majority class", "majority")),
    ),
    "coating": Task(
        "coating", annotate=True, judged=("--split", "test"), beside=(("majority class", "majority"),)
    ),
}  # fmt: skip


def microseg(*arguments: str) -> None:
    """A command line of the engine, as the README has it."""
    print("microseg", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "microseg_ray.cli", *arguments], check=True, cwd=ROOT)


def prepare(name: str) -> None:
    task = TASKS[name]
    config = f"configs/{task.config}.yaml"
    if task.annotate and not (ROOT / "runs" / task.config / "masks" / "report.json").exists():
        microseg("annotate", config)
    if not (ROOT / "runs" / task.config / "tiles" / "tiles.parquet").exists():
        microseg("tile", config, "--workers", "0")


def run(name: str, seed: int) -> None:
    """Train and judge once; nothing where both were done before."""
    task, folder = TASKS[name], RUNS / name / f"seed{seed}"
    config, relative = f"configs/{task.config}.yaml", f"runs/training/{name}/seed{seed}"
    if not (folder / "cost.json").exists():
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        microseg(
            "train", config, "--output", f"{relative}/model", "--seed", str(seed), "--workers", "0", "--threads", "1"
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        # A run that was killed and gone on with has its cost in parts.
        cost = {"cpu_minutes": cpu / 60, "wall_minutes": (time.monotonic() - began) / 60, "load": os.getloadavg()[1]}
        (folder / "cost.json").write_text(json.dumps(cost), encoding="utf-8")
    if not (folder / "evaluation" / "metrics.json").exists():
        microseg("evaluate", config, "--checkpoint", f"{relative}/model/best", "--output", f"{relative}/evaluation",
                 "--threads", "1", "--precision", "fp32", *task.judged)  # fmt: skip
    if task.whole and not (folder / "whole" / "metrics.json").exists():
        microseg("evaluate", "--checkpoint", f"{relative}/model/best", "--output", f"{relative}/whole",
                 "--threads", "1", "--precision", "fp32", *task.whole)  # fmt: skip


def figures(path: Path) -> dict[str, float]:
    """Pixel accuracy, micro-IoU and IoU per class of a metrics.json."""
    pooled = json.loads(path.read_text(encoding="utf-8"))["pooled"]
    accuracy = pooled["pixel_accuracy"]
    ious = {f"IoU {name}": values["iou"] for name, values in pooled["classes"].items()}
    return {"pixel accuracy": accuracy, "micro-IoU": accuracy / (2 - accuracy), "mean IoU": pooled["mean_iou"], **ious}


def majority(path: Path) -> dict[str, float]:
    """What calling every pixel the most frequent class gives."""
    classes = json.loads(path.read_text(encoding="utf-8"))["pooled"]["classes"]
    support = {name: values["support"] for name, values in classes.items()}
    total, most = sum(support.values()), max(support, key=lambda name: support[name])
    accuracy = support[most] / total
    ious = {f"IoU {name}": accuracy if name == most else 0.0 for name in support}
    return {
        "pixel accuracy": accuracy,
        "micro-IoU": accuracy / (2 - accuracy),
        "mean IoU": accuracy / len(support),
        **ious,
    }


def seed_pred(name: str) -> dict[str, float]:
    folder = RUNS / name / "seed_pred"
    if not (folder / "metrics.json").exists():
        microseg("evaluate", "--predictions", "../shared/data/mudrock/seed_pred/15_*_a.png",
                 "--masks", "../shared/data/mudrock/labels/15_*_a.png", "--classes", '["clay", "silt", "pore"]',
                 "--output", f"runs/training/{name}/seed_pred")  # fmt: skip
    return figures(folder / "metrics.json")


def _spread(values: list[float]) -> str:
    """Mean and, of several, standard deviation."""
    return f"**{statistics.mean(values):.4f}**" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def table(name: str) -> str:
    task = TASKS[name]
    folders = sorted(path.parent for path in (RUNS / name).glob("seed*/evaluation"))
    folders = [folder for folder in folders if (folder / "evaluation" / "metrics.json").exists()]
    if not folders:
        return f"## {name}\n\nnot run\n"
    rows = [figures(folder / "evaluation" / "metrics.json") for folder in folders]
    costs = [json.loads((folder / "cost.json").read_text(encoding="utf-8")) for folder in folders]
    columns = list(rows[0])
    lines = [f"## {name}", "", f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for folder, row in zip(folders, rows, strict=True):
        lines.append(f"| {folder.name} | {' | '.join(f'{row[column]:.4f}' for column in columns)} |")
    if len(rows) > 1:
        shown = [_spread([row[column] for row in rows]) for column in columns]
        lines.append(f"| mean ± standard deviation | {' | '.join(shown)} |")
    wholes = [
        figures(folder / "whole" / "metrics.json") for folder in folders if (folder / "whole" / "metrics.json").exists()
    ]
    if wholes:
        shown = [_spread([row[column] for row in wholes]) for column in columns]
        lines.append(f"| the same pixels predicted as one micrograph of 2000 x 1715 px | {' | '.join(shown)} |")
    for what, source in task.beside:
        if source == "majority":
            beside = majority(folders[0] / "evaluation" / "metrics.json")
        elif source == "seed_pred":
            beside = seed_pred(name)
        else:
            value = float(source.split()[-1])
            lines.append(
                f"| {what} | {' | '.join(f'{value:.3f}' if column == 'micro-IoU' else '-' for column in columns)} |"
            )
            continue
        lines.append(f"| {what} | {' | '.join(f'{beside[column]:.4f}' for column in columns)} |")
    cpu = ", ".join(f"{cost['cpu_minutes']:.1f}" for cost in costs)
    wall = ", ".join(f"{cost['wall_minutes']:.0f}" for cost in costs)
    lines += ["", f"CPU minutes of each training: {cpu}; wall minutes beside other work: {wall}.", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[], help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/results/training.md")
    arguments = parser.parse_args()
    names = arguments.names or list(TASKS)
    if not arguments.only_table:
        if not DATA.is_dir():
            sys.exit(f"the real micrographs are not here ({DATA})")
        for name in names:
            prepare(name)
        # Seed by seed, so that an interrupted benchmark has something of every data set.
        for seed in arguments.seeds:
            for name in names:
                run(name, seed)
    text = "\n".join(table(name) for name in (list(TASKS) if arguments.write else names))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n\n{text}")
    if arguments.write:
        start, end = "<!-- tables -->", "<!-- end of tables -->"
        page = PAGE.read_text(encoding="utf-8")
        head, tail = page.split(start)[0], page.split(end)[1]
        PAGE.write_text(f"{head}{start}\n\n{text}\n{end}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
