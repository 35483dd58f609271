"""What the benchmarks work on: untrained checkpoints, micrographs of noise and blobs, and the bare forward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {"resunet": {}, "unet": {"width": 32, "depth": 4}}
CLASS_NAMES = ("matrix", "grain", "pore", "crack")


def make_checkpoint(
    folder: Path,
    architecture: str = "resunet",
    options: dict[str, Any] | None = None,
    names: Sequence[str] = CLASS_NAMES,
) -> Path:
    """A checkpoint with random weights and running statistics: speed and memory do not depend on what was learnt."""
    import torch
    from torch import nn

    from microseg_ray.models import build_model
    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.checkpoint import save_checkpoint
    from microseg_ray.models.footprint import measure_footprint
    from microseg_ray.models.receptive_field import measure_receptive_field
    from microseg_ray.settings import ClassSpec

    torch.manual_seed(0)
    chosen = DEFAULT_OPTIONS.get(architecture, {}) if options is None else options
    model = build_model(architecture, 1, len(names), chosen)
    model.train()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        # Running statistics of real data, so that activations have the usual size.
        for _ in range(3):
            model(torch.rand(2, 1, 128, 128, generator=generator))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5, generator=generator)
    model.eval()
    card = ModelCard(
        architecture=architecture,
        options=chosen,
        in_channels=1,
        classes=tuple(ClassSpec(name=name) for name in names),
        receptive_field=measure_receptive_field(model, 1),
        footprint=measure_footprint(model, 1),
    )
    save_checkpoint(folder, model, card)
    return folder


def segment_archive(archive: str, checkpoint: str, output: str, options: Sequence[str]) -> None:
    """The job `segment` in this process, as the command line calls it; ends the process where it fails."""
    from microseg_ray.cli import main

    code = main(["segment", "--archive", archive, "--checkpoint", checkpoint, "--output", output, *options])
    if code:
        raise SystemExit(f"segment ended with {code}")


def make_micrograph(height: int, width: int, seed: int = 0) -> np.ndarray:
    """uint8 (y, x): blobs of 8 px with noise, repeated in blocks so that a large one is made fast."""
    generator = np.random.default_rng(seed)
    side = min(1024, max(height, width))
    cells = generator.normal(120, 30, (side // 8 + 1, side // 8 + 1)).repeat(8, 0).repeat(8, 1)[:side, :side]
    block = np.clip(cells + generator.normal(0, 9, (side, side)), 0, 255).astype(np.uint8)
    rows, columns = -(-height // side), -(-width // side)
    return np.tile(block, (rows, columns))[:height, :width]


def write_micrograph(path: Path, height: int, width: int, seed: int = 0) -> Path:
    """An uncompressed TIFF, written by rows of blocks so that a huge one is never held."""
    import tifffile

    target = tifffile.memmap(path, shape=(height, width), dtype=np.uint8)
    block = make_micrograph(min(height, 1024), width, seed)
    for top in range(0, height, len(block)):
        target[top : top + len(block)] = block[: height - top]
    target.flush()
    return path
