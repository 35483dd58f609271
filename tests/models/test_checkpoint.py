"""Checkpoints: what was saved comes back, a folder is whole or absent, every fault is named."""

import hashlib
import json
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from microseg_ray.errors import CheckpointError
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard, ReceptiveField, read_card, read_card_and_digest
from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint
from microseg_ray.settings import ClassSpec, Scaling

OPTIONS = {"width": 2, "depth": 1, "norm": "batch"}


def make(**changes):
    torch.manual_seed(0)
    model = build_model("unet", 1, 2, OPTIONS)
    values = {
        "architecture": "unet",
        "options": OPTIONS,
        "in_channels": 1,
        "classes": (ClassSpec(name="clay", color="#000000"), ClassSpec(name="pore", color="#ffffff")),
        "scaling": Scaling(kind="percentile", low=1, high=99),
        "pixel_size_um": (0.25, 0.5),
        "receptive_field": ReceptiveField(radius=10, stride=2),
        "training": {"epochs": 3},
        "metrics": {"mean_iou": 0.5},
    }
    return model, ModelCard(**(values | changes))


@pytest.fixture
def folder(tmp_path):
    save_checkpoint(tmp_path / "best", *make())
    return tmp_path / "best"


def edit(folder, **changes):
    """Change keys of model.json; None removes one."""
    path = folder / "model.json"
    document = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))


def reweigh(folder, change):
    """Replace the weights by changed ones, with the checksum that belongs to them."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    edit(folder, weights_sha256=hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest())


def test_what_was_saved_comes_back(folder):
    model, card = make()
    loaded, read = load_checkpoint(folder)
    assert read == card == read_card(folder)
    assert set(read.versions) == {"microseg_ray", "torch", "numpy", "python"}
    assert not loaded.training
    images = torch.rand(1, 1, 8, 8)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model.eval()(images))
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    assert sorted(path.name for path in folder.parent.rglob("*") if path.is_file()) == [
        "model.json",
        "model.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def digest_of(folder):
    return read_card_and_digest(folder)[1]


def test_the_digest_is_that_of_the_content(folder, tmp_path):
    first = digest_of(folder)
    assert len(first) == 64
    save_checkpoint(tmp_path / "again", *make())
    assert digest_of(tmp_path / "again") == first
    save_checkpoint(tmp_path / "other", *make(metrics={"mean_iou": 0.6}))
    assert digest_of(tmp_path / "other") == first, "a metric decides no pixel"


def test_an_existing_checkpoint_is_replaced_and_nothing_is_left_beside_it(folder):
    model, card = make(training={"epochs": 4})
    model.to(memory_format=torch.channels_last)
    save_checkpoint(folder, model, card)
    assert load_checkpoint(folder)[1].training == {"epochs": 4}
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_a_folder_that_is_no_checkpoint_is_not_replaced(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="is no checkpoint, so it is not replaced"):
        save_checkpoint(tmp_path, *make())
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    with pytest.raises(CheckpointError, match="is no checkpoint"):
        save_checkpoint(tmp_path / "thesis.txt", *make())
    (tmp_path / "empty").mkdir()
    save_checkpoint(tmp_path / "empty", *make())
    load_checkpoint(tmp_path / "empty")


def test_a_save_that_is_killed_leaves_the_older_one(folder):
    before = digest_of(folder)
    code = """
        import os, signal, sys
        from pathlib import Path
        import torch
        from microseg_ray.models import build_model
        from microseg_ray.models.card import read_card
        from microseg_ray.models.checkpoint import save_checkpoint
        folder = Path(sys.argv[1])
        card = read_card(folder)
        Path.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        save_checkpoint(folder, build_model("unet", 1, 2, card.options), card)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), str(folder)], check=False)
    assert done.returncode == -9
    assert digest_of(folder) == before
    load_checkpoint(folder)


def test_a_failed_rename_puts_the_older_one_back(folder, monkeypatch):
    from pathlib import Path

    before, rename = digest_of(folder), Path.rename

    def refuse(path, target):
        if path.name.endswith(".partial"):
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, *make(training={}))
    assert digest_of(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == ["best"]


def test_an_interrupted_replacement_is_told(folder):
    folder.rename(folder.with_name(".best.0123.old"))
    with pytest.raises(CheckpointError, match=r"a save was interrupted here: rename .*\.best\.0123\.old to .*best"):
        load_checkpoint(folder)


def test_undefined_metrics_are_null(folder):
    save_checkpoint(folder, *make(metrics={"iou": [float("nan"), 1.0], "loss": {"last": float("inf")}}))
    assert load_checkpoint(folder)[1].metrics == {"iou": [None, 1.0], "loss": {"last": None}}


def test_a_model_that_the_card_does_not_describe_is_not_saved(tmp_path):
    model, card = make()
    with pytest.raises(CheckpointError, match=r"shape \(2, 2, 1, 1\), the architecture has \(3, 2, 1, 1\)"):
        save_checkpoint(
            tmp_path / "a", model, card.model_copy(update={"classes": (*card.classes, ClassSpec(name="silt"))})
        )
    with pytest.raises(CheckpointError, match=r"the architecture has no tensor '0\."):
        save_checkpoint(tmp_path / "a", nn.Sequential(model), card)
    with pytest.raises(CheckpointError, match=r"receptive_field\.stride is 4, but the model's is 2"):
        save_checkpoint(
            tmp_path / "a", model, card.model_copy(update={"receptive_field": ReceptiveField(radius=1, stride=4)})
        )
    with torch.no_grad():
        model.head.weight.fill_(float("nan"))
    with pytest.raises(CheckpointError, match=r"'head\.weight' holds NaN .* diverged"):
        save_checkpoint(tmp_path / "a", model, card)
    assert list(tmp_path.iterdir()) == []


def faults():
    def flip(folder):
        path = folder / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)

    def truncate(folder):
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-9])

    def garbage(folder):
        (folder / "model.safetensors").write_bytes(b"\x80\x04no")
        edit(folder, weights_sha256=hashlib.sha256(b"\x80\x04no").hexdigest())

    def json_text(text):
        return lambda folder: (folder / "model.json").write_text(text)

    def missing(name):
        return lambda folder: (folder / name).unlink()

    return {
        "missing weights": (missing("model.safetensors"), r"model\.safetensors is missing, so this is no whole"),
        "missing card": (missing("model.json"), r"model\.json is missing"),
        "flipped bit": (flip, r"model\.safetensors is not the file that was saved"),
        "truncated": (truncate, r"model\.safetensors is not the file that was saved"),
        "not safetensors": (garbage, r"model\.safetensors is not a safetensors file"),
        "no JSON": (json_text("{"), r"model\.json is not valid JSON"),
        "deep JSON": (json_text("[" * 100_000), r"model\.json is not valid JSON"),
        "list": (json_text("[]"), "must hold keys, not a list"),
        "binary": (lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe\x00"), "is not valid JSON"),
        "unexpected key": (lambda f: edit(f, surprise=1), "surprise: Extra inputs"),
        "missing key": (lambda f: edit(f, classes=None), "classes: Field required"),
        "no classes": (lambda f: edit(f, classes=[]), "classes: "),
        "no checksum": (lambda f: edit(f, weights_sha256=None), "weights_sha256 is missing"),
        "newer": (lambda f: edit(f, format_version=2), r"format_version 2 .*1 to 1"),
        "no version": (lambda f: edit(f, format_version="1"), "format_version '1'"),
        "wrong architecture": (lambda f: edit(f, architecture="resnet"), "unknown architecture 'resnet'"),
        "wrong option": (lambda f: edit(f, options={"wide": 2}), r"model\.wide"),
        "other width": (
            lambda f: edit(f, options={"width": 4, "depth": 1}),
            "tensor 'encoder.0.0.weight' has the shape",
        ),
        "other norm": (lambda f: edit(f, options={"width": 2, "depth": 1, "norm": "none"}), "no tensor"),
        "bomb": (lambda f: edit(f, options={"width": 1 << 20, "depth": 1}), "has the shape"),
        "more classes": (lambda f: edit(f, classes=[{"name": n} for n in "abc"]), "'head.weight' has the shape"),
        "lost tensor": (lambda f: reweigh(f, lambda t: t.pop("head.bias")), "no tensor 'head.bias'"),
        "strange tensor": (lambda f: reweigh(f, lambda t: t.update(x=torch.ones(1))), "no tensor 'x'"),
        "other shape": (
            lambda f: reweigh(f, lambda t: t.update({"head.bias": torch.ones(3)})),
            r"'head.bias' .*\(3,\)",
        ),
        "other type": (
            lambda f: reweigh(f, lambda t: t.update({"head.bias": torch.ones(2).half()})),
            "'head.bias' is .*16",
        ),
        "nan": (lambda f: reweigh(f, lambda t: t["head.bias"].fill_(float("nan"))), "'head.bias' holds NaN"),
    }


@pytest.mark.parametrize("fault", list(faults()))
def test_every_fault_is_refused_and_named(folder, fault):
    spoil, message = faults()[fault]
    spoil(folder)
    with pytest.raises(CheckpointError, match=message) as caught:
        load_checkpoint(folder)
    assert str(caught.value).startswith(str(folder))


def test_a_missing_folder_is_told(tmp_path):
    for read in (load_checkpoint, read_card, digest_of):
        with pytest.raises(CheckpointError, match="no such checkpoint folder; give a folder that the train job wrote"):
            read(tmp_path / "nowhere")


def test_a_huge_card_is_not_read(folder):
    with (folder / "model.json").open("ab") as file:
        file.truncate(1 << 30)
    with pytest.raises(CheckpointError, match="larger than"):
        read_card(folder)
