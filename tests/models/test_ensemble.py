"""Several checkpoints as one model: the mean of their probabilities, in tiles and in strips, and what they must share."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from microseg_ray.errors import CheckpointError, SettingsError
from microseg_ray.models.architectures.ensemble import MeanProbabilities
from microseg_ray.models.card import read_card
from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint
from microseg_ray.models.computing import decide_runtime
from microseg_ray.models.ensemble import describe, load_model
from microseg_ray.models.predictor import load_predictor
from microseg_ray.models.strips.streaming import streaming_of
from microseg_ray.settings import Scaling


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=0))
    return powers / powers.sum(axis=0)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), members=st.integers(1, 4), classes=st.integers(1, 5))
def test_the_softmax_of_the_result_is_the_mean_of_the_softmaxes(data, members, classes):
    numbers = st.floats(-1e4, 1e4, width=32) | st.floats(-5, 5, width=32)
    logits = data.draw(arrays.arrays(np.float32, (members, classes, 2, 3), elements=numbers))
    expected = np.mean([softmax(each.astype(np.float64)) for each in logits], axis=0)
    found = MeanProbabilities(members)(torch.from_numpy(logits.reshape(1, members * classes, 2, 3)))[0]
    assert torch.isfinite(found).all()
    np.testing.assert_allclose(found.softmax(dim=0).numpy(), expected, atol=2e-6)
    # They are logarithms of probabilities themselves.
    np.testing.assert_allclose(found.exp().sum(dim=0).numpy(), 1, atol=1e-5)


@pytest.fixture(scope="module")
def places(new_checkpoint, tmp_path_factory):
    """Two members of different strides and receptive fields."""
    root = tmp_path_factory.mktemp("members")
    first, second = (
        new_checkpoint(root / name / "best", seed=seed, depth=depth) for name, seed, depth in (("a", 1, 1), ("b", 2, 3))
    )
    return str(first), str(second)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (1, 1, 64, 96), np.uint8)


def mean_scores(places, image, **options):
    return np.mean([load_predictor(place, threads=1, **options).scores(image, (0, 255)) for place in places], axis=0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_probabilities_are_those_of_the_members_averaged(places, image, precision):
    expected = mean_scores(places, image, precision=precision)
    ensemble = load_predictor(places, precision=precision, threads=1)
    np.testing.assert_allclose(ensemble.scores(image, (0, 255)), expected, atol=1e-5)
    clear = np.sort(expected, axis=1)[:, -1] - np.sort(expected, axis=1)[:, -2] > 1e-4
    assert clear.mean() > 0.9
    assert (ensemble.masks(image, (0, 255)) == expected.argmax(axis=1))[clear].all()
    for place in places:
        assert (load_predictor(place, precision=precision).masks(image, (0, 255)) != expected.argmax(axis=1)).any()


def test_openvino_gives_what_torch_gives(places, image):
    pytest.importorskip("openvino")
    found = load_predictor(places, precision="fp32", threads=1, runtime="openvino")
    np.testing.assert_allclose(found.scores(image, (0, 255)), mean_scores(places, image, precision="fp32"), atol=1e-4)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_strips_give_what_the_whole_image_gives(places, runtime, monkeypatch):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    monkeypatch.setattr("microseg_ray.models.strips.stream.WHOLE_PIXELS", 0)
    tall = np.random.default_rng(1).integers(0, 256, (1, 1, 320, 48), np.uint8)
    predictor = load_predictor(places, precision="fp32", threads=1, runtime=runtime)
    rows = list(predictor.strips(64).run(lambda begin, end: tall[0, :, begin:end], (320, 48), (0, 255), scores=True))
    assert len(rows) > 2
    found = np.concatenate([part.scores for part in rows], axis=1)
    np.testing.assert_allclose(found, mean_scores(places, tall, precision="fp32")[0], atol=1e-4)


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
def test_members_classes_are_those_of_each_checkpoint_alone(places, image, runtime, monkeypatch):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    options = {"precision": "fp32", "threads": 1, "runtime": runtime}
    ensemble = load_predictor(places, **options)
    alone = [load_predictor(place, **options) for place in places]
    batch = np.concatenate([image, image[..., ::-1]])
    expected = np.stack([each.masks(batch, (0, 255)) for each in alone], axis=1)
    assert (expected[:, 0] != expected[:, 1]).any()
    found = ensemble.members_too(batch, (0, 255), scores=True)
    assert (found.members != expected).mean() < 1e-3
    np.testing.assert_array_equal(found.masks, ensemble.masks(batch, (0, 255)))
    np.testing.assert_array_equal(found.scores, ensemble.scores(batch, (0, 255)))
    assert (ensemble.members, alone[0].members) == (2, 0)
    monkeypatch.setattr("microseg_ray.models.strips.stream.WHOLE_PIXELS", 0)
    rows = list(ensemble.strips(16).run(lambda begin, end: image[0, :, begin:end], image.shape[2:], (0, 255)))
    assert len(rows) > 1
    assert (np.concatenate([part.members for part in rows], axis=1) != expected[0]).mean() < 1e-3


def test_the_card_describes_all_members(places):
    found = describe(places)
    cards = [read_card(place) for place in places]
    fields = [card.receptive_field for card in cards]
    assert (found.card.receptive_field.stride, found.card.receptive_field.radius) == (
        8,
        max(each.radius for each in fields),
    )
    assert found.card.footprint.parameter_bytes == sum(card.footprint.parameter_bytes for card in cards)
    assert found.card.footprint.fp32 > max(card.footprint.fp32 for card in cards)
    assert [place for place, _ in found.members] == list(places)
    digests = {describe(place).digest for place in places}
    assert {digest for _, digest in found.members} == digests
    assert found.digest not in digests
    assert found.digest != describe(places[::-1]).digest
    assert load_model(places)[1] == found
    assert streaming_of(found.card, 64).kept_numbers > sum(streaming_of(card, 64).kept_numbers for card in cards) * 0.9


def test_one_folder_is_the_checkpoint_itself(places):
    found = describe((places[0],))
    assert found == describe(places[0])
    assert found.card == read_card(places[0])
    assert found.members == ()


CHANGES = {
    "classes in order": {"classes": lambda card: card.classes[::-1]},
    "channels": {"in_channels": lambda _: 3},
    "scaled by kind percentile, low 1.0, high 99.0": {
        "scaling": lambda _: Scaling(kind="percentile", low=1.0, high=99.0)
    },
    "pixel size is 0.5 x 0.5 um, that of .* is not known": {"pixel_size_um": lambda _: (0.5, 0.5)},
}


@pytest.mark.parametrize("problem", CHANGES)
def test_what_members_must_share_is_compared_and_named(places, tmp_path, problem):
    model, card = load_checkpoint(places[1])
    changed = card.model_copy(update={key: change(card) for key, change in CHANGES[problem].items()})
    if "in_channels" in CHANGES[problem]:
        from microseg_ray.models import build_model

        model = build_model(card.architecture, 3, 3, card.options)
    save_checkpoint(tmp_path / "other", model, changed)
    with pytest.raises(CheckpointError, match=f"other: .*{problem}.*average only checkpoints"):
        describe((places[0], str(tmp_path / "other")))


def test_pixel_sizes_of_a_few_percent_apart_are_the_same(places, tmp_path):
    names = []
    for name, size in (("a", 0.5), ("b", 0.52), ("c", 0.6)):
        model, card = load_checkpoint(places[0])
        with torch.no_grad():
            next(model.parameters()).mul_(size)
        save_checkpoint(tmp_path / name, model, card.model_copy(update={"pixel_size_um": (size, size)}))
        names.append(str(tmp_path / name))
    assert describe(tuple(names[:2])).card.pixel_size_um == (0.5, 0.5)
    with pytest.raises(CheckpointError, match=r"c: its pixel size is 0.6 x 0.6 um, that of .*a is 0.5 x 0.5 um"):
        describe((names[0], names[2]))


def test_the_same_model_does_not_count_double(places, tmp_path):
    shutil.copytree(places[0], tmp_path / "copy")
    with pytest.raises(CheckpointError, match="the same model is given twice"):
        describe((places[0], str(tmp_path / "copy")))


def test_a_folder_that_is_no_checkpoint_is_named(places):
    with pytest.raises(CheckpointError, match="/nowhere: no such checkpoint folder"):
        describe((places[0], "/nowhere"))


def test_openvino_in_bf16_is_refused_and_auto_takes_torch(places, monkeypatch):
    pytest.importorskip("openvino")
    record = {"runtime": "openvino", "runtime_precision": "bf16", "openvino": "2026"}
    monkeypatch.setattr("microseg_ray.models.computing.runtime_name", lambda *_: "openvino")
    monkeypatch.setattr(
        "microseg_ray.models.computing.runtime_record",
        lambda name, *_: record if name == "openvino" else {"runtime": "torch", "torch": "2"},
    )
    card = describe(places).card
    computing = decide_runtime(places, card, "auto", "bf16")
    assert computing.runtime == "torch"
    assert "precision: fp32" in computing.note
    with pytest.raises(SettingsError, match="close ones become ties"):
        decide_runtime(places, card, "openvino", "bf16")


def test_cards_are_plain_json(places):
    options = describe(places).card.options
    assert json.loads(json.dumps(options)) == options
