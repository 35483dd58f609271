"""Settings: where values come from, and that nothing unknown is let through."""

from __future__ import annotations

import json
import pickle
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from microseg_ray.errors import SettingsError
from microseg_ray.settings import (
    JOBS,
    ClassSpec,
    DataSettings,
    OptimizerSettings,
    PlanSettings,
    SegmentSettings,
    TileSettings,
    TrainSettings,
    TuneSettings,
    default_color,
    load_settings,
    settings_from,
)

if TYPE_CHECKING:
    from pathlib import Path

from tests.settings.refusals import SEGMENT, TILE, TRAIN, refused


@pytest.fixture
def config(tmp_path: Path) -> Any:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# --- where values come from -----------------------------------------------------------------------------------------
SOURCES = ["default", "shared", "own", "environment", "command line"]


@given(
    st.sets(st.sampled_from(SOURCES[1:])), st.sets(st.sampled_from(SOURCES[1:])), st.sets(st.sampled_from(SOURCES[2:]))
)
def test_each_field_comes_from_the_highest_source_that_names_it(
    tmp_path_factory, plain: set, nested: set, other: set
) -> None:
    value = {name: index for index, name in enumerate(SOURCES)}
    document: dict[str, Any] = {"data": {}, "tile": {"ray": {}}, "ray": {}}
    arguments, environment = list(TILE), {}
    if "shared" in plain:
        document["data"]["seed"] = value["shared"]
    if "own" in plain:
        document["tile"]["seed"] = value["own"]
    if "environment" in plain:
        environment["MICROSEG_TILE__SEED"] = str(value["environment"])
    if "command line" in plain:
        arguments += ["--seed", str(value["command line"])]
    if "shared" in nested:
        document["ray"]["num_cpus"] = value["shared"]
    if "own" in nested:
        document["tile"]["ray"]["num_cpus"] = value["own"]
    if "environment" in nested:
        environment["MICROSEG_TILE__RAY__NUM_CPUS"] = str(value["environment"])
    if "command line" in nested:
        arguments += ["--ray.num_cpus", str(value["command line"])]
    # Another key of the same section, from elsewhere, must not wipe out what a lower source says of this one.
    if "own" in other:
        document["tile"]["ray"]["address"] = "own"
    if "environment" in other:
        environment["MICROSEG_TILE__RAY__ADDRESS"] = "environment"
    if "command line" in other:
        arguments += ["--ray.address", "command line"]

    def highest(named: set[str]) -> str:
        return max(named, key=SOURCES.index, default="default")

    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_text(json.dumps(document))  # JSON is YAML
    with pytest.MonkeyPatch.context() as patch:
        for name, text in environment.items():
            patch.setenv(name, text)
        loaded = load_settings(TileSettings, arguments, path)
    assert loaded.seed == value[highest(plain)]
    assert loaded.ray.num_cpus == (value[highest(nested)] or None)
    assert loaded.ray.address == (None if not other else highest(other))


def test_an_environment_variable_may_hold_a_whole_section(monkeypatch) -> None:
    monkeypatch.setenv("MICROSEG_TRAIN__OPTIMIZER", '{"name": "sgd"}')
    monkeypatch.setenv("microseg_train__epochs", "3")
    loaded = load_settings(TrainSettings, TRAIN)
    assert loaded.optimizer == OptimizerSettings(name="sgd")
    assert loaded.epochs == 3


def test_a_job_reads_its_own_section_and_the_shared_ones(config) -> None:
    path = config(
        "classes: [clay, silt]\ndata: {images: i, masks: m, group: '^[a-z]+'}\n"
        "tile: {tile: 64, output: o, overlap: 8}\ntrain: {epochs: 3, nonsense: 1}\ntune: {anything: 1}\nsegment:\n"
    )
    loaded = load_settings(TileSettings, [], path)
    assert (loaded.tile, loaded.images, loaded.group) == (64, "i", "^[a-z]+")
    assert [item.name for item in loaded.classes] == ["clay", "silt"]
    assert loaded.data == DataSettings(images="i", masks="m", group="^[a-z]+")
    assert load_settings(SegmentSettings, SEGMENT, path).archive == "a"  # an empty section is no section
    assert load_settings(SegmentSettings, SEGMENT, config("")) == load_settings(SegmentSettings, SEGMENT)


def test_settings_are_frozen_picklable_and_plain(tmp_path: Path) -> None:
    loaded = load_settings(TrainSettings, [*TRAIN, "--optimizer.name", "sgd"])
    assert type(loaded) is TrainSettings
    with pytest.raises(ValidationError):
        loaded.epochs = 3
    assert pickle.loads(pickle.dumps(loaded)) == loaded
    document = json.loads(json.dumps(loaded.resolved()))
    assert settings_from(TrainSettings, document) == loaded


NEEDED = {
    "tiles": "t",
    "output": "o",
    "run": "r",
    "archive": "a",
    "checkpoint": "c",
    "files": ("a.tif",),
    "images": "i",
    "masks": "m",
    "annotations": "n",
    "classes": ("a",),
    "search": {"epochs": (1, 2)},
    "min_speck": 2,
    "threshold": 0.5,
    "class_name": "a",
}


def least(name: str) -> dict[str, Any]:
    """Values that are enough to make the settings of a job."""
    fields = set(JOBS[name].model_fields) - ({"masks"} if name == "classifier" else set())
    return {key: value for key, value in NEEDED.items() if key in fields}


@pytest.mark.parametrize("name", JOBS)
def test_a_settings_class_reads_no_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = JOBS[name]
    before = cls(**least(name)).resolved()
    for field in cls.model_fields:
        for prefix in ("", f"MICROSEG_{name.upper()}__"):
            monkeypatch.setenv(prefix + field.upper(), "7")
    monkeypatch.setenv("MEMORY", "0.001")
    monkeypatch.setenv("TILE", "96")
    assert cls(**least(name)).resolved() == before
    assert settings_from(cls, least(name)).resolved() == before
    assert settings_from(cls, before).resolved() == before


def test_settings_from_plain_values_sees_no_environment(monkeypatch) -> None:
    monkeypatch.setenv("MICROSEG_TRAIN__EPOCHS", "3")
    assert settings_from(TrainSettings, {"tiles": "t", "output": "o"}).epochs == 20
    with pytest.raises(SettingsError, match=r"train\.epoch: no such setting"):
        settings_from(TrainSettings, {"tiles": "t", "output": "o", "epoch": 3})


# --- what is unknown is refused, by name ----------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tle: {}", "unknown section 'tle'; known are classes, data, ray"),
        ("tile: {til: 3}", "tile.til: no such setting; known are images"),
        ("tile: {scaling: {kin: fixed}}", "tile.scaling.kin: no such setting; known are kind, low, high"),
        ("data: {immages: a}", "data.immages: no such key; known are images"),
        ("data: []", "data: must hold keys"),
        ("data: 0", "data: must hold keys"),
        ("tile: 3", "tile: must hold keys"),
        ("- a", "not list"),
        ("seven", "not str"),
        ("tile: {seed: 1, seed: 2}", "line 1: the key 'seed' is here for the second time"),
        ("tile: {}\ndata: {}\ntile: {}", "line 3: the key 'tile' is here for the second time"),
        ("classes:\n- {name: a, name: b}", "line 2: the key 'name'"),
        ("1: {}", "line 1: the key '1' is not read as text"),
        ("tile: {no: 3}", "the key 'no' is not read as text"),
        ("data: &here {}\ntile: *here", "aliases"),
        ("tile: [1", "not valid YAML"),
        ("tile: !!python/object:os.system {}", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("[" * 1000, "nested deeper than 50 levels"),
        ("#" * (1 << 20) + "\n", "larger than 1048576 bytes"),
        ("classes: clay", "tile.classes"),
        ("classes: {a: 1}", "tile.classes"),
        ("classes: [no, yes]", "tile.classes.0"),
    ],
)
def test_a_bad_config_is_refused_and_named(text: str | bytes, message: str, config) -> None:
    path = config(text)
    said = refused(TileSettings, TILE, path)
    assert message in said
    assert message.startswith("tile.classes") or str(path) in said


def test_a_config_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "none.yaml: the config cannot be read (No such file" in refused(TileSettings, TILE, tmp_path / "none.yaml")
    assert "cannot be read (Is a directory)" in refused(TileSettings, TILE, tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("MICROSEG_TRAIN__EPOCH", "environment variable MICROSEG_TRAIN__EPOCH: `train` has no setting 'epoch'"),
        ("MICROSEG_TRAIN__OPTIMIZER__NAM", "train.optimizer.nam: no such setting; known are name, learning_rate"),
        (
            "MICROSEG_TRAIN_EPOCHS",
            "MICROSEG_TRAIN_EPOCHS: names no job; write MICROSEG_JOB__KEY, as in MICROSEG_TRAIN__",
        ),
        ("MICROSEG_TRIAN__EPOCHS", "MICROSEG_TRIAN__EPOCHS: names no job"),
        ("MICROSEG_TRAIN__EPOCHS", "train.epochs: Input should be a valid integer"),
        ("MICROSEG_TRAIN__OPTIMIZER", 'train: error parsing value for field "optimizer"'),
    ],
)
def test_a_bad_environment_variable_is_refused_and_named(name: str, message: str, monkeypatch) -> None:
    monkeypatch.setenv(name, "seven")
    assert message in refused(TrainSettings, TRAIN)


def test_the_variables_of_other_jobs_do_not_matter(monkeypatch) -> None:
    monkeypatch.setenv("MICROSEG_SEGMENT__NONSENSE", "1")
    monkeypatch.setenv("MICROSEG_TUNE__TRIALS", "1")
    assert load_settings(TrainSettings, TRAIN).epochs == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epoch", "3"], "--epoch: no such option of `train`; did you mean --epochs?"),
        (["--optimizer.nam", "sgd"], "--optimizer.nam: no such option of `train`; did you mean --optimizer.name?"),
        (["--qqqq"], "--qqqq: no such option of `train`; see microseg train --help"),
        (["--no-epochs"], "--no-epochs: no such option of `train`"),
        (["stray"], "unrecognized arguments: stray"),
        (["-e", "3"], "unrecognized arguments: -e 3"),
        (["--epochs"], "--epochs: expected one argument"),
        (["--epochs", "many"], "train.epochs: Input should be a valid integer"),
        (["--epochs", "0"], "train.epochs: Input should be greater than or equal to 1 (got '0')"),
        (["--model.depth", "9"], "train.model.depth: Input should be less than or equal to 7"),
        (["--optimizer.learning_rate", "nan"], "train.optimizer.learning_rate: Input should be a finite number"),
        (["--optimizer.learning_rate", "inf"], "train.optimizer.learning_rate: Input should be a finite number"),
        (["--precision", "fp8"], "train.precision: Input should be 'auto', 'bf16', 'fp16' or 'fp32' (got 'fp8')"),
        (["--augment=maybe"], "train.augment: must be true or false (got 'maybe')"),
        (["--augment", "maybe"], "unrecognized arguments: maybe"),
    ],
)
def test_a_bad_option_is_refused_and_named(arguments: list[str], message: str) -> None:
    assert message in refused(TrainSettings, [*TRAIN, *arguments])


def test_what_is_missing_is_named() -> None:
    said = refused(TrainSettings, [])
    assert "train.tiles: missing; give --tiles or put `tiles:` under `train:` in the config" in said
    assert "train.output: missing" in said


def test_long_input_is_shortened_in_messages() -> None:
    assert len(refused(TileSettings, [*TILE, "--seed", "x" * 5000])) < 300


@pytest.mark.parametrize("name", JOBS)
def test_every_job_has_help(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        load_settings(JOBS[name], ["--help"])
    assert caught.value.code == 0
    assert f"usage: microseg {name}" in capsys.readouterr().out


# --- flags ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], True),
        (["--augment"], True),
        (["--no-augment"], False),
        (["--augment", "false"], False),
        (["--augment", "False"], False),
        (["--augment=false"], False),
        (["--augment", "true"], True),
        (["--augment=TRUE"], True),
        (["--augment", "--gpu"], True),
        (["--augment", "false", "--augment", "true"], True),
    ],
)
def test_flags_may_be_spelled_out(arguments: list[str], expected: bool) -> None:
    assert load_settings(TrainSettings, [*TRAIN, *arguments]).augment is expected


@pytest.mark.parametrize("value", ["", "x=", "=x", "a=b", "true", "false", "-1", "^a|b$"])
@pytest.mark.parametrize("joined", [True, False])
def test_values_are_passed_on_as_they_are(value: str, joined: bool) -> None:
    arguments = [f"--image_suffix={value}"] if joined else ["--image_suffix", value]
    assert load_settings(TileSettings, [*TILE, *arguments]).image_suffix == value


def test_classes_from_yaml(config) -> None:
    path = config("classes: [clay, {name: silt, color: '#FF0000'}]")
    assert [item.color for item in load_settings(TileSettings, TILE, path).classes] == [default_color(0), "#FF0000"]
    given_as_objects = settings_from(
        TileSettings, {"output": "o", "classes": [ClassSpec(name="a"), ClassSpec(name="b")]}
    )
    assert [item.name for item in given_as_objects.classes] == ["a", "b"]


def test_one_pixel_size_is_a_square(config) -> None:
    assert load_settings(SegmentSettings, [*SEGMENT, "--pixel_size_um", "0.5"]).pixel_size_um == (0.5, 0.5)
    path = config("segment: {pixel_size_um: 2}")
    assert load_settings(SegmentSettings, SEGMENT, path).pixel_size_um == (2.0, 2.0)
    assert load_settings(SegmentSettings, SEGMENT).pixel_size_um is None


def test_tune_reads_the_train_section_under_its_own(tmp_path):
    config = tmp_path / "both.yaml"
    config.write_text(
        "data: {images: i}\ntrain: {tiles: t, output: fit, workers: 2, gpu: true, epochs: 5, batch: 4}\n"
        "tune: {output: search, epochs: 2, search: {batch: [1, 2]}}\n"
    )
    tuned = load_settings(TuneSettings, [], config)
    assert (tuned.tiles, tuned.output, tuned.epochs, tuned.batch) == ("t", "search", 2, 4)
    assert tuned.data.images == "i"
    config.write_text("train: {tiles: t, output: fit}\ntune: {search: {batch: [1, 2]}}\n")
    assert "tune.output: missing" in refused(TuneSettings, [], config)


def test_plan_reads_the_segment_section_under_its_own(tmp_path):
    config = tmp_path / "both.yaml"
    config.write_text("segment: {archive: a, checkpoint: c, output: o, halo: 64}\nplan: {halo: 32}\n")
    planned = load_settings(PlanSettings, [], config)
    assert (planned.archive, planned.output, planned.halo) == ("a", "o", 32)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"symmetries": True, "rotate": 0.0, "contrast": 0.1}),
        (["--no-augment"], {"symmetries": False, "contrast": 0.0}),
        (
            ["--augment.rotate", "180", "--augment.scale", "0.7,1.4"],
            {"rotate": 180.0, "scale": (0.7, 1.4), "contrast": 0.1},
        ),
    ],
)
def test_augment_is_a_switch_or_a_section(arguments, expected) -> None:
    chosen = load_settings(TrainSettings, [*TRAIN, *arguments])
    found = chosen.augmentation.model_dump()
    assert {name: found[name] for name in expected} == expected
    assert settings_from(TrainSettings, chosen.resolved()) == chosen


def test_a_loss_is_a_name_or_weights(tmp_path) -> None:
    config = tmp_path / "c.yaml"
    for text, terms in (
        ("dice", {"dice": 1.0}),
        ("{cross_entropy: 1, lovasz: 0.5}", {"cross_entropy": 1.0, "lovasz": 0.5}),
        ("{gamma: 3}", {"cross_entropy": 1.0}),
    ):
        config.write_text(f"train: {{tiles: t, output: o, loss: {text}}}\n")
        chosen = load_settings(TrainSettings, [], config)
        assert chosen.loss.terms == terms
        assert settings_from(TrainSettings, chosen.resolved()) == chosen
    config.write_text("train: {tiles: t, output: o, loss: focall}\n")
    with pytest.raises(SettingsError, match=r"train\.loss\.focall: no such setting; known are cross_entropy"):
        load_settings(TrainSettings, [], config)
    with pytest.raises(SettingsError, match="accumulate: 9 parts of a batch of 8 tiles"):
        load_settings(TrainSettings, [*TRAIN, "--accumulate", "9"])
