"""The five earlier systems' headlines beside ours: runs the short trainings that are not there yet, and writes the table.

    python benchmarks/systems.py                    # run what is missing, print the table
    python benchmarks/systems.py ccd_v0 --seeds 0 1 2
    python benchmarks/systems.py --only-table --write

mudrock, coating and superalloy are taken from the runs of benchmarks/training.py.
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
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "systems"
TRAINED = ROOT / "runs" / "training"
PAGE = ROOT / "docs" / "results" / "systems.md"

CCD = ["background", "glowing", "hot pixel", "cluster"]
# Labels and drawn classes are a matter of single pixels and of their values: no magnification, no change of brightness.
PIXELS: dict[str, Any] = {
    "epochs": 10,
    "steps_per_epoch": 40,
    "batch": 8,
    "crop": 128,
    "precision": "fp32",
    "model": {"name": "unet", "width": 16, "depth": 2},
    "optimizer": {"learning_rate": 3.0e-3},
    "loss": {"cross_entropy": 1, "dice": 1},
    "sampling": {"kind": "class_area"},
    "augment": {"brightness": 0, "contrast": 0},
}
SCENES: dict[str, Any] = {
    "epochs": 8,
    "steps_per_epoch": 40,
    "batch": 8,
    "crop": 256,
    "model": {"name": "resunet", "width": 16, "depth": 4},
    "optimizer": {"learning_rate": 2.0e-3, "betas": [0.9, 0.99], "warmup": 0.1},
    "loss": {"cross_entropy": 1, "dice": 0.5},
    "ema": 0.99,
    "clip": 5,
    "augment": {"rotate": 180, "scale": [0.8, 1.25], "gamma": [0.8, 1.25]},
}
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "ccd_v0": {
        "classes": CCD,
        "data": {"images": "../shared/data/ccd/v0/train/*.png", "splits": {"val": 0.1667, "test": 0.25}},
        "annotate": {"preset": "ccd_v0"},
        "tile": {"tile": 256, "overlap": 0},
        # As configs/ccd_v0.yaml: two validation images choose the epoch, the test images choose nothing.
        "train": {**PIXELS, "epochs": 12},
    },
    "ccd_v1": {
        "classes": CCD,
        "data": {"images": "../shared/data/ccd/v1/train/*.png", "splits": {"test": 0.1334}},
        "annotate": {"preset": "ccd_v1"},
        "tile": {"tile": 256, "overlap": 0},
        "train": PIXELS,
    },
    "ccd_v2": {
        "classes": CCD,
        "simulate": {"preset": "ccd_v2", "count": 222, "size": 256, "clusters": [2, 7], "seed": 7},
        # 180 train, 42 test; the detector's range around its pedestal, far from saturation.
        "data": {"splits": {"test": 0.18919}, "audit": "report"},
        "tile": {"tile": 256, "overlap": 0, "scaling": {"kind": "fixed", "low": 8700, "high": 9700}},
        "train": PIXELS,
    },
    "facets": {
        "classes": ["background", "transgranular", "intergranular"],
        "simulate": {"preset": "facets", "count": 16, "size": 640, "seed": 11, "imaging": {"streaks": 0.2}},
        "data": {"splits": {"val": 0.2, "test": 0.2}},
        "tile": {"tile": 640, "overlap": 0},
        "train": SCENES,
    },
}

CLASSIFIED = {
    "coarse_fine": (
        "no figure published; its test images are in its training set",
        "its pictures without leaks, grouped by base micrograph",
    ),
    "coarse_fine_hard": ("-", "generated: random grain size, contrast, blur and noise"),
}


def microseg(*arguments: str) -> None:
    print("microseg", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "microseg_ray.cli", *arguments], check=True, cwd=ROOT)


def config_of(name: str, seed: int) -> str:
    """The config of one run, as a file: what stands in EXPERIMENTS, with the folders of this seed."""
    home, own = f"runs/systems/{name}", f"runs/systems/{name}/seed{seed}"
    document = json.loads(json.dumps(EXPERIMENTS[name]))
    data = document["data"]
    if "simulate" in document:
        document["simulate"]["output"] = f"{home}/simulated"
        data |= {"images": f"{home}/simulated/images", "masks": f"{home}/simulated/masks"}
    else:
        document["annotate"]["output"] = data["masks"] = f"{home}/masks"
    # Another split for each seed.
    data["seed"] = seed
    document["tile"]["output"] = f"{own}/tiles"
    document["train"] |= {"tiles": f"{own}/tiles", "output": f"{own}/model", "workers": 0, "threads": 1, "seed": seed}
    document["evaluate"] = {"checkpoint": f"{own}/model/best", "split": "test", "output": f"{own}/evaluation"}
    path = RUNS / name / f"seed{seed}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2), encoding="utf-8")
    return str(path)


def classify(name: str, seed: int) -> None:
    folder = RUNS / name / f"seed{seed}"
    if (folder / "evaluation" / "test" / "metrics.json").exists():
        return
    config = f"configs/{name}.yaml"
    if name == "coarse_fine_hard" and not (ROOT / "runs" / name / "archive" / "truth.csv").exists():
        microseg("simulate", config)
    microseg(
        "classifier",
        config,
        "--output",
        f"runs/systems/{name}/seed{seed}",
        "--fit_seed",
        str(45 + seed),
        "--threads",
        "1",
    )


def run(name: str, seed: int) -> None:
    if name in CLASSIFIED:
        classify(name, seed)
        return
    folder = RUNS / name / f"seed{seed}"
    if (folder / "evaluation" / "metrics.json").exists():
        return
    config, experiment = config_of(name, seed), EXPERIMENTS[name]
    if "simulate" in experiment and not (RUNS / name / "simulated" / "truth.csv").exists():
        microseg("simulate", config)
    if "annotate" in experiment and not (RUNS / name / "masks" / "report.json").exists():
        microseg("annotate", config)
    if not (folder / "tiles" / "tiles.parquet").exists():
        microseg("tile", config, "--workers", "0")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    microseg("train", config)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60
    (folder / "cost.json").write_text(json.dumps({"cpu_minutes": minutes}), encoding="utf-8")
    microseg("evaluate", config, "--threads", "1")


def pooled(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))["pooled"]


def seeds_of(folder: Path) -> list[Path]:
    return sorted(path.parent.parent for path in folder.glob("seed*/evaluation/metrics.json"))


def spread(values: list[float]) -> str:
    """Mean and standard deviation over seeds; the value alone where there is one."""
    mean = statistics.mean(values)
    return f"{mean:.4f}" if len(values) == 1 else f"{mean:.4f} ± {statistics.stdev(values):.4f} ({len(values)} seeds)"


def of_seeds(folders: list[Path], figure: Any) -> str:
    return (
        spread([figure(pooled(folder / "evaluation" / "metrics.json")) for folder in folders]) if folders else "not run"
    )


def macro_f1(figures: dict[str, Any]) -> float:
    return statistics.mean(item["f1"] for item in figures["classes"].values())


def binary_accuracy(path: Path, name: str) -> tuple[float, float, float]:
    """Pixel accuracy, IoU and the majority figure of one class against all others, from a multi-class confusion matrix."""
    document = json.loads(path.read_text(encoding="utf-8"))["pooled"]["classes"]
    total = sum(item["support"] for item in document.values())
    own = document[name]
    hits = own["recall"] * own["support"]
    predicted = hits / own["precision"] if own["precision"] else 0.0
    wrong = (predicted - hits) + (own["support"] - hits)
    return 1 - wrong / total, own["iou"], 1 - own["support"] / total


def ccd_rows() -> list[str]:
    rows = []
    headline = {
        "ccd_v0": ("macro F1 .74, cluster F1 .00 (README of the first version, 1 image)", "7 train, 2 validation, 3 test of the same 12 images, labels by its thresholds"),
        "ccd_v1": ("accuracy .9967, macro F1 .83, cluster F1 .35 (README v1.0, its own 8 test images)", "52 train, 8 test of its 60 training images, labels by its thresholds"),
        "ccd_v2": ("accuracy .9921, macro F1 .88, cluster F1 .52 (README v2)", "proxy: 180 + 42 images of our simulator (pedestal 8800, noise 60/√10, 2 to 7 clusters), judged on what was drawn, not on thresholds"),
    }  # fmt: skip
    for name, (original, conditions) in headline.items():
        folders = seeds_of(RUNS / name)
        accuracy = of_seeds(folders, lambda figures: figures["pixel_accuracy"])
        macro = of_seeds(folders, macro_f1)
        cluster = of_seeds(folders, lambda figures: figures["classes"]["cluster"]["f1"])
        ours = f"accuracy {accuracy}; macro F1 {macro}; cluster F1 {cluster}"
        stores = [folder / "tiles" for folder in folders if (folder / "tiles" / "tiles.parquet").exists()]
        if stores and name != "ccd_v2":
            plain = [lookup(store) for store in stores]
            beside = "; ".join(
                f"{key} {spread([one[key] for one in plain])}" for key in ("accuracy", "macro F1", "cluster F1")
            )
            ours += f". A look-up of colours, learned from the training images: {beside}"
        if name == "ccd_v2":
            ours += f"; {ceiling():.1%} of the drawn cluster pixels are weaker than twice the noise"
        rows.append(f"| {name.replace('_', ' ')} | {original} | {ours} | {conditions} |")
    return rows


def lookup(store: Path) -> dict[str, float]:
    """Scores on the test tiles of a table: the sum of red, green and blue, and the class that it has most often in training.

    A sum that no training image has takes the class of the nearest one that some has.
    """
    import pyarrow.parquet as pq
    import zarr
    from sklearn.metrics import f1_score

    splits = np.array(pq.read_table(store / "tiles.parquet", columns=["split"])["split"].to_pylist())
    group = zarr.open_group(store / "tiles.zarr", mode="r")
    sums, masks = np.asarray(group["images"][:]).astype(np.int64).sum(axis=1), np.asarray(group["masks"][:])
    labelled = masks != 255
    learnt, judged = (labelled & (splits == split)[:, None, None] for split in ("train", "test"))
    votes = np.zeros((3 * 255 + 1, len(CCD)), np.int64)
    np.add.at(votes, (sums[learnt], masks[learnt]), 1)
    seen = np.flatnonzero(votes.sum(axis=1))
    nearest = seen[np.abs(np.arange(len(votes))[:, None] - seen).argmin(axis=1)]
    predicted, truth = votes.argmax(axis=1)[nearest][sums[judged]], masks[judged]
    scores = f1_score(truth, predicted, average=None, labels=range(len(CCD)))
    return {
        "accuracy": float((predicted == truth).mean()),
        "macro F1": float(scores.mean()),
        "cluster F1": float(scores[CCD.index("cluster")]),
    }


def ceiling(count: int = 42) -> float:
    """Share of the drawn cluster pixels whose charge is below two standard deviations of the noise."""
    from dataclasses import replace

    from microseg_ray.simulation import ccd

    version = ccd.VERSIONS["ccd_v2"]
    quiet = replace(version, noise=0.0)
    weak = total = 0
    try:
        ccd.VERSIONS["ccd_v2"] = quiet
        for seed in range(count):
            for _, image, mask in ccd.ccd_bands((256, 256), seed, "ccd_v2", clusters=(2, 7)):
                signal = image[mask == ccd.CLUSTER].astype(float) - version.pedestal
                weak += int((signal < 2 * version.noise).sum())
                total += signal.size
    finally:
        ccd.VERSIONS["ccd_v2"] = version
    return weak / total


def other_rows() -> list[str]:
    rows = []
    folders = seeds_of(TRAINED / "mudrock")
    if folders:
        ious = "; ".join(
            f"{name} IoU {of_seeds(folders, lambda figures, name=name: figures['classes'][name]['iou'])}"
            for name in ("silt", "pore")
        )
        images = [
            json.loads((folder / "evaluation" / "metrics.json").read_text(encoding="utf-8"))["per_image"]
            for folder in folders
        ]
        means = ", ".join(
            f"{name} {spread([image['classes'][name]['iou'] for image in images])}" for name in ("silt", "pore")
        )
        beside = (
            pooled(TRAINED / "mudrock" / "seed_pred" / "metrics.json")
            if (TRAINED / "mudrock" / "seed_pred").exists()
            else None
        )
        their = (
            ""
            if beside is None
            else f"; its predictions of the same 25 files: accuracy {beside['pixel_accuracy']:.4f}, silt {beside['classes']['silt']['iou']:.4f}, pore {beside['classes']['pore']['iou']:.4f}"
        )
        accuracy = of_seeds(folders, lambda figures: figures["pixel_accuracy"])
        rows.append(
            f"| mudrock, pooled | later model on sample 15, perhaps training images of it{their} | "
            f"accuracy {accuracy}; {ious} | sample 15, 25 files, none of its flips trained on |"
        )
        rows.append(
            f"| mudrock, mean of images | silt .5732, pore .6229 (first README); .6591, .6642 (last) | {means} | as above; other test images than theirs |"
        )
    for name, label, which in (
        ("coating", "crack", "dislocations 91.60 %"),
        ("superalloy", "tertiary", "precipitates 93.39 %, voids 98.85 %"),
    ):
        folders = seeds_of(TRAINED / name)
        if not folders:
            continue
        figures = [binary_accuracy(folder / "evaluation" / "metrics.json", label) for folder in folders]
        accuracy, iou, majority = (spread([figure[place] for figure in figures]) for place in range(3))
        rows.append(
            f"| defects: {label} | pixel accuracy of {which} (paper) | accuracy {accuracy}; IoU {iou}; calling every pixel background: {majority} | "
            f"proxy: {label} of {name} against the rest; its images are not to be had |"
        )
    folders = seeds_of(RUNS / "facets")
    accuracy = of_seeds(folders, lambda figures: figures["pixel_accuracy"])
    mean = of_seeds(folders, lambda figures: figures["mean_iou"])
    rows.append(
        f"| fractography | validation accuracy 71.3 % (README) | accuracy {accuracy}; mean IoU {mean} | proxy: simulated facets, test micrographs; its labels are not to be had |"
    )
    for name, (original, pictures) in CLASSIFIED.items():
        found = sorted((RUNS / name).glob("seed*/evaluation/test/metrics.json"))
        results = [json.loads(path.read_text(encoding="utf-8")) for path in found]
        ours, conditions = "not run", pictures
        if results:
            rule = spread([item["one_feature_rule"]["accuracy"] for item in results])
            ours = f"accuracy {spread([item['accuracy'] for item in results])}; one threshold on the mean gradient, fitted on train: {rule}"
            conditions = f"{pictures}, {results[0]['micrographs']} test images"
        rows.append(f"| {name.replace('_', ' ')} | {original} | {ours} | {conditions} |")
    return rows


def costs() -> str:
    lines = []
    for name in EXPERIMENTS:
        paths = sorted((RUNS / name).glob("seed*/cost.json"))
        if paths:
            minutes = [json.loads(path.read_text(encoding="utf-8"))["cpu_minutes"] for path in paths]
            lines.append(f"{name} {', '.join(f'{value:.1f}' for value in minutes)}")
    return "CPU minutes of the trainings: " + "; ".join(lines) + ". The others are in training.md."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", default=[], help=f"of {', '.join([*EXPERIMENTS, *CLASSIFIED])}; default: all"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only-table", action="store_true")
    parser.add_argument("--write", action="store_true", help="write the table into docs/results/systems.md")
    arguments = parser.parse_args()
    np.seterr(all="raise")
    if not arguments.only_table:
        for seed in arguments.seeds:
            for name in arguments.names or [*EXPERIMENTS, *CLASSIFIED]:
                run(name, seed)
    head = ["| system | its headline | ours | conditions |", "|---|---|---|---|"]
    text = "\n".join([*head, *ccd_rows(), *other_rows(), "", costs()])
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n\n{text}")
    if arguments.write:
        start, end = "<!-- table -->", "<!-- end of table -->"
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(f"{page.split(start)[0]}{start}\n\n{text}\n\n{end}{page.split(end)[1]}", encoding="utf-8")


if __name__ == "__main__":
    main()
