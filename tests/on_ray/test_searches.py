"""The tune job: what a trial is made of, and whole searches on the session's Ray, killed and gone on with."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from microseg_ray.errors import SettingsError
from microseg_ray.fitting.search.trials import Trial, merged_settings
from microseg_ray.report.sweep import axes_of
from microseg_ray.settings import TuneSettings, load_settings

CLASSES = ["matrix", "grain", "pore"]


@pytest.fixture(scope="module")
def tiles(tmp_path_factory, pairs):
    from microseg_ray.cli import main

    folder = tmp_path_factory.mktemp("tuned") / "tiles"
    handler = signal.getsignal(signal.SIGTERM)
    arguments = {
        "images": pairs / "images",
        "masks": pairs / "masks",
        "group": "^([0-9]+)_",
        "classes": json.dumps(CLASSES),
        "splits": json.dumps({"val": ["1"], "test": ["3"]}),
        "output": folder,
        "tile": 32,
        "overlap": 0,
        "workers": 0,
    }
    assert main(["tile", *(str(part) for key, value in arguments.items() for part in (f"--{key}", value))]) == 0
    signal.signal(signal.SIGTERM, handler)
    return folder


def config_of(tmp_path, tiles, **tune):
    train = {
        "tiles": str(tiles),
        "output": "unused",
        "epochs": 2,
        "steps_per_epoch": 2,
        "batch": 4,
        "precision": "fp32",
        "model": {"width": 2, "depth": 1},
    }
    document = {"train": train, "tune": {"output": str(tmp_path / "sweep"), **tune}}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


SEARCH = {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "model.width": [2, 4]}


def test_a_search_takes_what_it_does_not_name_from_train(tmp_path, tiles):
    settings = load_settings(TuneSettings, [], config_of(tmp_path, tiles, search=SEARCH, trials=3))
    assert (settings.epochs, settings.trials) == (2, 3)
    trial = merged_settings(settings, {"optimizer.learning_rate": 0.25, "model.width": 4}, "somewhere")
    assert (trial.optimizer.learning_rate, trial.model.width, trial.model.depth) == (0.25, 4, 1)
    assert (trial.output, trial.batch) == ("somewhere", 4)


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ({}, "name at least one"),
        ({"optimizer.learning_rate": {"low": 1.0, "high": 0.1}}, "below"),
        ({"optimizer.learning_rate": {"low": 0.0, "high": 0.1, "log": True}}, "above 0"),
        ({"model.width": {"low": 1}}, "list of values"),
        ({"model.width": []}, "one or more"),
    ],
)
def test_an_impossible_space_is_refused(tmp_path, tiles, search, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(TuneSettings, [], config_of(tmp_path, tiles, search=search))


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        ({"algorithm": "grid", "search": SEARCH}, "grid needs a list"),
        ({"algorithm": "cmaes", "search": SEARCH}, "cmaes needs a range"),
        ({"algorithm": "tpe", "scheduler": "pbt", "search": SEARCH}, "pbt"),
        ({"objective": "area_error", "search": SEARCH}, "data.images"),
    ],
)
def test_algorithms_say_what_they_cannot_search(tmp_path, tiles, tune, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(TuneSettings, [], config_of(tmp_path, tiles, **tune))


@pytest.mark.parametrize("key", ["optimizer.learning_rat", "modell.width", "epochs.more"])
def test_a_setting_that_train_does_not_have_is_named(tmp_path, tiles, key):
    settings = load_settings(TuneSettings, [], config_of(tmp_path, tiles, search={key: [1, 2]}))
    with pytest.raises(SettingsError, match=key.split(".")[-1]):
        merged_settings(settings, {key: 1}, "x")


def test_a_store_without_val_is_refused(tmp_path, tiles, microseg, pairs):
    store = tmp_path / "tiles"
    ran = microseg(
        *("tile", "--images", pairs / "images", "--masks", pairs / "masks", "--classes", json.dumps(CLASSES)),
        *("--output", store, "--tile", 32, "--overlap", 0, "--workers", 0),
    )
    assert ran.code == 0
    ran = microseg("tune", config_of(tmp_path, store, search=SEARCH))
    assert ran.code == 2
    assert "no split val" in ran.err


def trials_of(folder):
    with (folder / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "tune",
    [
        {"algorithm": "grid", "search": {"model.width": [2, 4]}, "trials": 6},
        pytest.param({"algorithm": "tpe", "search": SEARCH, "trials": 2, "scheduler": "asha"}, marks=pytest.mark.slow),
    ],
    ids=["grid", "tpe-asha"],
)
def test_a_search_ends_in_a_table_a_page_and_a_checkpoint(tmp_path, tiles, microseg, tune, archive):
    ran = microseg("tune", config_of(tmp_path, tiles, **tune))
    assert ran.code == 0, ran.err
    output = tmp_path / "sweep"
    rows = trials_of(output)
    assert len(rows) == 2
    scores = [float(row["mean_iou"]) for row in rows]
    assert scores == sorted(scores, reverse=True)
    # The best trial's score is the best of its epochs, as its own fit tells it.
    with (output / "trials" / rows[0]["trial"] / "metrics.csv").open(encoding="utf-8") as file:
        own = [float(row["val_mean_iou"]) for row in csv.DictReader(file)]
    assert scores[0] == pytest.approx(max(own))
    assert pq.read_table(output / "trials.parquet").num_rows == len(rows)
    page = (output / "trials.html").read_text(encoding="utf-8")
    assert page.count("<polyline") == len(rows)
    # The checkpoint segments.
    ran = microseg(
        *("segment", "--archive", archive / "exact.tif", "--checkpoint", output / "best", "--output", tmp_path / "run"),
        *("--workers", 0),
    )
    assert ran.code == 0, ran.err
    if tune["algorithm"] == "grid":
        # The same again computes nothing: the trials and their times are those of the first.
        assert microseg("tune", tmp_path / "config.yaml").code == 0
        assert trials_of(output) == rows
        # Another search is not mixed into the same folder.
        ran = microseg("tune", tmp_path / "config.yaml", "--epochs", 3)
        assert ran.code != 0
        assert "another output" in ran.err


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_area_error_is_an_objective(tmp_path, tiles, microseg, pairs):
    """With CMA-ES, which takes ranges only."""
    search = {**SEARCH, "optimizer.weight_decay": {"low": 0.0, "high": 0.1}}
    del search["model.width"]
    path = config_of(tmp_path, tiles, search=search, trials=2, objective="area_error", algorithm="cmaes")
    document = json.loads(path.read_text(encoding="utf-8"))
    document["data"] = {
        "images": str(pairs / "images"),
        "masks": str(pairs / "masks"),
        "group": "^([0-9]+)_",
        "splits": {"val": ["1"], "test": ["3"]},
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    ran = microseg("tune", path)
    assert ran.code == 0, ran.err
    errors = [float(row["area_error"]) for row in trials_of(tmp_path / "sweep")]
    assert errors == sorted(errors)
    assert all(0 <= error <= 1 for error in errors)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_population_based_training_copies_weights(tmp_path, tiles, microseg):
    search = {"optimizer.learning_rate": [1e-5, 3e-2]}
    path = config_of(tmp_path, tiles, search=search, trials=2, scheduler="pbt", concurrent=2)
    ran = microseg("tune", path, "--epochs", 4)
    assert ran.code == 0, ran.err
    assert len(trials_of(tmp_path / "sweep")) == 2


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_killed_search_of_twelve_trials_goes_on_and_keeps_what_was_finished(tmp_path, tiles):
    """ASHA over learning rate, optimizer and width; the driver is killed half-way."""
    search = {**SEARCH, "optimizer.name": ["adamw", "sgd", "rmsprop"]}
    path = config_of(tmp_path, tiles, search=search, trials=12, scheduler="asha", algorithm="random")
    command = [sys.executable, "-m", "microseg_ray.cli", "tune", str(path)]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    trials = tmp_path / "sweep" / "trials"
    deadline = time.monotonic() + 700
    try:
        while len(list(trials.glob("*/metrics.csv"))) < 6:
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.5)
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    finished = {
        folder.name: (folder / "metrics.csv").read_bytes()
        for folder in trials.iterdir()
        if (folder / "metrics.csv").exists() and len((folder / "metrics.csv").read_text().splitlines()) == 3
    }
    assert finished
    subprocess.run(command, env=environment, check=True, timeout=700)
    rows = trials_of(tmp_path / "sweep")
    assert len(rows) == 12
    assert {row["trial"] for row in rows} >= set(finished)
    for name, table in finished.items():
        assert (trials / name / "metrics.csv").read_bytes() == table
    assert (tmp_path / "sweep" / "best" / "model.safetensors").exists()


def test_axes_place_numbers_by_value_and_words_by_rank():
    trials = [
        Trial("a", {"lr": 1e-4, "name": "sgd"}, 0.9, 2, 1.0, "done", Path("a")),
        Trial("b", {"lr": 1e-2, "name": "adam"}, 0.5, 2, 1.0, "stopped", Path("b")),
        Trial("c", {"lr": 1e-3, "name": "adam"}, None, 0, 1.0, "failed", None, "why"),
    ]
    rate, name, score = axes_of(trials, ["lr", "name"], "mean_iou")
    low, high, middle = rate.places
    assert low > middle > high
    assert middle == pytest.approx((low + high) / 2)
    assert name.places[1] == name.places[2] != name.places[0]
    assert score.places[2] is None


def test_a_number_in_a_name_is_a_place_in_a_list(tmp_path, tiles):
    search = {"class_weights.1": {"low": 1, "high": 50}}
    path = config_of(tmp_path, tiles, search=search, class_weights=[1, 2, 3])
    settings = load_settings(TuneSettings, [], path)
    assert merged_settings(settings, {"class_weights.1": 7.5}, "x").class_weights == (1, 7.5, 3)
    assert settings.class_weights == (1, 2, 3)
    for key in ("class_weights.3", "class_weights.one", "class_weights.1.2"):
        with pytest.raises(SettingsError, match="no such setting"):
            merged_settings(settings, {key: 1}, "x")


def test_the_search_for_defects_has_the_seven_parameters_of_the_original():
    """Learning rate, its decay, two regularisations, weight of positives, and what else weighs rare classes, contrast."""
    config = Path(__file__).resolve().parents[2] / "configs/defects.yaml"
    settings = load_settings(TuneSettings, [], config)
    assert settings.algorithm == "cmaes"
    assert settings.trials == 100
    assert len(settings.search) == 7
    rate = settings.search["optimizer.learning_rate"]
    assert (rate.low, rate.high, rate.log) == (1e-5, 1e-3, True)
    middle = {key: (space.low + space.high) / 2 for key, space in settings.search.items()}
    trial = merged_settings(settings, middle, "x")
    assert trial.optimizer.plateau.factor == 0.5
    assert trial.class_weights[1] == 25.5
    assert trial.augmentation.contrast == 0.25
    # A kept rate must be able to fall within a trial.
    assert trial.optimizer.plateau.patience < trial.epochs
