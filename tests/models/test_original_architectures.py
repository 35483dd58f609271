"""The earlier systems' networks: parameter counts, shapes, gradients, strides, what a tile's border does, determinism."""

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.models import build_model
from microseg_ray.models.architectures.classifier import CoarseFine, build_classifier
from microseg_ray.models.architectures.deeplab import DeepLabV3Plus
from microseg_ray.models.architectures.defectsegnet import DefectSegNet, SymmetricPad
from microseg_ray.models.architectures.layer_text import read_layers, reference_layers, stride_of_layers
from microseg_ray.models.architectures.resnet import ResNetEncoder
from microseg_ray.models.architectures.unet import UNet
from microseg_ray.models.architectures.vgg16_unet import VGG16UNet
from microseg_ray.models.card import ModelCard
from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint
from microseg_ray.models.folding import fold_norms
from microseg_ray.models.footprint import measure_footprint
from microseg_ray.models.predictor import Predictor
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.settings import ClassSpec

CCD = {"width": 32, "depth": 4, "activation": "elu", "dropout": 0.2, "dropout_place": "between"}
SMALL = {
    "unet": CCD | {"norm": "pool", "width": 4, "depth": 2},
    "vgg16_unet": {"input_scaling": "caffe"},
    "deeplabv3plus": {"image_pooling": False},
    "resnet_unet": {"encoder": "resnet18", "input_scaling": "imagenet"},
    "defectsegnet": {},
}


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def settled(name, in_channels=1, classes=3):
    """A model whose running statistics have moved, in evaluation mode."""
    torch.manual_seed(0)
    model = build_model(name, in_channels, classes, SMALL[name])
    with torch.no_grad():
        model(torch.rand(2, in_channels, 64, 64))
    return model.eval()


def test_the_ccd_u_nets_have_the_parameters_of_the_originals():
    newer = build_model("unet", 1, 4, CCD | {"norm": "none"})
    assert count(newer) == 7_759_620
    assert sum(isinstance(m, nn.Conv2d) for m in newer.modules()) == 19
    older = build_model("unet", 3, 4, CCD | {"norm": "pool"})
    assert count(older) + sum(b.numel() for name, b in older.named_buffers() if "running" in name) == 7_762_116


def test_the_dropout_stands_between_the_convolutions_of_a_level():
    kinds = [
        type(layer)
        for layer in UNet(
            1, 2, width=2, depth=1, norm="none", **{k: CCD[k] for k in CCD if k not in {"width", "depth"}}
        ).encoder[0]
    ]
    assert kinds == [nn.Conv2d, nn.ELU, nn.Dropout, nn.Conv2d, nn.ELU]


def test_vgg16_u_net_has_the_parameters_of_the_original_and_its_switches():
    with FakeTensorMode():
        original = VGG16UNet(3, 3)
        assert count(original) == 55_789_763
        images = torch.empty(1, 3, 640, 640)
        assert original(images).shape == (1, 3, 640, 640)
        assert VGG16UNet(3, 3, valid_head=True)(images).shape == (1, 3, 638, 638)
        relus = [
            sum(isinstance(m, nn.ReLU) for m in VGG16UNet(3, 3, linear_decoder=linear).modules()) for linear in (0, 1)
        ]
    assert relus == [13 + 11, 13]
    encoder = [name for name in original.encoder.state_dict() if name.endswith("weight")]
    # The numbers that torchvision's vgg16 gives its convolutions.
    places = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
    assert encoder == [f"features.{place}.weight" for place in places]


@pytest.mark.parametrize(("name", "parameters"), [("resnet50", 23_508_032), ("resnet101", 42_500_160)])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_deeplab_has_the_encoder_stride_rates_and_sizes_of_the_original(name, parameters, output_stride):
    with FakeTensorMode():
        model = DeepLabV3Plus(3, 3, name, output_stride).eval()
        assert count(model.encoder) == parameters
        for shape in ((230, 300), (442, 512)):
            assert model(torch.empty(1, 3, *shape)).shape == (1, 3, *shape)
        deepest = model.encoder(torch.empty(1, 3, 64, 64))[-1]
    assert deepest.shape == (1, 2048, 64 // output_stride, 64 // output_stride)
    assert model.rates == ((6, 12, 18) if output_stride == 16 else (12, 24, 36))
    assert model.low_level[0].out_channels == 48
    assert model.refine[0].in_channels == 256 + 48


def test_resnets_have_the_names_that_torchvision_gave_them():
    names = set(ResNetEncoder("resnet50", 3).state_dict())
    assert len(names) == 318
    assert {"conv1.weight", "bn1.running_mean", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.bias"} <= names
    assert {"layer3.5.conv3.weight", "layer4.2.bn3.num_batches_tracked"} <= names
    assert not any(name.startswith(("fc", "layer2.1.downsample")) for name in names)


def test_dilation_in_place_of_strides_keeps_what_an_output_sees_apart():
    torch.manual_seed(0)
    strided = ResNetEncoder("resnet18", 1, 32).double().eval()
    dilated = ResNetEncoder("resnet18", 1, 8).double().eval()
    dilated.load_state_dict(strided.state_dict())
    with torch.no_grad():
        images = torch.rand(1, 1, 256, 256, dtype=torch.float64)
        # Away from the border the strided map is every fourth value of the dilated one.
        dense, sparse = dilated(images)[-1][..., ::4, ::4], strided(images)[-1]
    torch.testing.assert_close(dense[..., 3:5, 3:5], sparse[..., 3:5, 3:5])


def test_defectsegnet_has_the_parameters_and_channels_of_the_original():
    model = DefectSegNet(1, 1, original_head=True)
    convolutions = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(map(count, convolutions)) == 349_342
    assert sum(map(count, norms)) == 1_088
    assert len(norms) == 20
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (1, 4), (5, 4), (9, 16), (25, 16), (41, 32), (73, 32), (105, 64), (169, 64), (233, 32), (137, 32), (169, 32),
        (201, 16), (57, 16), (73, 16), (89, 8), (17, 4), (21, 1),
    ]  # fmt: skip
    assert [type(layer) for layer in model.head[-3:]] == [nn.Conv2d, nn.Sigmoid, nn.BatchNorm2d]
    logits = DefectSegNet(1, 4)
    assert [type(layer) for layer in logits.head] == [nn.ReplicationPad2d, nn.Conv2d]
    for shape in ((512, 512), (8, 40)):
        with torch.no_grad():
            assert logits(torch.zeros(1, 1, *shape)).shape == (1, 4, *shape)
    with pytest.raises(ValueError, match=r"2 classes: the architecture's own head has 1"):
        DefectSegNet(1, 2, original_head=True)


@pytest.mark.parametrize(("place", "kinds"), [
    ("after", ["ReplicationPad2d", "Conv2d", "ReLU", "BatchNorm2d"]),
    ("before", ["ReplicationPad2d", "Conv2d", "BatchNorm2d", "ReLU"]),
    ("none", ["ReplicationPad2d", "Conv2d", "ReLU"]),
])  # fmt: skip
def test_the_place_of_defectsegnets_norms_is_switchable(place, kinds):
    model = build_model("defectsegnet", 1, 2, {"norm_place": place})
    assert [type(layer).__name__ for layer in model.layers[0]] == kinds


def test_symmetric_padding_is_numpys():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 5, 7, generator=generator)
    for padding in ((1, 1, 1, 1), (0, 2, 3, 0), (4, 1, 0, 2)):
        top, bottom, left, right = padding
        padded = torch.from_numpy(
            np.pad(image.numpy(), ((0, 0), (0, 0), (top, bottom), (left, right)), mode="symmetric")
        )
        assert torch.equal(SymmetricPad(*padding)(image), padded)
    assert torch.equal(nn.ReplicationPad2d(1)(image), SymmetricPad(1, 1, 1, 1)(image))


DROPOUT = """
type:convolution|kernel:5,5|filters:3|strides:1,1|padding:same|activation function:identity|input tensors:0
type:dropout|rate:0.5|input tensors:1

type:convolution|kernel:2,4|filters:1|padding:same|activation function:sigmoid|input tensors:1,2
"""
POOL = """
type:max pool|kernel:2,2|strides:2|padding:valid|activation function:relu|input tensors:0
type:convolution transpose|kernel:2,2|strides:2,2|filters:4|input tensors:1
type:convolution|kernel:1,1|filters:1|activation function:tanh|input tensors:0,2
"""
DENSE = "type:dense|size:7|activation function:tanh|input tensors:0\ntype:dense|size:1|input tensors:0,1"
HAND_MADE = {"dense": (DENSE, 1), "dropout": (DROPOUT, 1), "pool": (POOL, 2)}


@pytest.mark.parametrize("name", HAND_MADE)
def test_hand_made_architecture_files_are_built(name):
    text, stride = HAND_MADE[name]
    model = build_model("defectsegnet", 2, 3, {"layers": text}).eval()
    assert model.stride == stride == stride_of_layers(read_layers(text))
    logits = model(torch.rand(1, 2, 12, 10))
    assert logits.shape == (1, 3, 12, 10)
    logits.sum().backward()


@pytest.mark.parametrize(("line", "says"), [
    ("type:conv|kernel:3,3|filters:4|input tensors:0", "unknown type 'conv'; known are convolution, "),
    ("type:convolution|kernel:3,3|input tensors:0", "needs the key 'filters'"),
    ("type:convolution|kernel:3,3|filters:4", "needs the key 'input tensors'"),
    ("type:convolution|kernel:3,3|filters:four|input tensors:0", "filters:four is not understood"),
    ("type:convolution|kernel:3,3|filters:4|input tensors:0,9", "input tensor 9 comes later: this line makes tensor 2"),
    ("type:convolution|kernel|filters:4|input tensors:0", "'kernel' is not of the form key:value"),
    ("type:convolution|kernel:3,3|filters:4|colour:red|input tensors:0", "has no key 'colour'"),
    ("type:dense|size:4|activation function:gelu|input tensors:0", "unknown activation function 'gelu'"),
    ("type:dense|size:4|size:5|input tensors:0", "the key 'size' is there twice"),
    ("type:max pool|kernel:2,2|strides:3|input tensors:0", "make the two equal"),
    ("type:max pool|kernel:2,2|strides:2|input tensors:1", "the last layer is a max pool"),
    ("type:convolution|kernel:3,3|strides:2,2|filters:1|input tensors:1", "not as large as the image"),
    ("type:convolution transpose|kernel:2|strides:2|filters:1|input tensors:1", "makes maps larger than the image"),
])  # fmt: skip
def test_a_bad_line_is_named(line, says):
    good = "type:convolution|kernel:3,3|filters:4|input tensors:0"
    with pytest.raises(InputError, match=rf"^arch\.txt: line 3: .*{says}"):
        read_layers(f"{good}\n\n{line}\n", "arch.txt")
    with pytest.raises(SettingsError, match=r"model\.layers: architecture: line 3: "):
        build_model("defectsegnet", 1, 2, {"layers": f"{good}\n\n{line}\n"})


def test_tensors_of_different_sizes_are_not_joined():
    pool = "type:max pool|kernel:2|strides:2|input tensors:0"
    with pytest.raises(InputError, match="line 2: joins tensors of different sizes"):
        read_layers(f"{pool}\ntype:dense|size:1|input tensors:0,1")
    assert len(read_layers(reference_layers())) == 20


@pytest.mark.parametrize("name", SMALL)
def test_gradients_reach_every_parameter(name):
    torch.manual_seed(1)
    model = build_model(name, 3, 4, SMALL[name])
    logits = model(torch.rand(2, 3, 64, 32))
    assert logits.shape == (2, 4, 64, 32)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()] == []


@pytest.mark.parametrize("name", SMALL)
def test_an_image_alone_is_predicted_as_in_a_batch_of_eight(name):
    # In float64, so that what is left is what the model makes of its neighbours and not how convolutions add.
    model = settled(name).double()
    batch = torch.rand(8, 1, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        together, alone = model(batch), torch.cat([model(image[None]) for image in batch])
    torch.testing.assert_close(alone, together, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", SMALL)
def test_a_side_that_is_no_multiple_of_the_stride_is_refused(name):
    model = settled(name)
    if name != "deeplabv3plus":
        with pytest.raises(ValueError, match=f"stride {model.stride}; pad"):
            model(torch.zeros(1, 1, model.stride, model.stride + 1))


@pytest.mark.parametrize(
    "name", ["unet", "resnet_unet", "defectsegnet", pytest.param("vgg16_unet", marks=pytest.mark.slow)]
)
def test_a_tile_with_the_halo_predicts_what_the_whole_image_does(name):
    model = settled(name)
    field = measure_receptive_field(model, 1)
    assert field.tile_dependent == ()
    core, halo, thin = field.stride, field.halo, 2 * field.stride
    image = torch.rand(1, 1, core + 2 * halo + 2 * field.stride, thin)
    with torch.inference_mode():
        start = halo + field.stride
        whole = model(image)[:, :, start : start + core]
        tile = model(image[:, :, start - halo : start + core + halo])[:, :, halo : halo + core]
    torch.testing.assert_close(tile, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16])
def test_deeplab_without_image_pooling_is_tile_invariant(output_stride):
    torch.manual_seed(0)
    model = DeepLabV3Plus(1, 3, output_stride=output_stride, image_pooling=False).eval()
    field = measure_receptive_field(model, 1)
    image = torch.rand(1, 1, 2 * field.halo + 96, 64)
    with torch.inference_mode():
        start = field.halo + 32
        whole = model(image)[:, :, start : start + 32]
        tile = model(image[:, :, start - field.halo : start + 32 + field.halo])[:, :, field.halo : field.halo + 32]
    assert field.tile_dependent == ()
    torch.testing.assert_close(tile, whole, rtol=1e-4, atol=1e-5)


def test_image_pooling_is_said_to_see_the_whole_tile():
    field = measure_receptive_field(DeepLabV3Plus(1, 2).eval(), 1)
    assert field.tile_dependent == ("pyramid.pooling.0 (AdaptiveAvgPool2d)",)


@pytest.mark.parametrize("name", ["resnet_unet", "defectsegnet", "unet"])
def test_folded_norms_predict_the_same(name):
    model = settled(name)
    images = torch.rand(1, 1, 64, 32)
    with torch.inference_mode():
        wanted = model(images)
        folded = fold_norms(model)
        torch.testing.assert_close(folded(images), wanted, rtol=1e-3, atol=1e-4)
    if name == "resnet_unet":
        assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("resnet_unet", "defectsegnet")), "unet"]
)
def test_a_checkpoint_comes_back_and_predicts(name, tmp_path):
    model = settled(name)
    card = ModelCard(
        architecture=name,
        options=SMALL[name],
        in_channels=1,
        classes=tuple(ClassSpec(name=item) for item in ("matrix", "grain", "pore")),
        receptive_field=measure_receptive_field(model, 1),
        footprint=measure_footprint(model, 1),
    )
    assert card.footprint.fp32 > 0
    save_checkpoint(tmp_path / "best", model, card)
    loaded, again = load_checkpoint(tmp_path / "best")
    assert again == card
    images = torch.randint(0, 256, (1, 1, 64, 64), dtype=torch.uint8)
    with torch.inference_mode():
        assert torch.equal(loaded(images / 255), model(images / 255))
    assert Predictor(loaded, card, "bf16").masks(images.numpy(), (0, 255)).shape == (1, 64, 64)


def test_input_scaling_is_that_of_the_published_weights():
    model = build_model("vgg16_unet", 3, 2, {"input_scaling": "caffe"})
    scaled = model.scaling(torch.tensor([1.0, 0.5, 0.0]).reshape(1, 3, 1, 1)).flatten()
    # Blue, green, red, 0 to 255, less ImageNet's mean.
    torch.testing.assert_close(scaled, torch.tensor([-103.939, 127.5 - 116.779, 255 - 123.68]), rtol=0, atol=1e-4)
    grey = build_model("resnet_unet", 1, 2, SMALL["resnet_unet"]).scaling(torch.full((1, 1, 1, 1), 0.449))
    assert abs(float(grey)) < 1e-6


def test_the_classifier_has_the_parameters_of_the_original():
    model = build_classifier()
    assert count(model) == 1_653_937
    assert model.dense.in_features == 12_800
    assert model(torch.zeros(2, 3, 432, 288)).shape == (2, 2)
    with torch.no_grad():
        images = torch.rand(3, 3, 432, 288)
        logits = model.eval()(images)
        features = model.activation(model.dense(model.features(images).flatten(1)))
        torch.testing.assert_close(logits.softmax(1)[:, 1:], model.head(features).sigmoid())
    assert count(build_classifier(classes=3)) == 1_653_937 + 2 * 129


def test_the_classifier_names_what_it_cannot_do(tmp_path):
    with pytest.raises(SettingsError, match="1 classes: a classifier needs two or more"):
        build_classifier(1, 1)
    with pytest.raises(SettingsError, match="30 x 288 px are too small"):
        build_classifier(height=30)
    model = build_model("coarse_fine", 1, 2, {"height": 64, "width": 50})
    assert isinstance(model, CoarseFine)
    with pytest.raises(ValueError, match=r"images of 64 x 64 px .* sees 64 x 50; resize"):
        model(torch.zeros(1, 1, 64, 64))
    field = measure_receptive_field(model, 1)
    assert field.tile_dependent == ("model (one class for the whole micrograph)",)
    card = ModelCard(
        architecture="coarse_fine",
        options={"height": 64, "width": 50},
        in_channels=1,
        classes=(ClassSpec(name="coarse"), ClassSpec(name="fine")),
        receptive_field=field,
    )
    save_checkpoint(tmp_path / "best", model, card)
    assert load_checkpoint(tmp_path / "best")[0].size == (64, 50)
