"""What is stitched equals one pass over the whole micrograph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from microseg_ray.geometry import Box, ceil_to
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.models.predictor import Predictor
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.sources import open_micrograph
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window
from microseg_ray.stitching.shards import padded_tile


class Recorded:
    """A predictor that keeps the logits that its masks came from."""

    def __init__(self, predictor):
        self.predictor, self.classes, self.seen = predictor, predictor.classes, []

    def masks(self, batch, limits):
        logits = self.predictor.logits(batch, limits)
        self.seen.extend(logits)
        return logits.argmax(axis=1).astype(np.uint8)


def whole_and_stitched(pixels, predictor, shard, tile):
    """Logits of one pass over the whole micrograph, and stitched from the tiles of every shard."""
    field, shape = predictor.card.receptive_field, pixels.shape[1:]
    plan = EnginePlan(tile=tile, halo=field.halo, stride=field.stride, shard=shard, batch=2)
    grid, spec = engine_grid(shape, plan), MaskSpec(shape, predictor.card.classes, shard)
    padded = padded_tile(pixels, tuple(ceil_to(side, field.stride) for side in shape))
    whole = predictor.logits(padded[None], (0, 255))[0, :, : shape[0], : shape[1]]
    mask = np.full(shape, 255, np.uint8)
    stitched = np.full(whole.shape, np.nan, np.float32)
    for place in np.ndindex(*spec.shards):
        box, recorded = spec.box(place), Recorded(predictor)
        region, tiles = shard_window(grid, box, plan)
        mask[box.slices] = predict_shard(pixels[(..., *region.slices)], recorded, grid, box, plan, (0, 255)).mask
        for member, logits in zip(tiles, recorded.seen, strict=True):
            stitched[(..., *member.core.slices)] = logits[(..., *member.core_in_tile.slices)]
    return whole, stitched, mask


def real_predictor(new_checkpoint, folder, sample, **options):
    """A random model whose classes all occur on the sample, (1, y, x)."""
    model, card = load_checkpoint(new_checkpoint(folder, **options))
    raw = Predictor(model, card, "fp32", threads=1).logits(sample[None, :, :256, :256], (0, 255))
    with torch.no_grad():
        model.head.bias.sub_(torch.from_numpy(np.median(raw, axis=(0, 2, 3))))
    return Predictor(model, card, "fp32", threads=1)


def assert_exact(whole, stitched, mask):
    assert np.abs(whole - stitched).max() <= 1e-4
    assert np.count_nonzero(whole.argmax(axis=0) != mask) == 0
    assert len(np.unique(mask)) > 1


@pytest.mark.parametrize(("depth", "shard", "tile"), [(2, 192, 96), (3, 192, 160), (4, 256, 320)])
def test_stitched_equals_whole_on_a_crop_of_odd_sides(real_data, new_checkpoint, tmp_path, depth, shard, tile):
    with open_micrograph(real_data / "mudrock/mosaics/15_images.png") as micrograph:
        pixels = micrograph.read(Box(100, 50, 401, 473))
    predictor = real_predictor(new_checkpoint, tmp_path / "m", pixels, width=4, depth=depth)
    assert_exact(*whole_and_stitched(pixels, predictor, shard, tile))


@pytest.mark.slow
def test_stitched_equals_whole_on_a_mosaic(real_data, new_checkpoint, tmp_path):
    with open_micrograph(real_data / "mudrock/mosaics/11_images.png") as micrograph:
        pixels = micrograph.read(Box.of_shape(micrograph.info.shape))
    predictor = real_predictor(new_checkpoint, tmp_path / "m", pixels, width=8, depth=3)
    assert_exact(*whole_and_stitched(pixels, predictor, shard=1024, tile=512))
