"""Shale with and without pre-trained weights: ten held-out micrographs, and each large sample left out in turn.

`configs/mudrock_pretrained.yaml` is the recipe; a table of micrographs and splits is made for each division. What is there is
not run again. A training is judged on its test micrographs once, at its end.

    python -m benchmarks.pretrained ten loso11 loso13 loso15     # train and judge the recipe
    python -m benchmarks.pretrained near --name unet --config configs/mudrock_unet.yaml  # the ten, chosen on neighbours and 14
    python -m benchmarks.pretrained loso11 --name resunet --config configs/mudrock_whole.yaml -- --epochs 4
    python -m benchmarks.pretrained loso15 --name trial --no-test -- --optimizer.encoder_rate 0.1
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.training import figures, majority

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data" / "mudrock"
RUNS = ROOT / "runs" / "pretrained"
CONFIG = "configs/mudrock_pretrained.yaml"
TEN = ("10_1", "11_16", "11_18", "11_20", "12_1", "13_12", "13_21", "13_3", "13_9", "15_1")
LARGE = ("11", "13", "15")
# Samples of one micrograph each: three choose the epoch, so that what is chosen suits a sample that was never seen.
JUDGES = ("14_1", "16_1", "18_1")
NEIGHBOURS = ("11_3", "13_6", "15_13")
TILES = {"ten": ("320", "64"), "near": ("352", "64")}
"""Side and overlap for divisions of single micrographs of 400 x 343 px."""


def microseg(*arguments: str) -> None:
    print("microseg", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "microseg_ray.cli", *arguments], check=True, cwd=ROOT)


def _single(name: str, split: str) -> tuple[str, str, str, str]:
    return f"images/{name}_a.png", f"labels/{name}_a.png", name.split("_", maxsplit=1)[0], split


def rows(division: str) -> list[tuple[str, str, str, str]]:
    """Micrograph, mask, group and split of one division."""
    names = sorted({re.sub("_[abc].png", "", path.name) for path in (DATA / "images").glob("*.png")})
    if division in TILES:
        # A group of its own for each, because neighbours of the test micrographs train, as they did for the earlier system.
        judges = NEIGHBOURS + (JUDGES if division == "ten" else JUDGES[:1])
        splits = {name: "test" if name in TEN else "val" if name in judges else "train" for name in names}
        return [(*_single(name, split)[:2], name, split) for name, split in splits.items()]
    left_out = division.removeprefix("loso")
    found = [
        (f"mosaics/{sample}_images.png", f"mosaics/{sample}_labels.png", sample, "train")
        for sample in LARGE
        if sample != left_out
    ]
    for name in names:
        sample = name.split("_")[0]
        if sample == left_out:
            found.append(_single(name, "test"))
        elif sample not in LARGE:
            found.append(_single(name, "val" if name in JUDGES else "train"))
    return found


def write_table(division: str) -> Path:
    path = RUNS / division / "table.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(("micrograph", "mask", "group", "split"))
        for image, mask, group, split in rows(division):
            writer.writerow((DATA / image, DATA / mask, group, split))
    return path


def run(division: str, name: str, config: str, extra: list[str], *, test: bool) -> None:
    folder, table = RUNS / division, write_table(division)
    relative = str(folder.relative_to(ROOT))
    if not (folder / "tiles" / "tiles.parquet").exists():
        side = ("--tile", TILES[division][0], "--overlap", TILES[division][1]) if division in TILES else ()
        microseg("tile", CONFIG, "--table", str(table), "--output", f"{relative}/tiles", "--workers", "0", *side)
    model = folder / name
    if not (model / "cost.json").exists():
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        microseg("train", config, "--tiles", f"{relative}/tiles", "--output", f"{relative}/{name}/model",
                 "--workers", "0", "--threads", "1", *extra)  # fmt: skip
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        cost = {"cpu_minutes": cpu / 60, "wall_minutes": (time.monotonic() - began) / 60, "load": os.getloadavg()[1]}
        (model / "cost.json").write_text(json.dumps(cost), encoding="utf-8")
        print(cost, flush=True)
    if test and not (model / "evaluation" / "metrics.json").exists():
        microseg("evaluate", CONFIG, "--table", str(table), "--checkpoint", f"{relative}/{name}/model/best",
                 "--output", f"{relative}/{name}/evaluation", "--threads", "1", "--precision", "fp32",
                 "--figures", "false", "--probabilities", "false")  # fmt: skip
    if test and division.startswith("loso") and not (model / "whole" / "metrics.json").exists():
        mosaic = str(DATA / "mosaics" / division.removeprefix("loso"))
        microseg("evaluate", "--checkpoint", f"{relative}/{name}/model/best", "--output", f"{relative}/{name}/whole",
                 "--images", f"{mosaic}_images.png", "--image_suffix", "_images", "--masks", f"{mosaic}_labels.png",
                 "--mask_suffix", "_labels", "--threads", "1", "--precision", "fp32", "--figures", "false",
                 "--probabilities", "false")  # fmt: skip


def table() -> str:
    lines = ["| division | model | CPU min | pixel accuracy | mean IoU | clay | silt | pore |", "|" + "---|" * 8]
    for path in sorted(RUNS.glob("*/*/*/metrics.json")):
        division, name, kind = path.parts[-4:-1]
        cost = json.loads((path.parents[1] / "cost.json").read_text(encoding="utf-8"))["cpu_minutes"]
        shown = {f"{name}{', whole' if kind == 'whole' else ''}": figures(path)}
        if name == "lite0" and kind == "evaluation":
            shown["majority class"] = majority(path)
        for model, row in shown.items():
            values = [value for key, value in row.items() if key != "micro-IoU"]
            minutes = "" if model == "majority class" else f"{cost:.1f}"
            lines.append(f"| {division} | {model} | {minutes} | " + " | ".join(f"{v:.4f}" for v in values) + " |")
    return "\n".join(lines)


def main() -> None:
    own, extra = sys.argv[1:], []
    if "--" in own:
        own, extra = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("divisions", nargs="*", help="ten, near, loso11, loso13, loso15; none: print the table")
    parser.add_argument("--name", default="lite0", help="folder of the training")
    parser.add_argument("--config", default=CONFIG, help="of the training")
    parser.add_argument("--no-test", action="store_true", help="train only, as in trials of settings")
    arguments = parser.parse_args(own)
    for division in arguments.divisions:
        run(division, arguments.name, arguments.config, extra, test=not arguments.no_test)
    print(table())


if __name__ == "__main__":
    main()
