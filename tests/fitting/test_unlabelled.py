"""`train.unlabelled`: which pixels count, what the teacher and the model see, and that such a fit trains, resumes and refuses."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from torch import nn

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.fitting.augmentation import draw
from microseg_ray.fitting.train import StopFit, train
from microseg_ray.fitting.unlabelled import ConfidentPixels, kept_statistics, ramp, strong, sure_classes, views
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.settings import AugmentSettings, TrainSettings

SIDE = 6


def settings(tiles, archive, output, **options) -> TrainSettings:
    chosen = {"tiles": str(tiles), "output": str(output), "epochs": 2, "steps_per_epoch": 4, "batch": 4, "workers": 0}
    chosen |= {"threads": 1, "precision": "fp32", "model": {"name": "unet", "width": 4, "depth": 2}}
    unlabelled = {"archive": str(archive), "squares": 12, "confidence": 0.4, "batch": 2, "ramp": 0.5}
    return TrainSettings(**{**chosen, "optimizer": {"learning_rate": 1e-2}, "unlabelled": unlabelled, **options})


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(tiles, pairs, tmp_path_factory):
    return train(settings(tiles, f"{pairs}/images", tmp_path_factory.mktemp("taught") / "fit"))


@examples(max_examples=25)
@given(seed=st.integers(0, 999), confidence=st.floats(0.05, 1), classes=st.integers(2, 4))
def test_sure_classes_and_their_loss_are_those_of_a_plain_loop(seed, confidence, classes):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, 3, 3, generator=generator)
    guess = torch.randn(2, classes, 3, 3, generator=generator)
    outside = torch.rand(2, 3, 3, generator=generator) < 0.2
    found = sure_classes(logits, outside, confidence)
    total = 0.0
    for n, y, x in itertools.product(range(2), range(3), range(3)):
        exponentials = [math.exp(logits[n, k, y, x]) for k in range(classes)]
        best = max(range(classes), key=exponentials.__getitem__)
        share = exponentials[best] / sum(exponentials)
        if abs(share - confidence) < 1e-5:
            return
        sure = share >= confidence and not outside[n, y, x]
        assert found[n, y, x] == (best if sure else 255)
        if sure:
            total -= math.log(math.exp(guess[n, best, y, x]) / sum(math.exp(guess[n, k, y, x]) for k in range(classes)))
    assert ConfidentPixels()(guess, found).item() == pytest.approx(total / 18, abs=1e-5)


def test_both_views_are_the_same_pixels():
    """Moved alike; where only intensities change linearly, one view is a linear function of the other, crop by crop."""
    images = torch.rand(4, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    moving = AugmentSettings(rotate=180, brightness=0.2, contrast=0.3, outside="ignore", scale=(0.5, 0.6))
    weak, changed, outside = views(images, draw(1, 0, [0, 1, 2, 3], moving, side=SIDE), SIDE)
    assert weak.shape == (4, 1, SIDE, SIDE)
    for one, other in zip(weak, changed, strict=True):
        slope, offset = np.polyfit(one.flatten().numpy(), other.flatten().numpy(), 1)
        assert 0.69 < slope < 1.31 and abs(offset) < 0.21  # noqa: PT018 - one range
        assert torch.allclose(other, one * slope + offset, atol=1e-4)
    assert outside.any() and not outside.all()  # noqa: PT018 - some, not all
    unchanged = views(images, draw(1, 0, [0, 1, 2, 3], strong(AugmentSettings(symmetries=False)), side=12), 12)
    assert torch.equal(unchanged[0], images)
    assert not torch.equal(unchanged[1], images)


def test_the_weight_rises_to_one_and_stays():
    values = [ramp(done / 20, 0.4) for done in range(21)]
    assert all(one <= other for one, other in itertools.pairwise(values))
    assert values[0] == pytest.approx(math.exp(-5))
    assert values[8:] == [1.0] * 13


def test_statistics_are_kept_and_normalisation_is_by_the_batch():
    norm = nn.BatchNorm2d(2).train()
    norm(torch.rand(4, 2, 3, 3))
    before = {name: value.clone() for name, value in norm.state_dict().items() if "running" in name}
    with kept_statistics(norm):
        out = norm(5 + torch.rand(4, 2, 3, 3))
    assert out.mean().item() == pytest.approx(0, abs=1e-5)
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())
    assert norm.momentum == 0.1


def test_it_trains_and_says_how_sure_it_is(whole):
    losses = [float(row["loss"]) for row in whole.history]
    assert losses[-1] < losses[0]
    assert all(0 <= float(row["confident"]) <= 1 and float(row["unlabelled_loss"]) >= 0 for row in whole.history)
    assert float(whole.history[-1]["confident"]) > 0
    assert [account.quantity for account in whole.accounts] == ["tiles", "files"]
    assert whole.accounts[1].used == 12


def test_without_a_confident_pixel_nothing_is_learnt_from_the_archive(tiles, pairs, tmp_path):
    """Its weights are those of a fit of the tiles alone, with the same averaging."""
    never = {"archive": f"{pairs}/images", "squares": 12, "confidence": 1.0, "batch": 2}
    one = train(settings(tiles, "", tmp_path / "one", unlabelled=never, epochs=1))
    other = train(settings(tiles, "", tmp_path / "other", unlabelled=None, ema=0.99, epochs=1))
    assert float(one.history[0]["confident"]) == 0
    assert one.history[0]["loss"] == other.history[0]["loss"]
    first, second = (load_checkpoint(done.last)[0].state_dict() for done in (one, other))
    assert all(torch.equal(first[name], second[name]) for name in first if "num_batches" not in name)


def test_stopped_and_resumed_equals_the_whole(tiles, pairs, whole, tmp_path):
    def stop(progress):
        if progress.last is not None:
            raise StopFit

    chosen = settings(tiles, f"{pairs}/images", tmp_path / "fit")
    assert train(chosen, stop).stopped
    resumed = train(chosen)
    assert len(resumed.history) == 2
    for name in ("last", "best"):
        weights = [folder.parent / name / "model.safetensors" for folder in (resumed.last, whole.last)]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    with pytest.raises(SettingsError, match=r"holds a fit of other settings .*unlabelled: .* there, None now"):
        train(settings(tiles, "", tmp_path / "fit", unlabelled=None))


def test_a_bad_archive_is_refused(tiles, new_pairs, tmp_path, microseg):
    with pytest.raises(InputError, match=r"nowhere: no such file or folder"):
        train(settings(tiles, tmp_path / "nowhere", tmp_path / "fit"))
    new_pairs(tmp_path, groups=1)
    (tmp_path / "images/text.png").write_text("no image")
    config = tmp_path / "fit.yaml"
    config.write_text(
        "train: {epochs: 1, steps_per_epoch: 1, batch: 2, workers: 0, model: {name: unet, width: 2, depth: 1}}\n"
    )
    where = ["--tiles", tiles, "--output", tmp_path / "other", "--unlabelled.archive", tmp_path / "images"]
    ran = microseg("train", config, *where)
    assert ran.code == 3
    assert "text.png (read): this is no image" in ran.out
    assert "files: 4 seen = 3 used + 1 set aside" in ran.out
    (tmp_path / "images/0_a.png").unlink()
    ran = microseg("train", config, *where)
    assert ran.code == 2
    assert "train.unlabelled.archive" in ran.err and "squares of another archive (0_a.png)" in ran.err  # noqa: PT018
