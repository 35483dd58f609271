"""`learn`: labels to a better checkpoint, of more classes where some were added; what is too little or wrong is said."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from microseg_ray.cli import main
from microseg_ray.errors import MicrosegError
from microseg_ray.geometry import Box
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.models.growing import write_grown_weights
from microseg_ray.models.weights import read_weights
from microseg_ray.report.labelling.learning import compare, learn
from microseg_ray.report.labelling.rounds import Rounds
from microseg_ray.report.viewer.labels import Labels, Sheet, Ticket
from microseg_ray.report.viewer.strokes import Stroke
from microseg_ray.report.viewer.subject import key_of, name_of
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec, settings_from
from microseg_ray.settings.learn import LearnSettings

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="grain"), ClassSpec(name="pore"))
ODD = os.fsdecode(b'-- "odd" [a], \xff.png')


def paint(run, name, truth, classes):
    """A stroke within a block of each class, as a person would."""
    labels = Labels(run.folder / "labels", run.classes)
    path = os.path.join(str(run.document["archive"]), name)  # noqa: PTH118 - names that are not UTF-8
    sheet = Sheet(name, path, truth.shape, None)
    for number, value in enumerate(classes):
        ys, xs = np.nonzero(truth[::16, ::16] == value)
        for y, x in zip(ys[:6] * 16 + 8.0, xs[:6] * 16 + 8.0, strict=True):
            version = len(labels.entries(name))
            labels.draw(
                sheet,
                Stroke("brush", number, ((y - 4, x - 4), (y + 4, x + 4)), 2),
                Ticket("A", "s", version, str(version)),
            )
    return labels


@pytest.fixture
def run(tmp_path, pairs, checkpoint):
    """A run of two micrographs with an untrained model; one has a name that is no option and no list."""
    (tmp_path / "archive").mkdir()
    shutil.copy(pairs / "images" / "0_a.png", tmp_path / "archive" / "a.png")
    shutil.copy(pairs / "images" / "1_b.png", tmp_path / "archive" / ODD)
    options = ["--checkpoint", str(checkpoint), "--workers", "0", "--shard", "64"]
    assert main(["segment", "--archive", str(tmp_path / "archive"), "--output", str(tmp_path / "run"), *options]) == 0
    return Run.open(tmp_path / "run")


def truth_of(pairs, name):
    return np.asarray(Image.open(pairs / "masks" / name))


@pytest.mark.slow
def test_two_rounds_raise_what_is_right_and_the_run_stays_as_it_is(run, pairs, microseg, tree_of):
    truth = truth_of(pairs, "0_a.png")
    labels = paint(run, "a.png", truth, (0, 1, 2))
    before = {name: digest for name, digest in tree_of(run.folder).items() if not name.startswith("labels/")}
    options = ("--max_steps", 30, "--tile", 64, "--learning_rate", 5e-3, "--threads", 1)
    done = microseg("learn", run.folder, *options)
    assert done.code == 0, done.err
    rounds = Rounds(labels.folder)
    (change,) = rounds.read(1).changes
    assert name_of(change.key) == "a.png"
    assert change.right_after > change.right_before
    older = MaskStore.open(run.store_path("a.png")).mask[:]
    first = rounds.newest("a.png")[1].mask[:]
    measured = truth != 255
    assert (first == truth)[measured].mean() > (older == truth)[measured].mean() + 0.1
    assert (change.pixels, change.changed) == (first.size, (first != older).sum())
    # The second round starts from the first, and is compared with it; another micrograph is segmented on request.
    done = microseg("learn", run.folder, *options, f"--micrographs={ODD}", "--micrographs=a.png")
    assert done.code == 0, done.err
    second = rounds.read(2)
    assert second.start == str(rounds.checkpoint(1))
    assert {name_of(each.key) for each in second.changes} == {"a.png", ODD}
    newest = rounds.newest("a.png")
    assert newest[0] == 2
    own = next(each for each in second.changes if each.key == key_of("a.png"))
    assert own.changed == (newest[1].mask[:] != first).sum()
    after = {name: digest for name, digest in tree_of(run.folder).items() if not name.startswith("labels/")}
    assert after == before
    # `next` goes by the newest mask, which has a margin.
    assert microseg("next", run.folder, "--side", 32).code == 0
    places = json.loads((labels.folder / "next.json").read_text())["places"]
    assert {each["doubt_of"] for each in places} == {"margin"}


@pytest.mark.slow
def test_a_class_that_was_added_is_learnt_and_lost_micrographs_lose_themselves(run, pairs, microseg):
    truth = truth_of(pairs, "0_a.png")
    labels = Labels(run.folder / "labels", run.classes)
    labels.add_class("bright")
    paint(run, "a.png", truth, (0, 99, 2, 1))
    paint(run, ODD, truth_of(pairs, "1_b.png"), (0, 99, 2, 1))
    os.unlink(os.path.join(str(run.document["archive"]), ODD))  # noqa: PTH108, PTH118
    done = microseg("learn", run.folder, "--max_steps", 30, "--tile", 64, "--learning_rate", 5e-3, "--threads", 1)
    assert done.code == 3, done.err
    assert "nothing is labelled as grain" in done.out
    assert "odd" in done.out
    rounds = Rounds(labels.folder)
    assert rounds.read(1).classes == ("matrix", "grain", "pore", "bright")
    mask = rounds.newest("a.png")[1].mask[:]
    assert ((mask == 3) & (truth == 1)).sum() > 0.5 * (truth == 1).sum()


def test_too_little_is_named_and_nothing_is_begun(run, pairs, microseg):
    refused = microseg("learn", run.folder)
    assert refused.code == 1
    assert "nothing is labelled yet" in refused.err
    assert not (run.folder / "labels").exists()
    paint(run, "a.png", truth_of(pairs, "0_a.png"), (0,))
    refused = microseg("learn", run.folder, "--tile", 64)
    assert refused.code == 1
    assert "only matrix is labelled" in refused.err
    assert "no micrograph of" in microseg("learn", run.folder, "--micrographs", "b.png").err
    rounds = Rounds(run.folder / "labels")
    assert rounds.last() == 0
    assert json.loads((rounds.folder / "progress.json").read_text())["stage"] == "failed"
    # The page that started it is gone: it ends by itself.
    paint(run, "a.png", truth_of(pairs, "0_a.png"), (0, 1, 2))
    with pytest.raises(MicrosegError, match="is gone"):
        learn(settings_from(LearnSettings, {"run": str(run.folder), "parent": os.getppid() + 1}))
    assert rounds.last() == 0


def test_grown_weights_keep_what_was_known(checkpoint, tmp_path):
    write_grown_weights(checkpoint, 5, tmp_path / "grown.safetensors")
    model, card = load_checkpoint(checkpoint)
    grown = read_weights(str(tmp_path / "grown.safetensors"))
    known, rows = len(card.classes), 0
    for name, tensor in model.state_dict().items():
        if tensor.shape == grown[name].shape:
            assert torch.equal(tensor, grown[name])
        else:
            rows += 1
            assert grown[name].shape == (5, *tensor.shape[1:])
            assert torch.equal(grown[name][:known], tensor)
    assert rows == 2
    with pytest.raises(MicrosegError, match="name its classes"):
        write_grown_weights(checkpoint, 2, tmp_path / "less.safetensors")


def test_what_changed_is_counted_pixel_by_pixel(tmp_path):
    generator = np.random.default_rng(0)
    masks = [generator.choice([0, 1, 2, 255], (70, 50), p=(0.3, 0.3, 0.3, 0.1)).astype(np.uint8) for _ in range(2)]
    stores = []
    for number, mask in enumerate(masks):
        store = MaskStore.create(tmp_path / f"{number}.zarr", MaskSpec((70, 50), CLASSES, shard=64), {})
        for shard in np.ndindex(*store.spec.shards):
            store.commit(shard, mask[store.spec.box(shard).slices])
        stores.append(store)
    labels, sheet = Labels(tmp_path / "labels", CLASSES), Sheet("a.tif", str(tmp_path / "a.tif"), (70, 50), None)
    for number, value in enumerate((0, 1, 2)):
        stroke = Stroke("brush", value, ((10.0 + 20 * number, 5.0), (12.0 + 20 * number, 45.0)), 4)
        labels.draw(sheet, stroke, Ticket("A", "s", number, str(number)))
    painted = labels.pixels(sheet, Box.of_shape((70, 50)))
    found = compare("k", stores[0], stores[1], labels, sheet)
    counts = dict.fromkeys(("pixels", "changed", "labelled", "right_before", "right_after"), 0)
    for old, new, label in zip(masks[0].flat, masks[1].flat, painted.flat, strict=True):
        if old == 255 or new == 255:
            continue
        counts["pixels"] += 1
        counts["changed"] += old != new
        counts["labelled"] += label != 255
        counts["right_before"] += label != 255 and label == old
        counts["right_after"] += label != 255 and label == new
    assert {name: getattr(found, name) for name in counts} == counts
