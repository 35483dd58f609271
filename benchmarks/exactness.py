"""Argmax flips of stitched against whole-image prediction, by depth of the U-Net and halo.

`python benchmarks/exactness.py [IMAGE] [CHECKPOINT]`: prints a table. Without a checkpoint the U-Nets are untrained, with random
weights and random running statistics: their outputs depend on everything in reach, and classes lie close together.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from microseg_ray import Box, open_micrograph
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.models.predictor import Predictor
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.settings import ClassSpec
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window

IMAGE = Path(__file__).resolve().parents[2] / "shared/data/mudrock/mosaics/15_images.png"
HALOS = (0, 8, 16, 32, 64, "auto")
TILE = 512


def untrained(depth: int) -> tuple[torch.nn.Module, ModelCard]:
    torch.manual_seed(depth)
    options = {"width": 8, "depth": depth}
    model = build_model("unet", 1, 3, options)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    model.eval()
    classes = tuple(ClassSpec(name=name) for name in ("a", "b", "c"))
    field = measure_receptive_field(model, 1)
    return model, ModelCard(architecture="unet", options=options, in_channels=1, classes=classes, receptive_field=field)


class Kept:
    """A predictor that keeps the largest difference of logits from the whole-image pass, too."""

    def __init__(self, predictor: Predictor) -> None:
        self.classes = predictor.classes
        self.masks = predictor.masks
        self.scores = predictor.logits


def compare(predictor: Predictor, stride: int, image: np.ndarray, halo: int) -> tuple[int, float, str]:
    shape = image.shape[1:]
    whole_plan = EnginePlan(tile=1 << 14, halo=0, stride=stride, shard=1 << 14, batch=1)
    plan = EnginePlan(tile=TILE, halo=halo, stride=stride, shard=1024, batch=1, extra="margin")
    kept = Kept(predictor)
    whole = _whole(kept, image, whole_plan)
    flips, largest = 0, 0.0
    grid = engine_grid(shape, plan)
    for y0 in range(0, shape[0], plan.shard):
        for x0 in range(0, shape[1], plan.shard):
            box = Box(y0, x0, min(y0 + plan.shard, shape[0]), min(x0 + plan.shard, shape[1]))
            region = shard_window(grid, box, plan)[0]
            from microseg_ray.stitching.shards import _blended

            scores = _blended(image[(..., *region.slices)], region, kept, shard_window(grid, box, plan)[1], box, plan, (0.0, 255.0))
            mask = predict_shard(image[(..., *region.slices)], predictor, grid, box, EnginePlan(TILE, halo, stride, 1024, 1), (0.0, 255.0)).mask
            there = whole[(..., *box.slices)]
            largest = max(largest, float(np.abs(scores - there).max()))
            flips += int(np.count_nonzero(mask != there.argmax(axis=0)))
    return flips, largest, f"{len(grid)}"


def _whole(kept: Kept, image: np.ndarray, plan: EnginePlan) -> np.ndarray:
    from microseg_ray.stitching.shards import _blended

    shape = image.shape[1:]
    grid, box = engine_grid(shape, plan), Box.of_shape(shape)
    region, tiles = shard_window(grid, box, plan)
    return _blended(image, region, kept, tiles, box, plan, (0.0, 255.0))


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGE
    torch.set_num_threads(2)
    with open_micrograph(path) as micrograph:
        full = micrograph.read(Box.of_shape(micrograph.info.shape))
    models = [(f"depth {depth}", *untrained(depth)) for depth in (2, 3, 4, 5)]
    if len(sys.argv) > 2:
        models.append(("trained", *load_checkpoint(sys.argv[2])))
    print(f"{path.name}, fp32, tiles of at most {TILE} px; argmax flips (largest difference of a logit)")
    print(f"{'model':<10} {'height x width':<15} {'radius':>6} " + " ".join(f"{'halo ' + str(halo):>18}" for halo in HALOS))
    for image in (full[:, :777, :1023], full):
        for label, model, card in models:
            field = card.receptive_field
            predictor = Predictor(model, card, precision="fp32")
            cells = []
            for halo in HALOS:
                size = field.halo if halo == "auto" else halo
                flips, largest, _ = compare(predictor, field.stride, image, size)
                cells.append(f"{flips:>8} ({largest:.1e})")
            name = f"{image.shape[1]} x {image.shape[2]}"
            print(f"{label:<10} {name:<15} {field.radius:>6} " + " ".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
