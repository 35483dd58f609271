"""Argmax flips of stitched against whole-image prediction.

`python -m benchmarks exactness [IMAGE] [CHECKPOINT]`: by depth of the U-Net and halo, in fp32.
`python -m benchmarks exactness --mosaics [MODEL ...]`: models of default width and depth, default tiles and others, in fp32.
`python -m benchmarks exactness --kernels [MODEL ...]`: one block of pixels in tiles of many shapes, in fp32 and bf16. What
remains where the halo covers the receptive field is the rounding of the kernels, which may change with the shape of a tile.

Without a checkpoint the models are untrained, with random weights and random running statistics: their outputs depend on
everything in reach, and classes lie close together.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import cpu_name
from microseg_ray import Box, open_micrograph
from microseg_ray.geometry import ceil_to
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.models.footprint import measure_footprint
from microseg_ray.models.predictor import Predictor
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.runs.plan import engine_plan
from microseg_ray.settings import ClassSpec, PlanSettings
from microseg_ray.settings.model import OPTIONS
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window
from microseg_ray.stitching.shards import padded_tile

IMAGE = Path(__file__).resolve().parents[2] / "shared/data/mudrock/mosaics/15_images.png"
HALOS = (0, 8, 16, 32, 64, "auto")
TILE = 512
LIMITS = (0.0, 255.0)
PLACE, BLOCK = 320, 64
WIDTHS = (512, 768, 800, 816, 1024, 1408)
"""Of tiles in which one block of pixels is compared."""


def untrained(name: str, options: dict, seed: int) -> tuple[torch.nn.Module, ModelCard]:
    torch.manual_seed(seed)
    model = build_model(name, 1, 3, options)
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
    model.eval()
    classes = tuple(ClassSpec(name=name) for name in ("a", "b", "c"))
    return model, ModelCard(
        architecture=name,
        options=options,
        in_channels=1,
        classes=classes,
        receptive_field=measure_receptive_field(model, 1),
        footprint=measure_footprint(model, 1),
    )


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


def tiled_logits(predictor: Predictor, image: np.ndarray, plan: EnginePlan) -> tuple[np.ndarray, tuple[int, int]]:
    """Logits of a whole micrograph, and the shape of the tiles."""
    grid = engine_grid(image.shape[1:], plan)
    logits = np.empty((predictor.classes, *image.shape[1:]), np.float32)
    for tile in grid:
        batch = padded_tile(image[(..., *tile.visible.slices)], tile.box.shape)[None]
        found = predictor.logits(np.ascontiguousarray(batch), LIMITS)[0]
        logits[(..., *tile.core.slices)] = found[(..., *tile.core_in_tile.slices)]
    return logits, grid.tile_shape


def default_models(names: list[str]) -> list[tuple[str, torch.nn.Module, ModelCard]]:
    torch.set_num_threads(1)
    kernels = (
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, 1 thread of {os.cpu_count()} cores"
    )
    print(f"{cpu_name()}, {kernels}")
    return [(name, *untrained(name, OPTIONS[name], seed=0)) for name in names or ["resunet", "unet"]]


def mosaics(names: list[str]) -> None:
    """A whole mosaic in fp32: the tiles of the defaults, and others, against one tile."""
    with open_micrograph(IMAGE) as micrograph:
        image = micrograph.read(Box.of_shape(micrograph.info.shape))
    for name, model, card in default_models(names):
        stride, halo = card.receptive_field.stride, card.receptive_field.halo
        predictor = Predictor(model, card, precision="fp32")
        settings = PlanSettings(archive="a", checkpoint="c", output="o", precision="fp32")
        chosen = engine_plan(settings, card).engine
        whole, _ = tiled_logits(predictor, image, EnginePlan(tile=1 << 14, halo=0, stride=stride, shard=1 << 14))
        for side in (chosen.tile, 768):
            plan = EnginePlan(tile=side, halo=halo, stride=stride, shard=chosen.shard)
            logits, (height, width) = tiled_logits(predictor, image, plan)
            flips = int(np.count_nonzero(logits.argmax(axis=0) != whole.argmax(axis=0)))
            difference = np.abs(logits - whole).max()
            print(f"| {name} | fp32 | {height} x {width} | {flips} of {whole[0].size} | {difference:.1e} |", flush=True)


def kernels(names: list[str]) -> None:
    """The same block of pixels in tiles of many shapes, places and batches: rounding is all that can differ."""
    with open_micrograph(IMAGE) as micrograph:
        image = micrograph.read(Box.of_shape(micrograph.info.shape))
    for name, model, card in default_models(names):
        halo = card.receptive_field.halo
        least = ceil_to(2 * halo + BLOCK, 64)
        sides = [least, least + 16, *(side for side in WIDTHS if side > least)]
        for precision in ("fp32", "bf16"):
            predictor = Predictor(model, card, precision=precision)
            reference = block(predictor, image, halo, (least, least), 1)
            for shape, batch in [((least, side), 1) for side in sides] + [((2 * least, least), 1), ((least, least), 3)]:
                found = block(predictor, image, halo, shape, batch)
                flips = int(np.count_nonzero(found.argmax(axis=0) != reference.argmax(axis=0)))
                print(
                    f"| {name} | {precision} | {shape[0]} x {shape[1]}, batch {batch} | {flips} of {BLOCK**2} | "
                    f"{np.abs(found - reference).max():.1e} | {reference.std():.2f} |",
                    flush=True,
                )


def block(predictor: Predictor, image: np.ndarray, halo: int, shape: tuple[int, int], batch: int) -> np.ndarray:
    """Logits of one block of the micrograph from a tile of this shape; the last of a batch of equal tiles."""
    y0 = x0 = PLACE - halo
    tile = np.ascontiguousarray(np.repeat(image[None, :, y0 : y0 + shape[0], x0 : x0 + shape[1]], batch, axis=0))
    inside = slice(halo, halo + BLOCK)
    return predictor.logits(tile, LIMITS)[-1][:, inside, inside]


def main() -> None:
    if sys.argv[1:2] == ["--mosaics"]:
        mosaics(sys.argv[2:])
        return
    if sys.argv[1:2] == ["--kernels"]:
        kernels(sys.argv[2:])
        return
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGE
    torch.set_num_threads(2)
    with open_micrograph(path) as micrograph:
        full = micrograph.read(Box.of_shape(micrograph.info.shape))
    models = [
        (f"depth {depth}", *untrained("unet", {"width": 8, "depth": depth}, seed=depth)) for depth in (2, 3, 4, 5)
    ]
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
