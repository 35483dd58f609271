"""Parts of a model that learn at rates of their own: an encoder that is slower, that waits, or whose norms are frozen."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.fitting.groups import OF_ENCODER, SHARE, parameter_groups
from microseg_ray.fitting.setup import optimizer_of
from microseg_ray.fitting.train import StopFit, train
from microseg_ray.models import build_model, published
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.models.published import PUBLISHED, published_file
from microseg_ray.models.weights import read_weights
from microseg_ray.settings import OptimizerSettings, TrainSettings

MODEL = {"name": "efficientnet_unet", "stages": 2, "width": 2, "detail": 2}


def settings(tiles, output, **options) -> TrainSettings:
    chosen = {"tiles": str(tiles), "output": str(output), "epochs": 2, "batch": 4, "steps_per_epoch": 2, "workers": 0}
    chosen |= {"threads": torch.get_num_threads(), "precision": "fp32", "model": MODEL, "augment": False}
    return TrainSettings(**{**chosen, **options})


def tensors_of(folder, *, encoder):
    model = load_checkpoint(folder)[0]
    return {name: value for name, value in model.state_dict().items() if name.startswith("encoder.") == encoder}


def same(one, other):
    return {name: torch.equal(one[name], other[name]) for name in one}


def test_each_stage_has_its_share_and_every_parameter_is_in_one_group():
    model = build_model("efficientnet_unet", 1, 3, {"stages": 4, "width": 2})
    chosen = OptimizerSettings(encoder_rate=0.5, stage_decay=0.1, weight_decay=0.3)
    groups = parameter_groups(model, chosen)
    shares = {id(value): (group[SHARE], group["weight_decay"]) for group in groups for value in group["params"]}
    assert len(shares) == sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    # By hand: which blocks of lite0 end in the feature maps of 1/2, 1/4, 1/8 and 1/16.
    last_blocks = (0, 2, 4, 10)
    for name, value in model.named_parameters():
        expected = 1.0
        if name.startswith("encoder."):
            block = int(name.split(".")[2]) if name.startswith("encoder._blocks.") else 0
            stage = sum(block > last for last in last_blocks)
            expected = 0.5 * 0.1 ** (3 - stage)
        assert shares[id(value)] == (pytest.approx(expected), 0.3 if value.ndim > 1 else 0.0), name


def test_without_these_settings_the_groups_are_the_two_of_earlier_fits():
    model = build_model("efficientnet_unet", 1, 3, {"stages": 2, "width": 2})
    groups = optimizer_of(model, OptimizerSettings(weight_decay=0.2)).param_groups
    assert [(group["weight_decay"], group[SHARE], group[OF_ENCODER]) for group in groups] == [
        (0.2, 1.0, False),
        (0.0, 1.0, False),
    ]
    assert [len(group["params"]) for group in groups] == [
        sum(value.ndim > 1 for value in model.parameters()),
        sum(value.ndim <= 1 for value in model.parameters()),
    ]


@pytest.mark.parametrize(("model", "options", "message"), [
    (nn.Conv2d(1, 2, 1), {"encoder_rate": 0.5}, "Conv2d has no encoder of its own"),
    (build_model("unet", 1, 2, {"width": 2, "depth": 1}), {"stage_decay": 0.5}, r"stage_decay: 0\.5 needs an encoder whose"),
])  # fmt: skip
def test_a_model_without_such_an_encoder_is_refused(model, options, message):
    with pytest.raises(SettingsError, match=message):
        parameter_groups(model, OptimizerSettings(**options))


def test_an_encoder_whose_stages_are_unknown_can_still_be_slower():
    model = build_model("unet", 1, 2, {"width": 2, "depth": 1})
    slow = [group for group in parameter_groups(model, OptimizerSettings(encoder_rate=0.25)) if group[OF_ENCODER]]
    assert {group[SHARE] for group in slow} == {0.25}
    assert sum(len(group["params"]) for group in slow) == len(list(model.encoder.parameters()))


@pytest.mark.parametrize("name", ["resnet_unet", "deeplabv3plus"])
def test_resnets_have_stages_too(name):
    with torch.device("meta"):
        model = build_model(name, 1, 2, {})
    groups = parameter_groups(model, OptimizerSettings(stage_decay=0.5))
    assert sorted({group[SHARE] for group in groups if group[OF_ENCODER]}) == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]


def test_a_held_encoder_keeps_its_weights_and_then_learns_at_its_own_rate(tiles, tmp_path):
    """SGD without momentum and decay: a step is minus rate times gradient, so rates can be read off the weights."""
    pytest.importorskip(PUBLISHED["efficientnet_lite0"].module)
    sgd = {"name": "sgd", "momentum": 0, "weight_decay": 0, "schedule": "constant", "warmup": 0, "learning_rate": 1e-2}
    chosen = {"model": MODEL | {"weights": "imagenet"}, "keep": 2}
    start = read_weights(published_file("efficientnet_lite0"))
    weights = "_blocks.1._project_conv.weight", "_blocks.2._bn1.weight", "_blocks.0._bn2.bias"

    def moved(output, epoch):
        now = tensors_of(tmp_path / output / "epochs" / epoch, encoder=True)
        return {name: now[f"encoder.{name}"] - start[name] for name in weights}

    train(settings(tiles, tmp_path / "held", optimizer=sgd | {"hold_encoder": 0.5}, **chosen))
    assert not any(value.any() for value in moved("held", "0001").values())
    assert all(value.any() for value in moved("held", "0002").values())
    decoders = [tensors_of(tmp_path / f"held/epochs/000{epoch}", encoder=False) for epoch in (1, 2)]
    assert not any(torch.equal(decoders[0][name], decoders[1][name]) for name in ("head.weight", "up.0.weight"))
    # One step from the same start: the encoder moves by a tenth of what it would, the decoder by all.
    one = {"epochs": 1, "steps_per_epoch": 1, **chosen}
    train(settings(tiles, tmp_path / "whole", **one, optimizer=sgd))
    train(settings(tiles, tmp_path / "tenth", **one, optimizer=sgd | {"encoder_rate": 0.1}))
    far, near = moved("whole", "0001"), moved("tenth", "0001")
    for name in weights:
        assert far[name].any()
        torch.testing.assert_close(near[name], far[name] / 10, rtol=0.05, atol=1e-6)
    parts = [tensors_of(tmp_path / output / "last", encoder=False) for output in ("whole", "tenth")]
    assert all(same(*parts).values())


def _stop_after(epoch):
    def report(progress):
        if progress.last is not None and progress.last["epoch"] == epoch:
            raise StopFit

    return report


def test_frozen_norms_of_the_encoder_keep_weights_and_statistics_and_the_decoders_do_not(tiles, tmp_path):
    fit = train(settings(tiles, tmp_path / "fit", model=MODEL | {"weights": "scratch"}, freeze_batch_norm="encoder"))
    for name, value in load_checkpoint(fit.last)[0].state_dict().items():
        if "running_mean" in name:
            assert bool((value == 0).all()) == name.startswith("encoder."), name
        if name.startswith("encoder.") and "_bn" in name and name.endswith(".weight"):
            assert bool((value == 1).all()), name
    chosen = settings(tiles, tmp_path / "none", model={"name": "defectsegnet"}, freeze_batch_norm="encoder")
    with pytest.raises(SettingsError, match=r"train\.freeze_batch_norm: DefectSegNet has no encoder of its own"):
        train(chosen)


def test_a_pre_trained_fit_resumes_bit_for_bit(tiles, tmp_path):
    pytest.importorskip(PUBLISHED["efficientnet_lite0"].module)
    chosen = {
        "model": MODEL | {"weights": "imagenet"},
        "optimizer": {"encoder_rate": 0.3, "stage_decay": 0.7, "hold_encoder": 0.4},
        "freeze_batch_norm": "encoder",
        "ema": 0.9,
    }
    whole = train(settings(tiles, tmp_path / "whole", **chosen))
    train(settings(tiles, tmp_path / "halves", **chosen), _stop_after(1))
    resumed = train(settings(tiles, tmp_path / "halves", **chosen))
    for part in (True, False):
        assert all(same(tensors_of(resumed.last, encoder=part), tensors_of(whole.last, encoder=part)).values())
    assert "of the encoder from" in whole.weights
    report = json.loads((tmp_path / "whole/weights.json").read_text())
    assert (report["missing"], report["unexpected"], report["note"]) == ([], [], "")
    # The frozen norms are the published ones: the fit began from those weights.
    published_tensors = read_weights(published_file("efficientnet_lite0"))
    norm = "_blocks.2._bn1.running_var"
    assert torch.equal(tensors_of(whole.last, encoder=True)[f"encoder.{norm}"], published_tensors[norm])


def test_a_fit_without_the_package_warns_and_goes_on_from_scratch(tiles, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(published.importlib.util, "find_spec", lambda _: None)
    with caplog.at_level(logging.WARNING):
        fit = train(settings(tiles, tmp_path / "fit", epochs=1, model=MODEL | {"weights": "imagenet"}))
    note = "no installed package has ImageNet's for efficientnet_lite0, so it learns from scratch"
    assert note in fit.weights
    assert note in caplog.text
