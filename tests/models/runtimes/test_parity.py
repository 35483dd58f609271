"""A predictor on OpenVINO gives what one on torch gives, for every architecture, type and size; and never a class for NaN."""

import numpy as np
import pytest
import torch

from microseg_ray.errors import MicrosegError, RuntimeUnfitError
from microseg_ray.geometry import Box
from microseg_ray.models import ARCHITECTURES, CLASSIFIERS, build_model
from microseg_ray.models.card import ModelCard, ReceptiveField
from microseg_ray.models.predictor import Predictor
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.models.runtimes.choose import CONVERTED
from microseg_ray.settings import ClassSpec
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window

pytest.importorskip("openvino")

SMALL = {
    "unet": {"width": 4, "depth": 2},
    "resunet": {"width": 4, "depth": 2, "detail": 4},
    "efficientnet_unet": {"stages": 3, "width": 4, "detail": 2},
    "efficientnet_deeplab": {"stages": 3, "width": 8, "detail": 2},
    "vgg16_unet": {},
    "deeplabv3plus": {},
    "resnet_unet": {},
    "defectsegnet": {},
    "coarse_fine": {"height": 64, "width": 48},
}
# Those that take long; a norm over groups is converted as one over each channel is.
SLOW = {"defectsegnet", "efficientnet_unet", "vgg16_unet", "deeplabv3plus", "resnet_unet", "unet instance"}
NORMS = {"unet group": ("unet", {"norm": "group"}), "unet instance": ("unet", {"norm": "instance"})}
CASES = {name: (name, options) for name, options in SMALL.items()} | {
    name: (architecture, SMALL[architecture] | options) for name, (architecture, options) in NORMS.items()
}


def made(architecture, options, channels=1, classes=3):
    torch.manual_seed(0)
    model = build_model(architecture, channels, classes, options).eval()
    card = ModelCard(
        architecture=architecture,
        options=options,
        in_channels=channels,
        classes=tuple(ClassSpec(name=f"class {index}") for index in range(classes)),
        receptive_field=ReceptiveField(radius=20, stride=getattr(model, "stride", 1)),
    )
    return model, card


@pytest.fixture(scope="module")
def small():
    return made("resunet", SMALL["resunet"])


@pytest.fixture(scope="module")
def pair(small):
    return tuple(Predictor(*small, "fp32", runtime=runtime) for runtime in ("torch", "openvino"))


@pytest.fixture(scope="module")
def fast(small):
    return Predictor(*small, "bf16", threads=1, runtime="openvino")


def noise(shape, dtype="uint8", seed=0):
    values = np.random.default_rng(seed).random(shape)
    return (values * (1 if dtype == "float32" else min(np.iinfo(dtype).max, 10**6))).astype(dtype)


def test_every_architecture_is_tried():
    assert set(CONVERTED) | {"timm", "smp"} == {*ARCHITECTURES, *CLASSIFIERS}
    assert set(SMALL) == set(CONVERTED)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.slow] if SLOW & {case, CASES[case][0]} else []) for case in CASES],
)
def test_logits_of_every_architecture_are_those_of_torch(case):
    architecture, options = CASES[case]
    model, card = made(architecture, options, channels=3)
    stride = card.receptive_field.stride
    size = (64, 48) if architecture in CLASSIFIERS else (3 * stride, 2 * stride)
    batch = noise((2, 3, *size))
    expected = Predictor(model, card, "fp32").logits(batch, (0, 255))
    found = Predictor(model, card, "fp32", runtime="openvino").logits(batch, (0, 255))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("size", [(16, 16), (36, 20), (4, 44)])
def test_the_four_results_are_those_of_torch(pair, dtype, size):
    batch = noise((3, 1, *size), dtype)
    limits = (float(batch.min()), float(batch.max()))
    torch_logits, logits = (each.logits(batch, limits) for each in pair)
    np.testing.assert_allclose(logits, torch_logits, rtol=0, atol=1e-4)
    masks, scores = pair[1].masks_and_scores(batch, limits)
    np.testing.assert_array_equal(masks, logits.argmax(axis=1))
    np.testing.assert_array_equal(pair[1].masks(batch, limits), masks)
    np.testing.assert_array_equal(pair[1].scores(batch, limits), scores)
    two = np.sort(torch_logits, axis=1)[:, -2:]
    flips = masks != pair[0].masks(batch, limits)
    assert not flips[(two[:, 1] - two[:, 0]) > 1e-4].any()


def test_narrow_limits_lose_nothing_in_bf16(small, fast):
    # Rounded to bfloat16 before they are scaled, values near 30000 would differ by 128.
    batch = noise((1, 1, 32, 32)).astype(np.uint16) + 30000
    np.testing.assert_array_equal(
        fast.logits(batch, (30000, 30255)), fast.logits((batch - 30000).astype(np.uint8), (0, 255))
    )


def test_the_same_bytes_every_time_and_in_any_batch(small, fast):
    batch = noise((3, 1, 32, 48))
    again = Predictor(*small, "bf16", threads=1, runtime="openvino")
    for method in ("masks", "scores", "logits"):
        whole = getattr(fast, method)(batch, (0, 255))
        single = np.concatenate([getattr(again, method)(batch[slot : slot + 1], (0, 255)) for slot in (2, 0, 1)])
        assert single[[1, 2, 0]].tobytes() == whole.tobytes()


@pytest.mark.parametrize("blend", ["crop", "hann"])
def test_stitched_is_whole(small, fast, blend):
    model, _ = small
    image = noise((1, 190, 218))
    halo = measure_receptive_field(model, 1).halo
    plan = EnginePlan(tile=2 * halo + 32, halo=halo, stride=model.stride, shard=256, batch=2, blend=blend)
    grid = engine_grid((190, 218), plan)
    assert len(grid) > 1
    box = Box(0, 0, 190, 218)
    region, _ = shard_window(grid, box, plan)
    stitched = predict_shard(image[(..., *region.slices)], fast, grid, box, plan, (0, 255)).mask
    padded = np.pad(image, ((0, 0), (0, 2), (0, 2)), mode="reflect")
    whole = fast.masks(padded[None], (0, 255))[0, :190, :218]
    assert np.count_nonzero(stitched != whole) <= (0 if blend == "crop" else whole.size // 20)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_a_pixel_that_is_no_number_is_an_error(fast, value):
    # OpenVINO's ReLU makes 0 of NaN: the pixel would become a class.
    batch = noise((2, 1, 16, 16), "float32")
    batch[1, 0, 3, 4] = value
    for method in ("masks", "scores", "logits", "masks_and_scores"):
        with pytest.raises(MicrosegError, match=r"1 pixels are NaN, infinite or, scaled, beyond 1e\+15"):
            getattr(fast, method)(batch, (0, 1))


def test_a_model_that_overflows_is_an_error():
    model, card = made("unet", SMALL["unet"])
    convolutions = [module for module in model.modules() if isinstance(module, torch.nn.Conv2d)]
    for module in convolutions:
        module.weight.data *= 1e12
    with pytest.raises(MicrosegError, match="the model's output is NaN or infinite"):
        Predictor(model, card, "fp32", runtime="openvino")


def test_a_model_that_overflows_early_refuses_smaller_pixels():
    model, card = made("resunet", SMALL["resunet"])
    next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d)).weight.data *= 1e24
    batch = noise((1, 1, 16, 16), "float32")
    predictor = Predictor(model, card, "fp32", runtime="openvino")
    with pytest.raises(MicrosegError, match=r"beyond (1e\+09|1000), so"):
        predictor.masks(batch * 1e12, (0, 1))


def test_many_classes_are_compared_too():
    model, card = made("unet", SMALL["unet"], classes=12)
    predictor = Predictor(model, card, "fp32", runtime="openvino")
    batch = noise((1, 1, 16, 16))
    np.testing.assert_array_equal(predictor.masks(batch, (0, 255)), predictor.logits(batch, (0, 255)).argmax(axis=1))


def test_ties_go_to_the_lower_class():
    class Tied(torch.nn.Module):
        def forward(self, images):
            return torch.cat([images - 1, images, images], dim=1)

    _, card = made("unet", SMALL["unet"])
    predictor = Predictor(Tied(), card, "bf16", runtime="openvino")
    assert (predictor.masks(noise((1, 1, 8, 8)), (0, 255)) == 1).all()


def test_a_conversion_that_computes_something_else_is_found(small, monkeypatch):
    from microseg_ray.models.runtimes.images import ImageNetwork

    right = ImageNetwork.logits
    monkeypatch.setattr(ImageNetwork, "logits", lambda self, image: right(self, image) + 0.1)
    with pytest.raises(RuntimeUnfitError, match="other logits than torch on a tile of noise"):
        Predictor(*small, "bf16", runtime="openvino")


def test_few_sizes_stay_compiled(pair, monkeypatch):
    from microseg_ray.models.runtimes import images

    monkeypatch.setattr(images, "FREE_PIXELS", 2000)
    network = pair[1]._network.by(pair[1].runtime)
    for side in (16, 32, 20, 40, 24):
        network.logits(torch.zeros(1, 1, side, side))
        kept = [shape[-1] for shape in network._sized]
        assert kept[-1] == side
        assert len(kept) == 1 or sum(edge**2 for edge in kept) <= 2000
