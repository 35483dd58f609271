"""Values of settings: classes, scalings, splits, pixel sizes, names of files."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from microseg_ray.settings import (
    ClassSpec,
    EvaluateSettings,
    InfoSettings,
    MeasureSettings,
    Scaling,
    SegmentSettings,
    SimulateSettings,
    TileSettings,
    TrainSettings,
    default_color,
    load_settings,
)
from tests.settings.refusals import SEGMENT, TILE, TRAIN, refused


# --- classes, scaling, splits, pixel sizes --------------------------------------------------------------------------
@pytest.mark.parametrize(
    "arguments",
    [
        ["--classes", "clay,silt"],
        ["--classes", '["clay", "silt"]'],
        ["--classes", "clay", "--classes", "silt"],
        ["--classes", '[{"name": "clay"}, {"name": "silt"}]'],
        ["--classes", '[{"name": "clay", "color": ""}, {"name": "silt", "color": "#e69f00"}]'],
    ],
)
def test_classes_can_be_written_in_several_ways(arguments: list[str]) -> None:
    expected = (ClassSpec(name="clay", color=default_color(0)), ClassSpec(name="silt", color=default_color(1)))
    assert load_settings(TileSettings, [*TILE, *arguments]).classes == expected


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("clay,clay", "tile.classes: class name used twice: clay"),
        (",".join(f"c{index}" for index in range(256)), "256 classes: at most 255 fit a uint8 mask"),
        ('[{"name": "clay", "colour": "#ff0000"}]', "tile.classes.0.colour: no such setting; known are name, color"),
        ('[{"color": "#ff0000"}]', "tile.classes.0.name: missing"),
        ('[{"name": ""}]', "tile.classes.0.name"),
        ('[{"name": "a", "color": "red"}]', "tile.classes.0.color"),
        ('[{"name": "a", "color": "#ff00"}]', "tile.classes.0.color"),
        ("[3]", "tile.classes.0"),
    ],
)
def test_impossible_classes_are_refused(classes: str, message: str) -> None:
    assert message in refused(TileSettings, [*TILE, "--classes", classes])


@given(st.integers(0, 300))
def test_default_colours_are_colours(index: int) -> None:
    ClassSpec(name="a", color=default_color(index))
    assert len({default_color(other) for other in range(255)}) > 200


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"low": 1.0}, "go with kind fixed or percentile"),
        ({"kind": "fixed"}, "needs scaling.low < scaling.high"),
        ({"kind": "fixed", "low": 2.0, "high": 2.0}, "needs scaling.low < scaling.high"),
        ({"kind": "percentile", "low": -1.0, "high": 99.0}, "0 to 100"),
        ({"kind": "percentile", "low": 1.0, "high": 101.0}, "0 to 100"),
        ({"kind": "fixed", "low": float("nan"), "high": 1.0}, "finite"),
        ({"kind": "fixed", "low": 0.0, "high": float("inf")}, "finite"),
    ],
)
def test_impossible_scalings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Scaling(**values)


def test_scaling_from_the_command_line() -> None:
    arguments = ["--scaling.kind", "percentile", "--scaling.low", "1", "--scaling.high", "99"]
    assert load_settings(TileSettings, [*TILE, *arguments]).scaling == Scaling(kind="percentile", low=1, high=99)
    assert "tile.scaling: scaling.low and scaling.high go with" in refused(TileSettings, [*TILE, "--scaling.high", "9"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("val=0.2", {"val": 0.2}),
        ("val=0.2,test=0.1", {"val": 0.2, "test": 0.1}),
        ('{"val": ["a", "b"]}', {"val": ("a", "b")}),
    ],
)
def test_splits_are_shares_or_lists(text: str, expected: dict[str, Any]) -> None:
    assert load_settings(TileSettings, [*TILE, "--splits", text]).splits == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--splits", "val=1.2"], "must lie between 0 and 1"),
        (["--splits", "val=-0.1"], "must lie between 0 and 1"),
        (["--splits", "val=0.7,test=0.7"], "not exceed 1 together"),
        (["--splits.val", "0.2"], "did you mean --splits?"),
        (["--group", "("], "group '(' is not a regular expression"),
        (["--overlap", "256"], "overlap 256 must be smaller than tile 256"),
    ],
)
def test_impossible_data_is_refused(arguments: list[str], message: str) -> None:
    assert message in refused(TileSettings, [*TILE, *arguments])


@pytest.mark.parametrize("text", ["0.5,0.25", "[0.5, 0.25]"])
def test_pixel_sizes_are_y_then_x(text: str) -> None:
    assert load_settings(SegmentSettings, [*SEGMENT, "--pixel_size_um", text]).pixel_size_um == (0.5, 0.25)
    assert load_settings(MeasureSettings, ["--run", "r", "--pixel_size_um", text]).pixel_size_um == (0.5, 0.25)


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1,2,3", "wide"])
def test_an_impossible_pixel_size_is_refused(text: str) -> None:
    assert "segment.pixel_size_um" in refused(SegmentSettings, [*SEGMENT, "--pixel_size_um", text])


def test_other_forms() -> None:
    assert load_settings(InfoSettings, ["a.tif", "b.tif"]).files == ("a.tif", "b.tif")
    assert "FILES" in refused(InfoSettings, [])
    assert load_settings(SimulateSettings, ["--output", "o", "--size", "400"]).size == 400
    assert load_settings(SimulateSettings, ["--output", "o", "--size", "400,300"]).size == (400, 300)
    assert load_settings(TrainSettings, [*TRAIN, "--class_weights", "1,2.5"]).class_weights == (1.0, 2.5)
    assert load_settings(TrainSettings, [*TRAIN, "--class_weights", "median"]).class_weights == "median"
    assert load_settings(TrainSettings, [*TRAIN, "--max_failures", "-1"]).max_failures == -1
    assert load_settings(SegmentSettings, [*SEGMENT, "--tile", "auto", "--halo", "96"]).halo == 96


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either predictions (predicted masks) or checkpoint"),
        (["--predictions", "p", "--checkpoint", "c"], "not both or none"),
        (["--predictions", "p"], "masks: the folder of true masks is missing"),
        (["--checkpoint", "c", "--masks", "m"], "images: a checkpoint needs micrographs"),
    ],
)
def test_evaluate_needs_one_source(arguments: list[str], message: str) -> None:
    assert message in refused(EvaluateSettings, ["--output", "o", *arguments])


@pytest.mark.parametrize(
    "names",
    [
        ["a,b.tif"],
        ['["x].tif', 'c"d.tif'],
        ["{a}.tif", " b.tif", "null", "true", "3", "é\\.tif"],
        ["a\udcff.tif"],
        [""],
    ],
)
def test_a_file_name_is_one_value_whatever_is_in_it(names: list[str]) -> None:
    assert load_settings(InfoSettings, names).files == tuple(names)
    assert load_settings(InfoSettings, ["--json", *names, "--source.page", "2"]).files == tuple(names)
    mixed = load_settings(InfoSettings, [names[0], "--source.page", "2", *names[1:], "--", "-x,--json"])
    assert mixed.files == (*names, "-x,--json")
    assert not mixed.as_json
