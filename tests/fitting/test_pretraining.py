"""Pre-training: what is hidden and predicted is as defined; a fit learns, resumes to the same bytes, and feeds `train`."""

from __future__ import annotations

import hashlib
import itertools
import json
import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.fitting.pretrain import pretrain
from microseg_ray.fitting.pretraining.masking import Reconstruction, hidden_blocks, hide, targets
from microseg_ray.fitting.train import StopFit, train
from microseg_ray.settings import PretrainSettings, Scaling, SourceSettings, TrainSettings
from microseg_ray.tiles.store import TileStore
from microseg_ray.tiles.unlabelled import Drawing, draw_squares, shares

MODEL = {"name": "unet", "width": 4, "depth": 2}


def settings(archive, output, **options) -> PretrainSettings:
    chosen = {
        "archive": str(archive),
        "output": str(output),
        "epochs": 3,
        "steps_per_epoch": 5,
        "crops": 24,
        "tile": 32,
    }
    chosen |= {"masking": {"block": 8}, "model": MODEL, "workers": 0, "threads": 1, "precision": "fp32"}
    return PretrainSettings(**{**chosen, "optimizer": {"learning_rate": 1e-2}, **options})


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def whole(pairs, tmp_path_factory):
    return pretrain(settings(f"{pairs}/images", tmp_path_factory.mktemp("pretrained") / "own"))


@given(
    side=st.integers(4, 20),
    block=st.integers(2, 6),
    share=st.floats(0.05, 0.95),
    seed=st.integers(0, 99),
    channels=st.integers(1, 2),
)
@hypothesis.settings(max_examples=25)
def test_hidden_squares_and_targets_are_those_of_a_plain_loop(side, block, share, seed, channels):
    blocks = math.ceil(side / block)
    if blocks < 2:
        return
    images = torch.rand(2, channels, side, side, generator=torch.Generator().manual_seed(seed))
    hidden = hidden_blocks((seed, 1), np.array([3, 3]), np.array([0, 1]), blocks, share)
    wanted = min(max(1, round(share * blocks**2)), blocks**2 - 1)
    assert hidden.sum(dim=(1, 2)).tolist() == [wanted, wanted]
    given_images, aims = hide(images, hidden, block), targets(images, hidden, block)
    for n in range(2):
        for c in range(channels):
            shown = [
                images[n, c, y, x].item()
                for y in range(side)
                for x in range(side)
                if not hidden[n, y // block, x // block]
            ]
            for y in range(side):
                for x in range(side):
                    row, column = y // block, x // block
                    if not hidden[n, row, column]:
                        assert given_images[n, c, y, x] == images[n, c, y, x]
                        assert torch.isnan(aims[n, c, y, x])
                        continue
                    square = images[
                        n, c, row * block : (row + 1) * block, column * block : (column + 1) * block
                    ].double()
                    expected = (images[n, c, y, x] - square.mean()) / (square.var(correction=0) + 1e-5).sqrt()
                    assert aims[n, c, y, x].item() == pytest.approx(expected.item(), abs=2e-3)
                    assert given_images[n, c, y, x].item() == pytest.approx(np.mean(shown), abs=1e-5)


def test_the_loss_adds_up_over_parts_and_has_no_gradient_where_nothing_is_hidden():
    loss, generator = Reconstruction(), torch.Generator().manual_seed(0)
    guess = torch.randn(4, 1, 3, 3, generator=generator, requires_grad=True)
    aims = torch.randn(4, 1, 3, 3, generator=generator)
    aims[0] = torch.nan
    whole = loss(guess, aims)
    parts = loss.value(loss.sums(guess[:1], aims[:1]) + loss.sums(guess[1:], aims[1:]))
    assert whole.item() == pytest.approx(((guess[1:] - aims[1:]) ** 2).mean().item(), rel=1e-6)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-6)
    whole.backward()
    assert not guess.grad[0].any()
    assert guess.grad[1:].all()


@given(
    areas=st.lists(st.integers(1, 10**6), min_size=1, max_size=20),
    squares=st.integers(1, 500),
    side=st.integers(8, 300),
)
def test_each_micrograph_gives_squares_by_its_area(areas, squares, side):
    counts = shares(areas, squares, side)
    assert min(counts) >= 1
    assert all(count == 1 or count <= 4 * area / side**2 for count, area in zip(counts, areas, strict=True))
    ordered = sorted(zip(areas, counts, strict=True))
    assert all(one[1] <= other[1] for one, other in itertools.pairwise(ordered))
    assert sum(counts) <= squares + len(areas)


def test_squares_are_pixels_of_the_specimen(tmp_path):
    """Each square is found again in its file, above the info bar; the order of the archive changes nothing."""
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name, shape in (("a.png", (90, 70)), ("b.png", (40, 200)), ("small.png", (20, 24))):
        Image.fromarray(generator.integers(0, 255, shape).astype(np.uint8)).save(tmp_path / "images" / name)
    source = SourceSettings(info_bar=8)
    drawing = Drawing(str(tmp_path / "images"), 12, 32, 5, Scaling(), source)
    store = draw_squares(drawing, tmp_path / "crops", "pretrain.archive").store
    rows = store.table.to_pylist()
    images, masks, limits = store.read(range(len(rows)))
    assert (masks == 255).all()
    assert (limits == [0, 255]).all()
    assert {row["micrograph"] for row in rows} == {"a.png", "b.png", "small.png"}
    for row, square in zip(rows, images, strict=True):
        pixels = np.asarray(Image.open(tmp_path / "images" / row["micrograph"]))[:-8]
        part = pixels[row["y0"] : row["y0"] + 32, row["x0"] : row["x0"] + 32]
        assert (square[0, : part.shape[0], : part.shape[1]] == part).all()
        assert row["micrograph"] == "small.png" or part.shape == (32, 32)
    again = draw_squares(drawing, tmp_path / "again", "pretrain.archive").store
    assert again.digest == store.digest


def test_it_learns(whole):
    losses = [float(row["loss"]) for row in whole.history]
    assert losses[-1] < 0.9 * losses[0]
    assert whole.record["sha256"] == hashlib.sha256(whole.weights.read_bytes()).hexdigest()
    assert whole.record["micrographs"] == 12
    assert (whole.weights.parent / "events").is_dir()


def test_stopped_and_resumed_equals_the_whole(pairs, whole, tmp_path):
    def stop(progress):
        if progress.last is not None and progress.last["epoch"] == 1:
            raise StopFit

    chosen = settings(f"{pairs}/images", tmp_path / "own")
    first = pretrain(chosen, stop)
    assert first.stopped
    assert len(first.history) == 1
    assert first.weights.read_bytes() != whole.weights.read_bytes()
    epochs = []
    resumed = pretrain(chosen, lambda progress: epochs.append(progress.epoch))
    assert min(epochs) == 2
    assert resumed.weights.read_bytes() == whole.weights.read_bytes()
    with pytest.raises(SettingsError, match=r"pretrain.output: .* holds a fit of other settings .*batch"):
        pretrain(settings(f"{pairs}/images", tmp_path / "own", batch=4))


@pytest.mark.parametrize("name", ["resunet", "efficientnet_unet"])
def test_train_starts_from_the_weights(name, pairs, tiles, tmp_path):
    """Of the encoder, or of a model without one all but the output layer; the labelled fit begins with exactly these."""
    model = {"name": name, **({"stages": 2} if name == "efficientnet_unet" else {"width": 4, "depth": 2})}
    done = pretrain(
        settings(
            f"{pairs}/images", tmp_path / "own", model=model, epochs=1, steps_per_epoch=1, tile=16, masking={"block": 4}
        )
    )
    before = load_file(done.weights)
    assert before
    assert not any(tensor.isnan().any() for tensor in before.values())
    chosen = {
        "tiles": str(tiles),
        "output": str(tmp_path / "fit"),
        "workers": 0,
        "threads": 1,
        "epochs": 1,
        "steps_per_epoch": 1,
    }
    chosen |= {
        "model": {**model, "weights": str(done.weights)},
        "optimizer": {"learning_rate": 1e-12, "weight_decay": 0},
    }
    train(TrainSettings(**chosen, batch=2, precision="fp32"))
    report = json.loads((tmp_path / "fit/weights.json").read_text())
    part, missing = ("model", ["head.weight", "head.bias"]) if name == "resunet" else ("encoder", [])
    assert (report["part"], report["missing"], report["unexpected"]) == (part, missing, [])
    assert done.record["part"] == part
    after = load_file(tmp_path / "fit/last/model.safetensors")
    learnt = [key for key in before if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert all(torch.allclose(after[key], before[key], atol=1e-6) for key in learnt)


def test_the_encoder_alone_starts_another_decoder(pairs, tmp_path):
    from microseg_ray.models import build_model
    from microseg_ray.models.weights import load_weights

    model = {"name": "efficientnet_unet", "stages": 3, "width": 4}
    done = pretrain(settings(f"{pairs}/images", tmp_path / "own", model=model, epochs=1, steps_per_epoch=1))
    other = build_model("efficientnet_deeplab", 3, 3, {"stages": 3, "width": 8})
    loaded = load_weights(other, str(done.weights))
    assert (loaded.part, loaded.missing, loaded.adapted) == ("encoder", (), ("_conv_stem.weight",))


def test_damaged_files_are_set_aside_and_the_rest_is_used(pairs, new_pairs, tmp_path, microseg):
    new_pairs(tmp_path, groups=1)
    archive = tmp_path / "images"
    (archive / "text.png").write_text("no image")
    (archive / "notes.txt").write_text("x")
    content = (archive / "0_a.png").read_bytes()
    (archive / "cut.png").write_bytes(content[: len(content) // 2])
    options = ["--epochs", 1, "--steps_per_epoch", 1, "--tile", 32, "--masking.block", 8, "--workers", 0, "--batch", 2]
    ran = microseg("pretrain", "--archive", archive, "--output", tmp_path / "own", *options, "--model.width", 2)
    assert ran.code == 3
    assert "files: 6 seen = 3 used + 2 set aside + 1 not taken" in ran.out
    assert "microseg train --model.name efficientnet_unet --model.weights" in ran.out
    assert set(TileStore.open(tmp_path / "own/crops").table["micrograph"].to_pylist()) == {
        "0_a.png",
        "0_b.png",
        "0_c.png",
    }
    # A file that came since is another archive.
    (archive / "cut.png").unlink()
    ran = microseg("pretrain", "--archive", archive, "--output", tmp_path / "own", *options, "--model.width", 2)
    assert ran.code == 2
    assert "squares of another archive (cut.png)" in ran.err


def test_an_archive_without_a_usable_micrograph_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_text("no image")
    with pytest.raises(InputError, match=r"no micrograph in it can be used \(a.png: this is no image"):
        pretrain(settings(tmp_path / "images", tmp_path / "own"))
    Image.fromarray(np.zeros((40, 40), np.uint8)).save(tmp_path / "images/b.png")
    with pytest.raises(SettingsError, match=r"pretrain.tile: 30 px is no multiple of the model's stride 4"):
        pretrain(settings(tmp_path / "images", tmp_path / "other", tile=30))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("workers", [1, 2])
def test_ray_gives_the_weights_of_one_process(workers, pairs, whole, tmp_path, ray_session):
    """Byte for byte with one worker; with two, the loss curve up to rounding."""
    from microseg_ray.on_ray import fits

    done = fits.pretrain(settings(f"{pairs}/images", tmp_path / "own", workers=workers))
    assert done.record["squares_digest"] == whole.record["squares_digest"]
    if workers == 1:
        assert done.weights.read_bytes() == whole.weights.read_bytes()
    for row, expected in zip(done.history, whole.history, strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), abs=2e-3)
