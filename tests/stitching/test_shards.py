"""The engine's step: all shards of a micrograph together are what one pass over the whole of it gives."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from microseg_ray.geometry import Box, TileGrid, ceil_to
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window, window
from microseg_ray.stitching.extra import extra_output
from microseg_ray.stitching.shard_memory import shard_bytes
from microseg_ray.symmetry import SYMMETRIES
from tests.strategies import plans, shapes

if TYPE_CHECKING:
    from numpy.typing import NDArray

RADIUS = 2
LIMITS = (0.0, 255.0)


class BoxFilter:
    """Sums a 5 x 5 square, with zeros beyond the tile, as a convolution does: exact in integers, radius 2."""

    classes = 3

    def __init__(self) -> None:
        self.batches: list[tuple[int, ...]] = []

    def sums(self, batch: NDArray[Any]) -> NDArray[np.int64]:
        self.batches.append(batch.shape)
        padded = np.pad(batch[:, 0].astype(np.int64), ((0, 0), (RADIUS, RADIUS), (RADIUS, RADIUS)))
        height, width = batch.shape[-2:]
        return sum(padded[:, y : y + height, x : x + width] for y in range(5) for x in range(5))

    def masks(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
        share = self.sums(batch) * 3 // (25 * int(limits[1]) + 1)
        return share.astype(np.uint8)

    def scores(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
        masks = self.masks(batch, limits)
        return np.stack([0.2 + 0.4 * (masks == index) for index in range(3)], axis=1).astype(np.float32)


class NearTies(BoxFilter):
    """Logits that differ by less than probabilities can hold: class 1 wins, and both probabilities are equal."""

    def masks(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
        return np.ones((len(batch), *batch.shape[-2:]), np.uint8)

    def scores(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
        return np.full((len(batch), 3, *batch.shape[-2:]), 1 / 3, np.float32)


class Lopsided(BoxFilter):
    """Scores that no symmetry leaves alone: a shift to the right and down."""

    def scores(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
        shifted = np.pad(batch[:, 0].astype(np.float32), ((0, 0), (1, 0), (2, 0)))[:, :-1, :-2] / np.float32(limits[1])
        return np.stack([shifted, 1 - shifted, shifted * 0], axis=1)


def picture(shape: tuple[int, int], dtype: Any = np.uint8, seed: int = 0) -> NDArray[Any]:
    return np.random.default_rng(seed).integers(0, np.iinfo(dtype).max, (1, *shape), dtype, endpoint=True)


def boxes(shape: tuple[int, int], shard: int) -> list[Box]:
    return [
        Box(y, x, min(y + shard, shape[0]), min(x + shard, shape[1]))
        for y in range(0, shape[0], shard)
        for x in range(0, shape[1], shard)
    ]


def run(image: NDArray[Any], predictor: Any, plan: EnginePlan, limits: tuple[float, float] = LIMITS) -> tuple[Any, Any]:
    """The whole mask and extra output, shard by shard; only the region that was asked for is handed over."""
    shape = image.shape[-2:]
    grid = engine_grid(shape, plan)
    mask = np.full(shape, 77, np.uint8)
    extra: Any = None
    for box in boxes(shape, plan.shard):
        region, tiles = shard_window(grid, box, plan)
        assert Box.of_shape(shape).contains(region)
        assert tiles
        result = predict_shard(image[(..., *region.slices)].copy(), predictor, grid, box, plan, limits)
        mask[box.slices] = result.mask
        if result.extra is not None:
            lead = result.extra.shape[:-2]
            extra = np.zeros((*lead, *shape), result.extra.dtype) if extra is None else extra
            extra[(..., *box.slices)] = result.extra
    return mask, extra


def padded(image: NDArray[Any], stride: int) -> NDArray[Any]:
    below, right = (ceil_to(side, stride) - side for side in image.shape[-2:])
    return np.pad(image, ((0, 0), (0, below), (0, right)), mode="reflect")


SHAPES = shapes(40)
PLANS = plans(least_halo=RADIUS)
BLEND_PLANS = plans(least_halo=RADIUS, blends=("hann", "gaussian", "mean"), extra="probabilities")


# --- crop: exact ----------------------------------------------------------------------------------------------------
@given(SHAPES, PLANS, st.sampled_from([np.uint8, np.uint16]))
@example((1, 1), EnginePlan(tile=64, halo=2, stride=16, shard=64), np.uint8)
@example((1, 300), EnginePlan(tile=64, halo=16, stride=16, shard=32), np.uint16)
@example((33, 41), EnginePlan(tile=512, halo=100, stride=4, shard=16), np.uint8)
def test_the_shards_together_equal_one_pass_over_the_whole(
    shape: tuple[int, int], plan: EnginePlan, dtype: Any
) -> None:
    image = picture(shape, dtype, seed=shape[1])
    limits = (0.0, float(np.iinfo(dtype).max))
    whole = BoxFilter().masks(padded(image, plan.stride)[None], limits)[0, : shape[0], : shape[1]]
    predictor = BoxFilter()
    mask, extra = run(image, predictor, plan, limits)
    assert extra is None
    assert np.array_equal(mask, whole)
    assert max(batch[0] for batch in predictor.batches) <= plan.batch
    assert {batch[2:] for batch in predictor.batches} == {engine_grid(shape, plan).tile_shape}


@given(SHAPES, plans(least_halo=RADIUS, extra="probabilities"))
def test_cropped_scores_equal_one_pass_too(shape: tuple[int, int], plan: EnginePlan) -> None:
    image = picture(shape)
    whole = BoxFilter().scores(padded(image, plan.stride)[None], LIMITS)[0, :, : shape[0], : shape[1]]
    mask, extra = run(image, BoxFilter(), plan)
    assert np.array_equal(mask, whole.argmax(axis=0))
    assert np.array_equal(extra, whole.astype(np.float16))


def test_a_halo_smaller_than_the_receptive_field_is_not_exact() -> None:
    image = np.full((1, 40, 40), 200, np.uint8)
    whole = BoxFilter().masks(image[None], LIMITS)[0]
    mask, _ = run(image, BoxFilter(), EnginePlan(tile=10, halo=0, stride=1, shard=20))
    assert not np.array_equal(mask, whole)


@given(SHAPES, PLANS, st.sampled_from(["crop", "hann"]), st.randoms(use_true_random=False))
def test_a_shard_depends_on_no_other_and_on_no_batch(shape: Any, plan: EnginePlan, blend: Any, random: Any) -> None:
    image = picture(shape)
    plan = EnginePlan(**{**plan.__dict__, "blend": blend})
    mask, _ = run(image, BoxFilter(), plan)
    order = boxes(shape, plan.shard)
    random.shuffle(order)
    alone = EnginePlan(**{**plan.__dict__, "batch": 1})
    grid = engine_grid(shape, alone)
    for box in order[:5]:
        region, _ = shard_window(grid, box, alone)
        result = predict_shard(image[(..., *region.slices)], BoxFilter(), grid, box, alone, LIMITS)
        assert np.array_equal(result.mask, mask[box.slices])


# --- blends ---------------------------------------------------------------------------------------------------------
class Constant:
    """The same scores everywhere."""

    classes = 4

    def scores(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
        return np.broadcast_to(
            np.array([0.125, 0.5, 0.25, 0.125], np.float32)[None, :, None, None], (len(batch), 4, *batch.shape[-2:])
        ).copy()


@given(SHAPES, BLEND_PLANS)
def test_blending_a_constant_gives_the_constant(shape: tuple[int, int], plan: EnginePlan) -> None:
    mask, extra = run(picture(shape), Constant(), plan)
    assert (mask == 1).all()
    assert np.allclose(extra, np.array([0.125, 0.5, 0.25, 0.125])[:, None, None], atol=1e-3)


@settings(max_examples=60)
@given(SHAPES, BLEND_PLANS)
def test_blends_equal_a_naive_sum_and_sum_to_one(shape: tuple[int, int], plan: EnginePlan) -> None:
    image = picture(shape)
    grid = engine_grid(shape, plan)
    weights = window(plan.blend, grid.tile_shape).astype(float)
    total, weight = np.zeros((3, *grid.padded_shape)), np.zeros(grid.padded_shape)
    whole = padded(image, plan.stride)
    for tile in grid:
        scores = BoxFilter().scores(whole[(..., *tile.box.slices)][None], LIMITS)[0]
        total[(..., *tile.box.slices)] += scores.astype(float) * weights
        weight[tile.box.slices] += weights
    expected = (total / weight)[:, : shape[0], : shape[1]]
    _, extra = run(image, BoxFilter(), plan)
    assert np.abs(extra.astype(float) - expected).max() < 1e-3
    assert np.abs(extra.astype(float).sum(axis=0) - 1).max() < 3e-3


@settings(max_examples=40)
@given(SHAPES, BLEND_PLANS, st.integers(1, 9), st.integers(1, 9))
def test_blended_bytes_do_not_depend_on_the_shard(shape: Any, plan: EnginePlan, one: int, two: int) -> None:
    image = picture(shape)
    results = [
        run(image, BoxFilter(), EnginePlan(**{**plan.__dict__, "shard": plan.stride * size})) for size in (one, two)
    ]
    assert results[0][0].tobytes() == results[1][0].tobytes()
    assert results[0][1].tobytes() == results[1][1].tobytes()


@given(st.integers(1, 64), st.floats(0, 0.9), st.sampled_from([1, 2, 4, 16]), SHAPES)
def test_blend_grids_overlap_as_asked(steps: int, overlap: float, stride: int, shape: tuple[int, int]) -> None:
    plan = EnginePlan(tile=steps * stride, halo=0, stride=stride, shard=64 * stride, blend="hann", overlap=overlap)
    grid = engine_grid(shape, plan)
    assert grid.shard is None
    if grid.counts[0] > 2:
        pitch = grid.at(1, 0).box.y0 - grid.at(0, 0).box.y0
        assert stride <= pitch
        assert pitch < plan.tile * (1 - overlap) + 2 or pitch == stride


# --- symmetries -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("blend", ["crop", "hann"])
@pytest.mark.parametrize("shape", [(20, 20), (9, 30)])
def test_tta_is_the_mean_over_the_eight_symmetries(blend: Any, shape: tuple[int, int]) -> None:
    image = picture(shape)
    turned = []
    whole = padded(image, 1)[None]
    for mirror in (False, True):
        for turns in range(4):
            seen = whole[..., ::-1] if mirror else whole
            scores = Lopsided().scores(np.ascontiguousarray(np.rot90(seen, turns, axes=(2, 3))), LIMITS)
            back = np.rot90(scores, -turns, axes=(2, 3))
            turned.append(back[..., ::-1] if mirror else back)
    expected = np.mean(turned, axis=0, dtype=float)[0]
    plan = EnginePlan(tile=64, halo=2, stride=1, shard=64, blend=blend, tta=True, extra="probabilities")
    mask, extra = run(image, Lopsided(), plan)
    assert np.abs(extra.astype(float) - expected).max() < 1e-3
    clear = np.sort(expected, axis=0)[-1] - np.sort(expected, axis=0)[-2] > 1e-5
    assert (mask == expected.argmax(axis=0))[clear].all()


def test_tta_of_a_symmetric_model_stitches_exactly() -> None:
    image = picture((45, 38))
    whole = BoxFilter().masks(image[None], LIMITS)[0]
    mask, _ = run(image, BoxFilter(), EnginePlan(tile=16, halo=2, stride=1, shard=20, tta=True))
    assert np.array_equal(mask, whole)


# --- extra outputs --------------------------------------------------------------------------------------------------
@given(st.integers(1, 5), st.integers(0, 1000))
def test_extra_outputs_equal_a_loop_over_pixels(classes: int, seed: int) -> None:
    scores = (
        np.random.default_rng(seed).dirichlet(np.ones(classes) * 0.3, size=(3, 4)).transpose(2, 0, 1).astype(np.float32)
    )
    margin, entropy = extra_output(scores, "margin"), extra_output(scores, "entropy")
    for y in range(3):
        for x in range(4):
            values = sorted((float(value) for value in scores[:, y, x]), reverse=True)
            expected = values[0] - (values[1] if classes > 1 else 0)
            assert abs(int(margin[y, x]) - expected * 254) <= 0.51
            bits = -sum(value * np.log(value) for value in values if value > 0) / np.log(max(2, classes))
            assert abs(int(entropy[y, x]) - bits * 254) <= 0.51
    assert margin.dtype == entropy.dtype == np.uint8
    assert extra_output(scores, "none") is None
    assert np.array_equal(extra_output(scores, "probabilities"), scores.astype(np.float16))


@pytest.mark.parametrize("extra", ["margin", "entropy"])
def test_extra_outputs_never_read_as_not_measured(extra: Any) -> None:
    assert extra_output(np.array([[[1.0, 0.5, 1.0000002]], [[0.0, 0.5, 0.0]]], np.float32), extra).max() <= 254


# --- windows and memory ---------------------------------------------------------------------------------------------
@given(SHAPES, PLANS)
def test_a_window_holds_its_shard_and_little_more(shape: tuple[int, int], plan: EnginePlan) -> None:
    grid = engine_grid(shape, plan)
    for box in boxes(shape, plan.shard):
        region, tiles = shard_window(grid, box, plan)
        assert region.contains(box)
        assert sum(tile.core.intersection(box).area for tile in tiles) == box.area
        halo = ceil_to(plan.halo, plan.stride)
        assert region.height <= max(plan.shard + 2 * halo, grid.tile_shape[0])
        assert region.width <= max(plan.shard + 2 * halo, grid.tile_shape[1])


class Quiet:
    """Allocates its result and nothing else."""

    classes = 4

    def masks(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
        return np.zeros((len(batch), *batch.shape[-2:]), np.uint8)

    def scores(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
        return np.full((len(batch), 4, *batch.shape[-2:]), 0.25, np.float32)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"extra": "margin"},
        {"extra": "entropy"},
        {"extra": "probabilities"},
        {"blend": "hann"},
        {"blend": "hann", "overlap": 0.9, "tile": 128},
        {"blend": "mean", "tta": True, "extra": "margin"},
        {"tta": True},
    ],
)
@pytest.mark.parametrize("shard", [256, 512])
def test_memory_stays_within_what_was_forecast(options: dict[str, Any], shard: int) -> None:
    plan = EnginePlan(**{"tile": 192, "halo": 20, "stride": 16, "shard": shard, "batch": 4, **options})
    shape = (2000, 2000)
    grid = engine_grid(shape, plan)
    box = Box(shard, shard, 2 * shard, 2 * shard)
    region, _ = shard_window(grid, box, plan)
    window(plan.blend if plan.blend != "crop" else "hann", grid.tile_shape)
    tracemalloc.start()
    try:
        pixels = np.zeros((1, *region.shape), np.uint16)
        predict_shard(pixels, Quiet(), grid, box, plan, LIMITS)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= shard_bytes(plan, channels=1, itemsize=2, classes=4) * 1.02 + 100_000


def test_grids_of_the_engine() -> None:
    crop = engine_grid((300, 200), EnginePlan(tile=64, halo=8, stride=4, shard=128))
    assert crop == TileGrid((300, 200), 64, 8, 4, shard=128)
    assert engine_grid((300, 200), EnginePlan(tile=64, halo=8, stride=4, shard=128)) is crop  # made once a micrograph


@pytest.mark.parametrize("extra", ["margin", "entropy", "probabilities"])
def test_an_extra_output_does_not_change_the_mask(extra: Any) -> None:
    """The class is that of the largest logit, with and without an extra output."""
    plan = EnginePlan(tile=16, halo=2, stride=1, shard=32, extra=extra)
    grid, box, image = engine_grid((32, 32), plan), Box(0, 0, 32, 32), picture((32, 32))
    region, _ = shard_window(grid, box, plan)
    result = predict_shard(image[(..., *region.slices)], NearTies(), grid, box, plan, (0, 255))
    assert (result.mask == 1).all()
    assert result.extra is not None


class Several(Lopsided):
    """An ensemble of three, of which each sees a constant of its own more."""

    members = 3

    def members_too(self, batch: NDArray[Any], limits: tuple[float, float], *, scores: bool = False) -> Any:
        own = np.stack([self.masks(batch, (limits[0], limits[1] + 60 * number)) for number in range(3)], axis=1)
        return SimpleNamespace(
            masks=self.masks(batch, limits), scores=self.scores(batch, limits) if scores else None, members=own
        )


@settings(max_examples=40)
@given(plans(least_halo=2 * RADIUS, blends=("crop", "hann")), shapes(), st.booleans())
@example(EnginePlan(tile=24, halo=4, stride=4, shard=16, blend="hann"), (40, 30), True)
def test_counts_by_each_prediction_are_those_of_the_whole_micrograph(
    plan: EnginePlan, shape: tuple[int, int], tta: bool
) -> None:
    plan = replace(plan, tta=tta)
    image, predictor = picture(shape), Several()
    grid = engine_grid(shape, plan)
    total: dict[str, Any] = {}
    for box in boxes(shape, plan.shard):
        region, _ = shard_window(grid, box, plan)
        found = predict_shard(image[(..., *region.slices)].copy(), predictor, grid, box, plan, LIMITS)
        assert set(found.spreads) == ({"ensemble", "tta"} if tta else {"ensemble"})
        for kind, counts in found.spreads.items():
            assert (counts.sum(axis=1) == box.area).all()
            total[kind] = total.get(kind, 0) + counts
    whole = padded(image, plan.stride)[None]
    height, width = shape
    if plan.blend == "crop":
        own = predictor.members_too(whole, LIMITS).members[0, :, :height, :width]
        assert total["ensemble"].tolist() == [[int((each == index).sum()) for index in range(3)] for each in own]
    if tta and plan.blend == "crop":
        turned = [symmetry.inverse.apply(predictor.scores(symmetry.apply(whole), LIMITS)) for symmetry in SYMMETRIES]
        guesses = [scores[0].argmax(axis=0)[:height, :width] for scores in turned]
        assert total["tta"].tolist() == [[int((each == index).sum()) for index in range(3)] for each in guesses]
