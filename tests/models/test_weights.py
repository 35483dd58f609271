"""Weights from elsewhere: names, wrappings, other channels, what is missing, and files that are none."""

import pickle

import pytest
import torch
from safetensors.torch import save_file

from microseg_ray.errors import InputError
from microseg_ray.models import build_model
from microseg_ray.models.architectures.vgg16_unet import VGG16Encoder
from microseg_ray.models.weights import load_weights, read_weights


def torchvision_resnet18():
    """A state dict in torchvision's layout, its classifier with it, all different from any fresh start."""
    encoder = build_model("resnet_unet", 3, 2, {"encoder": "resnet18"}).encoder
    generator = torch.Generator().manual_seed(7)
    tensors = {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for name, tensor in encoder.state_dict().items()
    }
    return tensors | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.fixture(scope="module")
def tensors():
    return torchvision_resnet18()


def fresh(channels=3):
    return build_model("resnet_unet", channels, 2, {"encoder": "resnet18"})


@pytest.mark.parametrize("wrap", [
    lambda tensors: tensors,
    lambda tensors: {"epoch": 3, "state_dict": {f"module.{name}": t for name, t in tensors.items()}},
    lambda tensors: {"model": {f"module.encoder.{name}": t for name, t in tensors.items()}},
    lambda tensors: {"state_dict": {"model": {f"encoder.{name}": t for name, t in tensors.items()}}},
])  # fmt: skip
def test_every_wrapping_fills_the_encoder(tensors, wrap, tmp_path):
    path = tmp_path / "weights.pth.tar"
    torch.save(wrap(tensors), path)
    model = fresh()
    head = model.head.weight.clone()
    loaded = load_weights(model, str(path))
    assert len(loaded.matched) == 120
    assert loaded.missing == loaded.unexpected == loaded.adapted == ()
    for name, tensor in model.encoder.state_dict().items():
        assert torch.equal(tensor, tensors[name]), name
    assert torch.equal(model.head.weight, head)


def test_safetensors_and_a_url_are_read_too(tensors, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(tensors, path)
    loaded = load_weights(fresh(), path.as_uri())
    assert (loaded.part, set(loaded.dropped)) == ("encoder", {"fc.bias", "fc.weight"})


def test_missing_and_unexpected_names_are_told(tensors, tmp_path):
    path = tmp_path / "weights.pth"
    less = {name: t for name, t in tensors.items() if not name.startswith("layer4.1.") and "num_batches" not in name}
    torch.save(less | {"extra.weight": torch.zeros(1)}, path)
    loaded = load_weights(fresh(), str(path))
    assert loaded.unexpected == ("extra.weight",)
    assert len(loaded.missing) == 10
    assert all(name.startswith("layer4.1.") for name in loaded.missing)
    line = str(loaded)
    assert "90 of 100 tensors of the encoder" in line
    assert "missing: 10 (layer4.1.conv1.weight, " in line
    assert "unexpected: 1 (extra.weight)" in line
    assert "classifier and unused stages left out: 2" in line


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_equal_channels_give_what_grey_rgb_gave(tensors, channels, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(tensors, path)
    rgb, other = fresh(), fresh(channels)
    load_weights(rgb, str(path))
    assert load_weights(other, str(path)).adapted == ("conv1.weight",)
    grey = torch.rand(1, 1, 32, 32)
    with torch.no_grad():
        wanted = rgb.encoder.conv1(grey.expand(-1, 3, -1, -1))
        got = other.encoder.conv1(grey.expand(-1, channels, -1, -1))
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-3)


def test_vgg_and_deeplab_take_their_encoders_files(tensors, tmp_path):
    vgg = {name: torch.full_like(t, 0.5) for name, t in VGG16Encoder(3).state_dict().items()}
    torch.save(vgg | {"classifier.0.weight": torch.zeros(2)}, tmp_path / "vgg16.pth")
    loaded = load_weights(build_model("vgg16_unet", 1, 2, {}), str(tmp_path / "vgg16.pth"))
    assert (len(loaded.matched), loaded.missing, loaded.dropped) == (26, (), ("classifier.0.weight",))
    deeplab = build_model("deeplabv3plus", 3, 2, {})
    torch.save({"layer4.2.conv3.weight": torch.ones(2048, 512, 1, 1)}, tmp_path / "part.pth")
    assert load_weights(deeplab, str(tmp_path / "part.pth")).matched == ("layer4.2.conv3.weight",)
    assert bool((deeplab.encoder.layer4[2].conv3.weight == 1).all())


def test_a_checkpoint_of_the_same_architecture_fills_the_whole_model(checkpoint):
    model = build_model("unet", 1, 3, {"width": 4, "depth": 2})
    loaded = load_weights(model, str(checkpoint))
    assert (loaded.part, loaded.missing, loaded.unexpected) == ("model", (), ())
    saved = read_weights(str(checkpoint))
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


class Bad:
    def __reduce__(self):
        return (print, ("run",))


def test_files_that_do_not_fit_are_refused_by_name(tensors, tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save(tensors | {"layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}, path)
    with pytest.raises(InputError, match=r"'layer1\.0\.conv1\.weight' has the shape \(64, 64, 1, 1\), the model's"):
        load_weights(fresh(), str(path))
    torch.save(tensors | {"bn1.bias": torch.full((64,), float("nan"))}, path)
    with pytest.raises(InputError, match=r"'bn1\.bias' holds NaN"):
        load_weights(fresh(), str(path))
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"none of its 1 tensors \(a, \.\.\.\) belongs to this model"):
        load_weights(fresh(), str(path))
    torch.save({"epoch": 3}, path)
    with pytest.raises(InputError, match="holds no tensors by name"):
        read_weights(str(path))
    path.write_bytes(pickle.dumps(Bad(), protocol=2))
    with pytest.raises(InputError, match="is no file of weights"):
        read_weights(str(path))
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is no file of weights"):
        read_weights(str(path))
    assert capsys.readouterr().out == ""
