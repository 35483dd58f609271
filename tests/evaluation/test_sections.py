"""What `measure` finds in a run without any truth: sections that hold a class, percentages, overlays."""

from __future__ import annotations

import csv
import shutil
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.errors import SettingsError
from microseg_ray.evaluation import sections
from microseg_ray.evaluation.sections import ShapeRule, class_sections, sections_of_run, with_shape
from microseg_ray.figures.pictures import class_palette
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.folder import Run
from microseg_ray.settings import ClassSpec, SegmentSettings, settings_from
from microseg_ray.sources import read_mask
from tests.tints import decode_tint

MEASURE = ("measure", "--exports.write", "false", "--run")
CLASSES = tuple(ClassSpec(name=name) for name in ("background", "Hot pixel"))


@pytest.fixture(scope="module")
def segmented(checkpoint, archive, tmp_path_factory):
    """Four micrographs of several sizes; shards do not fit the sections."""
    output = tmp_path_factory.mktemp("sections") / "run"
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "workers": 0, "shard": 256}
    segment(settings_from(SegmentSettings, {**chosen, "source": {"info_bar": "none"}}))
    return output


@pytest.fixture
def run(segmented, tmp_path):
    shutil.copytree(segmented, tmp_path / "run")
    return tmp_path / "run"


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.integers(0, 99), st.sampled_from([None, 0, 1]))
def test_rows_of_sections_give_what_the_whole_mask_does(height, width, size, seed, only):
    mask = np.random.default_rng(seed).choice(np.array([0, 1, 255], np.uint8), (height, width))
    by_rows = sections._by_rows(mask, CLASSES, size, only)
    assert by_rows == class_sections(mask, CLASSES, size, only)


def test_every_section_of_a_run_is_listed_by_brute_force(microseg, run, archive):
    ran = microseg(*MEASURE, run, "--sections", 100, "--find", " GRAIN ")
    assert ran.code == 0, ran.err
    expected = []
    names = sorted(path.relative_to(archive).as_posix() for path in archive.rglob("*") if path.is_file())
    for name in names:
        mask = read_mask(run / "masks" / f"{name}.zarr")
        across = -(-mask.shape[1] // 100)
        for y0 in range(0, mask.shape[0], 100):
            for x0 in range(0, mask.shape[1], 100):
                count = int((mask[y0 : y0 + 100, x0 : x0 + 100] == 1).sum())
                if count:
                    expected.append((name, str(y0 // 100 * across + x0 // 100), str(y0), str(x0), str(count)))
    found = rows_of(run / "sections.csv")
    assert [
        tuple(row[key] for key in ("micrograph", "section", "y0", "x0", "pixel_count")) for row in found
    ] == expected
    assert {row["class_name"] for row in found} == {"grain"}
    assert f"{names[0]}, section" in ran.out or len(expected) > 20
    everything = microseg(*MEASURE, run, "--sections", 100)
    assert everything.code == 0
    assert {row["class_name"] for row in rows_of(run / "sections.csv")} == {"matrix", "grain", "pore"}


def test_percentages_have_four_decimals_and_add_up_to_100(microseg, run):
    assert microseg(*MEASURE, run, "--sections", 64).code == 0
    shares = rows_of(run / "percentages.csv")
    areas = {(row["micrograph"], row["class_name"]): row for row in rows_of(run / "areas.csv")}
    assert len(shares) == len(areas) == 12
    totals: dict[str, Decimal] = {}
    for row in shares:
        area = areas[row["micrograph"], row["class_name"]]
        assert row["pixel_count"] == area["pixel_count"]
        assert len(row["percent"].partition(".")[2]) == 4
        assert float(row["percent"]) == pytest.approx(100 * float(area["area_fraction"]), abs=1e-4)
        totals[row["micrograph"]] = totals.get(row["micrograph"], Decimal(0)) + Decimal(row["percent"])
    assert set(totals.values()) == {Decimal("100.0000")}


def test_shape_rules_are_about_the_whole_mask(microseg, run, monkeypatch):
    options = (*MEASURE, run, "--sections", 50, "--find", "pore")
    ran = microseg(*options, "--find_lines", "--find_max_pixels", 3)
    assert ran.code == 0, ran.err
    name = "exact.tif"
    mask = read_mask(run / "masks" / f"{name}.zarr")
    classes = Run.open(run).classes
    expected = class_sections(with_shape(mask, 2, ShapeRule(3, lines_only=True)), classes, 50, 2)
    found = [row for row in rows_of(run / "sections.csv") if row["micrograph"] == name]
    assert [(int(row["y0"]), int(row["x0"]), int(row["pixel_count"])) for row in found] == [
        (row.y0, row.x0, row.pixel_count) for row in expected
    ]
    monkeypatch.setattr(sections, "MAX_SHAPE_PIXELS", 1000)
    with pytest.raises(SettingsError, match="too large for find_max_pixels"):
        sections_of_run(Run.open(run), 50, "pore", ShapeRule(3))
    assert sections_of_run(Run.open(run), 50, "pore").rows


def test_wrong_questions_are_named(microseg, run):
    assert "there are matrix, grain, pore" in microseg(*MEASURE, run, "--sections", 9, "--find", "hot").err
    assert "give sections" in microseg(*MEASURE, run, "--find", "pore").err
    assert "give find" in microseg(*MEASURE, run, "--sections", 9, "--find_lines").err


def test_overlays_give_the_masks_back_and_are_never_read_again(microseg, run, archive, checkpoint):
    ran = microseg(*MEASURE, run, "--overlays", 10)
    assert ran.code == 0, ran.err
    drawn = sorted(path.relative_to(run / "overlays").as_posix() for path in (run / "overlays").rglob("*.png"))
    assert drawn == sorted(
        f"{path.relative_to(archive).as_posix()}.png" for path in archive.rglob("*") if path.is_file()
    )
    palette = class_palette(Run.open(run).classes)
    gray = np.asarray(Image.open(archive / "2019/run #2 (a)/small.png"))
    picture = np.asarray(Image.open(run / "overlays/2019/run #2 (a)/small.png.png"))
    mask = read_mask(run / "masks/2019/run #2 (a)/small.png.zarr")
    assert (decode_tint(picture, np.stack([gray] * 3, axis=-1), palette) == mask).all()
    color = palette[mask].astype(float)
    assert np.abs(picture - (0.65 * gray[..., None] + 0.35 * color)).max() <= 0.5 + 1e-9
    again = microseg(
        *("segment", "--archive", archive, "--checkpoint", checkpoint, "--output", run, "--workers", 0),
        *("--shard", 256, "--source.info_bar", "none"),
    )
    assert "0 shards computed, 4 micrographs were complete already" in again.out
    # They would be of an older mask now, had anything been computed.
    assert not (run / "overlays").exists()


@pytest.mark.slow
def test_few_overlays_are_spread_and_what_cannot_be_drawn_is_named(microseg, checkpoint, new_archive, tmp_path):
    new_archive(tmp_path / "archive")
    options = ("--checkpoint", checkpoint, "--output", tmp_path / "run", "--workers", 0)
    assert microseg("segment", "--archive", tmp_path / "archive", *options).code == 0
    assert microseg("measure", "--run", tmp_path / "run", "--overlays", 2).code == 0
    assert len(list((tmp_path / "run/overlays").rglob("*.png"))) == 2
    (tmp_path / "archive/exact.tif").unlink()
    ran = microseg("measure", "--run", tmp_path / "run", "--overlays", 9)
    assert ran.code == 0
    assert "exact.tif, no overlay:" in ran.out
    assert len(list((tmp_path / "run/overlays").rglob("*.png"))) == 3
