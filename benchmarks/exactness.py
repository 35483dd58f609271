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
from microseg_ray.stitching.shards import padded_tile

IMAGE = Path(__file__).resolve().parents[2] / "shared/data/mudrock/mosaics/15_images.png"
HALOS = (0, 8, 16, 32, 64, "auto")
TILE = 512
LIMITS = (0.0, 255.0)


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
    """A predictor whose scores are logits."""

    def __init__(self, predictor: Predictor) -> None:
        self.classes = predictor.classes
        self.masks = predictor.masks
        self.scores = predictor.logits


def stitched(predictor: Kept, image: np.ndarray, plan: EnginePlan) -> tuple[np.ndarray, np.ndarray]:
    """Mask and logits of a whole micrograph, shard by shard."""
    shape = image.shape[1:]
    grid = engine_grid(shape, plan)
    logits, mask = np.empty((predictor.classes, *shape), np.float32), np.empty(shape, np.uint8)
    for y0 in range(0, shape[0], plan.shard):
        for x0 in range(0, shape[1], plan.shard):
            box = Box(y0, x0, min(y0 + plan.shard, shape[0]), min(x0 + plan.shard, shape[1]))
            region, tiles = shard_window(grid, box, plan)
            pixels = image[(..., *region.slices)]
            mask[box.slices] = predict_shard(pixels, predictor, grid, box, plan, LIMITS).mask
            for tile in tiles:
                cut = image[(..., *tile.visible.slices)]
                batch = padded_tile(cut, tile.box.shape)[None]
                scores = predictor.scores(np.ascontiguousarray(batch), LIMITS)[0]
                logits[(..., *tile.core.slices)] = scores[(..., *tile.core_in_tile.slices)]
    return mask, logits


def compare(predictor: Kept, stride: int, image: np.ndarray, halo: int, whole: np.ndarray) -> tuple[int, float]:
    mask, logits = stitched(predictor, image, EnginePlan(tile=TILE, halo=halo, stride=stride, shard=1024, batch=1))
    return int(np.count_nonzero(mask != whole.argmax(axis=0))), float(np.abs(logits - whole).max())


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGE
    torch.set_num_threads(2)
    with open_micrograph(path) as micrograph:
        full = micrograph.read(Box.of_shape(micrograph.info.shape))
    models = [(f"depth {depth}", *untrained(depth)) for depth in (2, 3, 4, 5)]
    if len(sys.argv) > 2:
        models.append(("trained", *load_checkpoint(sys.argv[2])))
    print(f"{path.name}, fp32, tiles of at most {TILE} px; argmax flips (largest difference of a logit)")
    print(
        f"{'model':<10} {'height x width':<15} {'radius':>6} "
        + " ".join(f"{'halo ' + str(halo):>18}" for halo in HALOS)
    )
    for image in (full[:, :777, :1023], full):
        for label, model, card in models:
            field = card.receptive_field
            predictor = Kept(Predictor(model, card, precision="fp32"))
            one_pass = EnginePlan(tile=1 << 14, halo=0, stride=field.stride, shard=1 << 14, batch=1)
            whole = stitched(predictor, image, one_pass)[1]
            cells = []
            for halo in HALOS:
                size = field.halo if halo == "auto" else halo
                flips, largest = compare(predictor, field.stride, image, size, whole)
                cells.append(f"{flips:>8} ({largest:.1e})")
            name = f"{image.shape[1]} x {image.shape[2]}"
            print(f"{label:<10} {name:<15} {field.radius:>6} " + " ".join(f"{cell:>18}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
