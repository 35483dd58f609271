"""Fitting: the same weights every time, after any stop, on any number of workers; nothing of two fits is ever mixed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import numpy as np
import pytest
import torch

from microseg_ray.errors import FencedError, MicrosegError, RunMismatchError, SettingsError, StoreError
from microseg_ray.fence import Fence
from microseg_ray.files import sole_writer
from microseg_ray.fitting.loop import fit
from microseg_ray.fitting.losses import class_weights_from_counts
from microseg_ray.fitting.setup import check_fit
from microseg_ray.fitting.train import ENTRIES, OWNER, StopFit, run_fit
from microseg_ray.fitting.workers import Workers
from microseg_ray.models.card import read_card
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.on_ray.fits import train
from microseg_ray.on_ray.rows import tile
from microseg_ray.outputs import claim
from microseg_ray.settings import TileSettings, TrainSettings
from microseg_ray.tiles.store import TileStore

MODEL = {"name": "unet", "width": 4, "depth": 2, "norm": "batch"}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiles(pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("fitting") / "tiles"
    tile(
        TileSettings(
            images=f"{pairs}/images",
            masks=f"{pairs}/masks",
            output=str(output),
            classes=["matrix", "grain", "pore"],
            tile=32,
            overlap=8,
            workers=0,
            group=r"^(\d+)_",
            splits={"val": ["1"]},
        )
    )
    return output


def settings(tiles, output, **options) -> TrainSettings:
    chosen = {
        "tiles": str(tiles),
        "output": str(output),
        "epochs": 4,
        "batch": 8,
        "workers": 0,
        "model": MODEL,
        "threads": 1,
        "steps_per_epoch": 6,
        "optimizer": {"learning_rate": 1e-2},
    }
    return TrainSettings(**{**chosen, **options})


def without_times(history):
    return [{key: value for key, value in row.items() if key not in {"seconds", "data_wait"}} for row in history]


def weights(folder):
    return load_checkpoint(folder)[0].state_dict()


def same_weights(one, other) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.fixture(scope="module")
def whole(tiles, tmp_path_factory):
    """Four epochs in one go, in this process: what every other way must equal."""
    return train(settings(tiles, tmp_path_factory.mktemp("whole") / "fit"))


def test_it_learns(whole):
    losses = [float(row["loss"]) for row in whole.history]
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]
    assert float(whole.history[-1]["val_mean_iou"]) > float(whole.history[0]["val_mean_iou"])


def test_the_best_is_that_of_the_highest_validation_score(whole):
    scores = [float(row["val_mean_iou"]) for row in whole.history]
    card = read_card(whole.best)
    assert card.metrics["epoch"] == 1 + scores.index(max(scores))
    assert card.metrics["mean_iou"] == max(scores)
    assert card.metrics["selected_by"] == "validation mean IoU"
    assert read_card(whole.last).metrics["epoch"] == 4
    assert [row["best"] for row in whole.history] == [
        str(all(score > earlier for earlier in scores[:index])) for index, score in enumerate(scores)
    ]


def test_the_validation_score_is_that_of_the_saved_model(tiles, whole):
    """Recomputed by hand from the last checkpoint, in the precision of the fit."""
    model, card = load_checkpoint(whole.last)
    store = TileStore.open(tiles)
    images, masks, _ = store.read(store.rows("val"))
    assert len(images)
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        guess = model(torch.from_numpy(images).float() / 255).argmax(dim=1).numpy()
    known = masks != 255
    assert float(whole.history[-1]["pixel_accuracy"]) == pytest.approx((guess == masks)[known].mean(), abs=2e-3)
    assert card.receptive_field.stride == 4


def test_tables_and_events_hold_every_epoch(whole):
    from tensorboardX.proto.event_pb2 import Event

    folder = whole.best.parent
    with (folder / "metrics.csv").open(newline="") as handle:
        assert list(csv.DictReader(handle)) == whole.history
    scalars: dict[str, list[tuple[int, float]]] = {}
    for path in (folder / "events").iterdir():
        content, place = path.read_bytes(), 0
        while place < len(content):
            length = int.from_bytes(content[place : place + 8], "little")
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += 12 + length + 4
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert {"loss", "val_mean_iou", "train_mean_iou", "learning_rate", "class_iou/0", "class_iou/2"} <= set(scalars)
    assert scalars["loss"] == [
        (epoch, pytest.approx(float(row["loss"]), rel=1e-6)) for epoch, row in enumerate(whole.history, 1)
    ]


class StopError(Exception):
    pass


@pytest.mark.parametrize("stops", [[2], [1, 3]])
def test_stopped_and_resumed_equals_the_whole(tiles, whole, tmp_path, stops):
    for stop in stops:

        def report(progress, stop=stop):
            if progress.last is not None and progress.last["epoch"] == stop and progress.steps == 1:
                raise StopError

        with pytest.raises(StopError):
            train(settings(tiles, tmp_path / "fit"), report)
    steps = []
    resumed = train(settings(tiles, tmp_path / "fit"), lambda progress: steps.append(progress.epoch))
    assert min(steps) == stops[-1] + 1, "finished epochs were computed again"
    assert without_times(resumed.history) == without_times(whole.history)
    assert same_weights(resumed.last, whole.last)
    assert same_weights(resumed.best, whole.best)


def test_a_killed_process_is_gone_on_from(tiles, whole, tmp_path):
    """SIGKILL in the middle of an epoch, and once more."""
    arguments = [sys.executable, "-m", "microseg_ray.cli", "train", "--tiles", tiles, "--output", tmp_path / "fit"]
    arguments += [
        "--epochs",
        "4",
        "--batch",
        "8",
        "--workers",
        "0",
        "--model.name",
        "unet",
        "--model.width",
        "4",
        "--model.depth",
        "2",
        "--threads",
        "1",
        "--steps_per_epoch",
        "6",
        "--optimizer.learning_rate",
        "1e-2",
    ]
    process = subprocess.Popen([str(item) for item in arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (tmp_path / "fit/state.pt").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "fit/state.pt").exists()
    resumed = train(settings(tiles, tmp_path / "fit"))
    assert without_times(resumed.history) == without_times(whole.history)
    assert same_weights(resumed.last, whole.last)


def test_a_finished_fit_is_left_alone(tiles, tmp_path, tree_of):
    chosen = settings(tiles, tmp_path / "fit", epochs=1)
    first = train(chosen)
    before = tree_of(tmp_path / "fit")
    again = train(chosen)
    assert again.history == first.history
    after = tree_of(tmp_path / "fit")
    assert {
        name for name in before | after if before.get(name) != after.get(name) and not name.startswith("events/")
    } == set()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"epochs": 5}, "epochs: 1 there, 5 now"),
        ({"model": {**MODEL, "width": 6}}, "model"),
        ({"seed": 3}, "seed: 0 there, 3 now"),
        ({"optimizer": {"learning_rate": 0.5}}, "optimizer"),
    ],
)
def test_another_fit_is_refused_before_anything_is_touched(tiles, tmp_path, tree_of, options, named):
    train(settings(tiles, tmp_path / "fit", epochs=1))
    before = tree_of(tmp_path / "fit")
    with pytest.raises(SettingsError, match="--overwrite") as error:
        train(settings(tiles, tmp_path / "fit", **{"epochs": 1, "workers": 2, **options}))
    assert named in str(error.value)
    assert {name: digest for name, digest in tree_of(tmp_path / "fit").items() if name != ".lock"} == {
        name: digest for name, digest in before.items() if name != ".lock"
    }


def test_other_tiles_are_refused_and_overwrite_starts_afresh(pairs, tiles, tmp_path):
    train(settings(tiles, tmp_path / "fit", epochs=1))
    other = tile(
        TileSettings(
            images=f"{pairs}/images",
            masks=f"{pairs}/masks",
            output=str(tmp_path / "tiles"),
            classes=["matrix", "grain", "pore"],
            tile=16,
            overlap=0,
            workers=0,
        )
    )
    with pytest.raises(SettingsError, match=r"other tiles.*--overwrite"):
        train(settings(other.store.folder, tmp_path / "fit", epochs=1))
    afresh = train(settings(other.store.folder, tmp_path / "fit", epochs=1, overwrite=True))
    assert afresh.history == train(settings(other.store.folder, tmp_path / "fit", epochs=1)).history
    assert without_times(afresh.history) == without_times(
        train(settings(other.store.folder, tmp_path / "new", epochs=1)).history
    )


def test_a_damaged_state_is_refused(tiles, tmp_path):
    train(settings(tiles, tmp_path / "fit", epochs=1))
    (tmp_path / "fit/state.pt").write_bytes((tmp_path / "fit/state.pt").read_bytes()[:100])
    with pytest.raises(SettingsError, match=r"state\.pt: cannot be read.*--overwrite"):
        train(settings(tiles, tmp_path / "fit", epochs=1))


@pytest.mark.parametrize("damage", ["cut short", "empty", "gone"])
def test_a_fit_goes_on_from_the_state_before_a_damaged_one(tiles, plain, tmp_path, caplog, damage):
    train(settings(tiles, tmp_path / "fit", **INVARIANT))
    state = tmp_path / "fit/state.pt"
    raw = state.read_bytes()
    match damage:
        case "cut short":
            state.write_bytes(raw[: len(raw) // 2])
        case "empty":
            state.write_bytes(b"")
        case _:
            state.unlink()  # as after a kill between the two renames
    epochs = []
    again = train(settings(tiles, tmp_path / "fit", **INVARIANT), lambda progress: epochs.append(progress.epoch))
    assert without_times(again.history) == without_times(plain.history)
    assert same_weights(again.last, plain.last)
    assert set(epochs) == {len(plain.history)}
    assert ("gone on from the epoch before" in caplog.text) == (damage != "gone")


def test_a_worker_of_an_older_job_writes_nothing(tiles, tmp_path, tree_of):
    """Another job begins, and ends, while it trains its first epoch."""
    chosen = settings(tiles, tmp_path, epochs=1)
    claim(tmp_path, OWNER, ENTRIES)  # as the job of the late worker did
    late = Workers(fence=Fence.raised(tmp_path))
    done = []

    def on_progress(_):
        if not done:
            train(chosen)
            done.append(tree_of(tmp_path))

    with pytest.raises(FencedError, match="another job has begun to write here"):
        run_fit(settings(tiles, tmp_path, epochs=1, seed=5), late, on_progress, fit=fit)
    after = tree_of(tmp_path)
    kept = {name for name in done[0] if not name.startswith(("events/", ".progress"))}
    assert {"state.pt", "best/model.safetensors", "metrics.csv"} <= kept
    assert {name: after.get(name) for name in kept} == {name: done[0][name] for name in kept}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": {**MODEL, "depth": 6}}, r"train\.model\.depth: 6 poolings need tiles of a multiple of 64 px"),
        ({"batch": 2, "workers": 3}, r"train\.batch: 2 tiles"),
        ({"class_weights": (1.0, 2.0)}, r"train\.class_weights: 2 weights for 3 classes"),
    ],
)
def test_settings_that_cannot_work_are_refused_early(tiles, tmp_path, options, message):
    with pytest.raises(SettingsError, match=message):
        train(settings(tiles, tmp_path / "fit", **options))


def test_a_store_without_training_tiles_or_without_end_is_refused(pairs, tiles, tmp_path):
    data = {
        "images": f"{pairs}/images",
        "masks": f"{pairs}/masks",
        "classes": ["matrix", "grain", "pore"],
        "tile": 32,
        "overlap": 0,
        "workers": 0,
    }
    tile(TileSettings(**data, output=str(tmp_path / "t"), splits={"val": 1.0}))
    with pytest.raises(SettingsError, match=r"no tiles in split train; its splits are \['val'\]"):
        train(settings(tmp_path / "t", tmp_path / "fit"))
    (tmp_path / "t/tiles.parquet").unlink()
    with pytest.raises(StoreError, match="the tile job did not finish"):
        train(settings(tmp_path / "t", tmp_path / "fit"))
    with pytest.raises(StoreError, match="no tile store is here"):
        train(settings(tmp_path / "nowhere", tmp_path / "fit"))


def test_a_loss_that_is_no_number_says_what_to_do(tiles, tmp_path):
    steep = {"name": "sgd", "learning_rate": 1e30, "warmup": 0.0, "schedule": "constant"}
    with pytest.raises(MicrosegError, match=r"the loss became (nan|inf) in epoch 1; lower optimizer\.learning_rate"):
        train(settings(tiles, tmp_path / "fit", optimizer=steep, model={**MODEL, "norm": "none"}, precision="fp32"))


def test_without_validation_the_training_score_selects(pairs, tmp_path):
    output = tmp_path / "tiles"
    tile(
        TileSettings(
            images=f"{pairs}/images",
            masks=f"{pairs}/masks",
            output=str(output),
            classes=["matrix", "grain", "pore"],
            tile=32,
            overlap=0,
            workers=0,
        )
    )
    result = train(settings(output, tmp_path / "fit", epochs=2))
    assert [row["val_mean_iou"] for row in result.history] == ["", ""]
    assert "no validation split" in read_card(result.best).metrics["selected_by"]


@pytest.mark.parametrize("kind", ["inverse", "median", (0.2, 0.5, 2.0)])
def test_class_weights_reach_the_loss(tiles, whole, tmp_path, kind):
    result = train(settings(tiles, tmp_path / "fit", epochs=1, class_weights=kind))
    assert result.history[0]["loss"] != whole.history[0]["loss"]
    if isinstance(kind, str):
        store = TileStore.open(tiles)
        table = np.array([[row[f"count_{index}"] for index in range(3)] for row in store.table.to_pylist()])
        counts = table[store.rows("train")]
        rarest_last = np.argsort(-counts.sum(axis=0)).tolist()
        assert np.argsort(class_weights_from_counts(counts, kind)).tolist() == rarest_last


def test_check_fit_opens_the_store(tiles):
    assert check_fit(settings(tiles, "unused"), Workers()).spec.side == 32


# --- on Ray Train --------------------------------------------------------------------------------------------------

INVARIANT = {"model": MODEL, "precision": "fp32", "epochs": 2}


@pytest.fixture(scope="module")
def plain(tiles, tmp_path_factory):
    return train(settings(tiles, tmp_path_factory.mktemp("plain") / "fit", **INVARIANT))


@pytest.mark.slow
@pytest.mark.ray
def test_one_ray_worker_equals_this_process(tiles, plain, tmp_path, ray_session):
    reports = []
    other = train(settings(tiles, tmp_path / "fit", workers=1, **INVARIANT), reports.append)
    assert without_times(other.history) == without_times(plain.history)
    assert same_weights(other.last, plain.last)
    assert reports[-1].epoch == 2
    assert sorted(path.name for path in (tmp_path / "fit").iterdir() if not path.name.startswith(".")) == [
        "accounting.csv",
        "best",
        "curves.png",
        "events",
        "last",
        "metrics.csv",
        "settings.json",
        "state.before.pt",
        "state.pt",
    ]


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("workers", [2, 4])
def test_several_ray_workers_equal_one(tiles, plain, tmp_path, ray_session, workers):
    """With batch norms: they see the whole global batch."""
    other = train(settings(tiles, tmp_path / "fit", workers=workers, **INVARIANT))
    for row, expected in zip(other.history, plain.history, strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-3)
        assert float(row["val_loss"]) == pytest.approx(float(expected["val_loss"]), rel=1e-3)
        assert float(row["val_mean_iou"]) == pytest.approx(float(expected["val_mean_iou"]), abs=2e-2)


@pytest.mark.slow
@pytest.mark.ray
def test_a_report_ends_a_fit_on_ray_workers_early(tiles, tmp_path, ray_session):
    chosen = {**INVARIANT, "epochs": 60, "workers": 1}

    def report(progress):
        if progress.last is not None:
            raise StopFit

    result = train(settings(tiles, tmp_path / "fit", **chosen), report)
    assert result.stopped == "stopped from outside"
    assert 1 <= len(result.history) < 60


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_ray_worker_is_replaced(tiles, tmp_path, ray_session, workers):
    """One is killed after the second epoch, once; the history is that of an undisturbed fit."""
    chosen = {**INVARIANT, "epochs": 6, "steps_per_epoch": 40, "workers": workers}
    killed = []

    def kill(progress):
        if not killed and progress.last is not None and progress.last["epoch"] >= 2:
            killed.append(own_process("RayTrainWorker"))
            os.kill(killed[0], signal.SIGKILL)

    result = train(settings(tiles, tmp_path / "killed", **chosen), kill)
    # One worker equals this process, which needs no Ray to start.
    calm = train(settings(tiles, tmp_path / "calm", **{**chosen, "workers": workers if workers > 1 else 0}))
    assert killed
    assert without_times(result.history) == without_times(calm.history)


def own_process(name: str) -> int:
    """The id of a process of this session's Ray, and of no other."""
    import psutil

    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if name in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                return process.pid
    raise AssertionError(f"no {name} runs")


def test_a_second_training_into_the_same_output_is_refused(tmp_path, tiles):
    with sole_writer(tmp_path / "model"), pytest.raises(RunMismatchError, match="another job is writing"):
        train(settings(tiles, tmp_path / "model"))
