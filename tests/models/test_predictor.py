"""Prediction: scaling, precision, ties, folding, bytes that do not change."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard, ReceptiveField, read_card_and_digest
from microseg_ray.models.checkpoint import save_checkpoint
from microseg_ray.models.folding import fold_norms
from microseg_ray.models.largest import largest
from microseg_ray.models.predictor import Predictor, load_predictor
from microseg_ray.models.scaling import model_input
from microseg_ray.settings import ClassSpec

OPTIONS = {"width": 4, "depth": 2}


def card(classes=3, channels=1, stride=4):
    return ModelCard(
        architecture="unet",
        options=OPTIONS,
        in_channels=channels,
        classes=tuple(ClassSpec(name=f"class {index}") for index in range(classes)),
        receptive_field=ReceptiveField(radius=20, stride=stride),
    )


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_model("unet", 1, 3, OPTIONS)
    with torch.no_grad():
        for _ in range(20):
            model(torch.rand(4, 1, 32, 32))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.2)
    return model.eval()


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def tiles(dtype, seed=0):
    values = np.random.default_rng(seed).random((2, 1, 32, 24))
    top = {np.uint8: 255, np.int16: 32767, np.uint16: 65535, np.uint32: 2**32 - 1, np.float32: 1}[dtype]
    return (values * top).astype(dtype), (0, top)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.uint32, np.float32])
def test_fp32_equals_the_bare_model(model, dtype):
    batch, limits = tiles(dtype)
    predictor = Predictor(model, card(), precision="fp32")
    with torch.inference_mode():
        bare = model(torch.from_numpy(batch.astype(np.float32)) / limits[1])
    logits = predictor.logits(batch, limits)
    assert logits.dtype == np.float32
    assert logits.flags.c_contiguous
    np.testing.assert_allclose(logits, bare.numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(predictor.scores(batch, limits), bare.softmax(1).numpy(), rtol=0, atol=1e-4)
    masks = predictor.masks(batch, limits)
    assert masks.dtype == np.uint8
    np.testing.assert_array_equal(masks, logits.argmax(1))


def test_bf16_is_close_and_as_consistent(model):
    batch, limits = tiles(np.uint8)
    exact, fast = Predictor(model, card(), precision="fp32"), Predictor(model, card(), precision="bf16")
    logits = fast.logits(batch, limits)
    assert np.abs(logits - exact.logits(batch, limits)).max() < 0.1
    np.testing.assert_array_equal(fast.masks(batch, limits), logits.argmax(1))
    np.testing.assert_allclose(fast.scores(batch, limits).sum(axis=1), 1, rtol=1e-6)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_the_same_bytes_every_time(model, precision):
    batch, limits = tiles(np.uint16)
    first = Predictor(model, card(), precision, threads=1)
    second = Predictor(copy.deepcopy(model), card(), precision, threads=1)
    for method in ("logits", "scores", "masks"):
        results = {getattr(p, method)(batch, limits).tobytes() for p in (first, second, first)}
        assert len(results) == 1


def test_strange_memory_layouts_change_nothing(model):
    batch, limits = tiles(np.uint16)
    predictor = Predictor(model, card(), "fp32")
    expected = predictor.logits(batch, limits)
    read_only = batch.copy()
    read_only.flags.writeable = False
    for same in (read_only, batch.astype(">u2"), batch[:, :, ::-1].copy()[:, :, ::-1], np.asfortranarray(batch)):
        np.testing.assert_array_equal(predictor.logits(same, limits), expected)


def test_the_callers_model_and_batch_are_left_alone(model):
    mine = copy.deepcopy(model).train()
    before = {name: tensor.clone() for name, tensor in mine.state_dict().items()}
    batch, limits = tiles(np.float32)
    kept = batch.copy()
    predictor = Predictor(mine, card(), "fp32")
    np.testing.assert_allclose(predictor.logits(batch, limits), Predictor(model, card(), "fp32").logits(batch, limits))
    assert mine.training
    assert mine.state_dict().keys() == before.keys()
    assert all(torch.equal(before[name], tensor) for name, tensor in mine.state_dict().items())
    np.testing.assert_array_equal(batch, kept)


def test_batch_norms_are_folded_and_the_numbers_stay(model):
    folded = fold_norms(nn.Sequential(copy.deepcopy(model)))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), model(images), rtol=0, atol=1e-4)
    own = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, track_running_stats=False)).eval()
    assert isinstance(fold_norms(own)[1], nn.BatchNorm2d)


def test_values_outside_the_limits_are_not_clipped():
    one = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        one.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        one.bias.zero_()
    predictor = Predictor(one, card(classes=2, stride=1), "fp32")
    logits = predictor.logits(np.array([0, 100, 200, 250], np.uint8).reshape(1, 1, 2, 2), (100, 200))
    assert logits[0, 0].ravel().tolist() == [-1.0, 0.0, 1.0, 1.5]


@settings(deadline=None, max_examples=60)
@given(
    classes=st.integers(1, 6),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9)),
    channels_last=st.booleans(),
    data=st.data(),
)
def test_largest_is_the_first_maximum(classes, shape, channels_last, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    # Few distinct values, so that ties are everywhere.
    logits = np.random.default_rng(seed).integers(-2, 3, (shape[0], classes, *shape[1:])).astype(np.float32)
    tensor = torch.from_numpy(logits)
    if channels_last:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    result = largest(tensor)
    assert result.dtype == torch.uint8
    np.testing.assert_array_equal(result.numpy(), logits.argmax(axis=1))


def test_largest_over_many_strips_and_many_classes():
    logits = np.random.default_rng(0).integers(0, 200, (1, 255, 3, 40_000)).astype(np.float32)
    np.testing.assert_array_equal(largest(torch.from_numpy(logits)).numpy(), logits.argmax(axis=1))


def test_wrong_arguments_are_named(model):
    predictor = Predictor(model, card(), "fp32")
    with pytest.raises(ValueError, match=r"shape \(1, 2, 8, 8\): the model needs \(n, 1, y, x\)"):
        predictor.masks(np.zeros((1, 2, 8, 8), np.uint8), (0, 255))
    with pytest.raises(ValueError, match="batch of float64"):
        predictor.masks(np.zeros((1, 1, 8, 8)), (0, 255))
    with pytest.raises(ValueError, match="stride 4"):
        predictor.masks(np.zeros((1, 1, 8, 9), np.uint8), (0, 255))
    with pytest.raises(ValueError, match="gives 3 classes, its card names 2"):
        Predictor(model, card(classes=2), "fp32").masks(np.zeros((1, 1, 8, 8), np.uint8), (0, 255))
    with pytest.raises(ValueError, match="precision 'fp64'"):
        Predictor(model, card(), "fp64")
    with pytest.raises(ValueError, match="threads 0"):
        Predictor(model, card(), threads=0)


def test_a_checkpoint_predicts_what_the_model_did(model, tmp_path):
    save_checkpoint(tmp_path / "best", model, card())
    predictor = load_predictor(tmp_path / "best", precision="fp32", threads=1)
    assert torch.get_num_threads() == 1
    assert (predictor.classes, predictor.stride) == (3, 4)
    assert predictor.digest == read_card_and_digest(tmp_path / "best")[1]
    batch, limits = tiles(np.uint8)
    np.testing.assert_array_equal(
        predictor.logits(batch, limits), Predictor(model, card(), "fp32").logits(batch, limits)
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.uint32, np.float32])
def test_cuda_equals_cpu(model, dtype):
    batch, limits = tiles(dtype)
    device, host = (Predictor(model, card(), "fp32", name) for name in ("cuda", "cpu"))
    np.testing.assert_allclose(device.logits(batch, limits), host.logits(batch, limits), rtol=0, atol=1e-4)
    fast = Predictor(model, card(), "bf16", "cuda")
    np.testing.assert_array_equal(fast.masks(batch, limits), fast.logits(batch, limits).argmax(1))
    assert fast.logits(batch, limits).tobytes() == fast.logits(batch, limits).tobytes()


def test_a_model_with_clahe_says_that_it_is_unsafe(checkpoint, pairs, tmp_path, microseg):
    from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint
    from microseg_ray.runs.plan import engine_plan, verdict_of
    from microseg_ray.settings import Scaling, SegmentSettings

    model, card = load_checkpoint(checkpoint)
    equalised = card.model_copy(update={"scaling": Scaling(clahe=0.02)})
    save_checkpoint(tmp_path / "clahe", model, equalised)
    chosen = {"archive": str(pairs / "images"), "output": str(tmp_path / "run")}
    plan = engine_plan(SegmentSettings(**chosen, checkpoint=str(tmp_path / "clahe")), equalised)
    assert (plan.verdict, plan.reason) == ("unsafe", "CLAHE equalises each tile by itself")
    assert verdict_of(plan.engine, card) == ("exact", "")
    batch = np.random.default_rng(1).integers(0, 255, (2, 1, 64, 64), np.uint8)
    plain = Predictor(model, card, "fp32", threads=1)
    seen = model_input(torch.from_numpy(batch), (0.0, 255.0), clahe=0.02).numpy()
    found = Predictor(model, equalised, "fp32", threads=1).logits(batch, (0, 255))
    np.testing.assert_array_equal(found, plain.logits(seen, (0, 1)))
    assert not np.array_equal(found, plain.logits(batch, (0, 255)))


def test_the_tile_job_warns_of_clahe_and_training_uses_it(pairs, tmp_path, microseg):
    from microseg_ray.fitting.batches import Tiles
    from microseg_ray.tiles.store import TileStore

    options = ["--images", pairs / "images", "--masks", pairs / "masks", "--classes", '["a", "b", "c"]']
    options += ["--tile", 32, "--overlap", 0, "--workers", 0]
    ran = microseg("tile", *options, "--output", tmp_path / "plain")
    assert (ran.code, "warning" in ran.out) == (0, False)
    ran = microseg("tile", *options, "--output", tmp_path / "tiles", "--scaling.clahe", 0.05)
    assert ran.code == 0
    assert "warning: scaling.clahe equalises each tile by itself" in ran.out
    store = TileStore.open(tmp_path / "tiles")
    rows = store.rows("train")[:3]
    images, _, limits = store.read(rows)
    found, _, _ = Tiles(store, rows).read(np.arange(3))
    expected = model_input(torch.from_numpy(images), torch.from_numpy(limits), 0.05)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
