"""A random forest on local features, what users of Weka and ilastik have, on the divisions of `benchmarks.pretrained`.

Features: intensity, gradient and eigenvalues of the Hessian after Gaussians of 1 to 16 px
(`skimage.feature.multiscale_basic_features`), as in Trainable Weka Segmentation (Arganda-Carreras et al., Bioinformatics 33,
2017) and ilastik (Berg et al., Nature Methods 16, 2019). Forest: 100 trees on pixels drawn at random from all training
micrographs, so far more than anybody labels by hand.

    python -m benchmarks forest ten loso15
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from skimage.feature import multiscale_basic_features
from sklearn.ensemble import RandomForestClassifier

from benchmarks.pretrained import ROOT, RUNS, microseg, write_table
from benchmarks.training import figures, majority

if TYPE_CHECKING:
    from numpy.typing import NDArray

TREES, PIXELS, SIGMAS = 100, 100_000, (1.0, 16.0)
NAMES = ("clay", "silt", "pore")


def features(path: str) -> NDArray[np.float32]:
    """Float32 (y, x, feature) of a gray micrograph."""
    low, high = SIGMAS
    image = np.asarray(Image.open(path).convert("L"), np.float32) / 255
    found: NDArray[np.float32] = multiscale_basic_features(image, sigma_min=low, sigma_max=high, workers=1)
    return found


def fit(rows: list[dict[str, str]], seed: int) -> RandomForestClassifier:
    """A forest that has learnt from `PIXELS` pixels of the micrographs of split train, each drawn with the same odds."""
    generator = np.random.default_rng(seed)
    masks = [np.asarray(Image.open(row["mask"])) for row in rows]
    labelled = np.array([np.count_nonzero(mask != 255) for mask in masks], np.float64)
    shares = np.maximum(1, np.round(PIXELS * labelled / labelled.sum())).astype(int)
    seen, labels = [], []
    for row, mask, share in zip(rows, masks, shares, strict=True):
        places = generator.choice(np.flatnonzero(mask != 255), share, replace=False)
        seen.append(features(row["micrograph"]).reshape(mask.size, -1)[places])
        labels.append(mask.ravel()[places])
    forest = RandomForestClassifier(TREES, min_samples_leaf=5, random_state=seed, n_jobs=1)
    return forest.fit(np.concatenate(seen), np.concatenate(labels))


def run(division: str, seed: int) -> Path:
    """Learn, predict the test micrographs, judge them by `microseg evaluate`; the folder of the evaluation."""
    folder = RUNS / division / f"forest{seed}"
    if (folder / "evaluation" / "metrics.json").exists():
        return folder
    with write_table(division).open(encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    began = time.process_time()
    forest = fit([row for row in rows if row["split"] == "train"], seed)
    for part in ("labels", "predictions"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for row in (row for row in rows if row["split"] == "test"):
        name, seen = Path(row["mask"]).name, features(row["micrograph"])
        found = forest.predict(seen.reshape(-1, seen.shape[-1])).reshape(seen.shape[:2])
        Image.fromarray(found.astype(np.uint8)).save(folder / "predictions" / name)
        (folder / "labels" / name).write_bytes(Path(row["mask"]).read_bytes())
    cost = {"cpu_minutes": (time.process_time() - began) / 60}
    (folder / "cost.json").write_text(json.dumps(cost), encoding="utf-8")
    relative = folder.relative_to(ROOT)
    classes = json.dumps([{"name": name} for name in NAMES])
    microseg("evaluate", "--masks", f"{relative}/labels", "--predictions", f"{relative}/predictions",
             "--output", f"{relative}/evaluation", "--classes", classes, "--figures", "false")  # fmt: skip
    return folder


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("divisions", nargs="+", help="ten, loso11, loso13, loso15")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    lines = ["| division | model | CPU min | pixel accuracy | mean IoU | clay | silt | pore |", "|" + "---|" * 8]
    for division in arguments.divisions:
        folder = run(division, arguments.seed)
        path = folder / "evaluation" / "metrics.json"
        minutes = json.loads((folder / "cost.json").read_text(encoding="utf-8"))["cpu_minutes"]
        for model, cost, row in (
            ("random forest", f"{minutes:.1f}", figures(path)),
            ("majority class", "", majority(path)),
        ):
            values = " | ".join(f"{value:.4f}" for key, value in row.items() if key != "micro-IoU")
            lines.append(f"| {division} | {model} | {cost} | {values} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
