"""Objects of a run: tables, label images, and what becomes of runs and micrographs that are not as they should be."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
import yaozarrs
import zarr
from scipy import ndimage

from microseg_ray.runs.folder import OBJECT_TABLES, Run
from microseg_ray.runs.objects import measure_objects
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import ClassSpec, ObjectSettings
from microseg_ray.statistics.objects import table as object_table
from tests.finished_runs import finished_run

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="grain, large"), ClassSpec(name="pore"))
SHAPES = {"a.tif": (90, 130), "deep/b.tif": (64, 64), "c.tif": (40, 200)}
SIZES = {"a.tif": (0.5, 0.5), "deep/b.tif": None, "c.tif": (0.4, 0.2)}
MEASURE = ("measure", "--exports.write", "false", "--intervals.measure", "false", "--run")


def mask_of(name: str) -> np.ndarray:
    field = ndimage.gaussian_filter(np.random.default_rng(len(name)).standard_normal(SHAPES[name]), 2)
    mask = np.digitize(field, np.quantile(field, (0.6, 0.98))).astype(np.uint8)
    if name == "a.tif":
        mask[-20:] = 255
    if name == "c.tif":
        mask[mask == 2] = 0
    return mask


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run, as `segment` leaves it, made without a model."""
    return finished_run(tmp_path, CLASSES, {name: (mask_of(name), SIZES[name]) for name in SHAPES}, shard=32)


def rows_of(run: Run) -> list[dict]:
    return pq.read_table(run.folder / "objects.parquet").to_pylist()


def test_rows_are_the_labels_of_scipy_and_label_images_hold_their_numbers(run):
    done = measure_objects(run, ObjectSettings(labels=True))
    assert done.notes == {}
    assert done.failures == []
    rows = rows_of(run)
    assert done.found == len(rows)
    assert done.account.unaccounted == 0
    assert [row["micrograph"] for row in rows] == sorted(row["micrograph"] for row in rows)
    for name in SHAPES:
        own = [row for row in rows if row["micrograph"] == name]
        mask = mask_of(name)
        light = tifffile.imread(Path(run.document["archive"]) / name)
        path = run.folder / "objects" / f"{name}.zarr"
        labels = np.asarray(zarr.open_group(str(path), mode="r")["0"][:])
        yaozarrs.validate_zarr_store(str(path))
        assert [row["object"] for row in own] == list(range(1, int(labels.max()) + 1))
        for index, spec in enumerate(CLASSES):
            expected, count = ndimage.label(mask == index, np.ones((3, 3)))
            numbers = [row["object"] for row in own if row["class_index"] == index]
            assert len(numbers) == count
            assert np.array_equal(expected > 0, np.isin(labels, numbers) & (labels > 0))
            if numbers:
                assert np.array_equal(labels[expected > 0] - numbers[0] + 1, expected[expected > 0])
            assert all(row["class_name"] == spec.name for row in own if row["class_index"] == index)
        for row in own:
            chosen = labels == row["object"]
            size = SIZES[name]
            assert row["pixel_count"] == chosen.sum()
            assert row["intensity_mean"] == pytest.approx(light[chosen].mean())
            assert row["intensity_sd"] == pytest.approx(light[chosen].std())
            assert row["area_um2"] == (None if size is None else pytest.approx(chosen.sum() * size[0] * size[1]))
            assert (row["perimeter_um"] is None) == (size is None)
            assert row["model_digest"] == "f00d"
    # All pixels that are measured are in an object.
    counts = {name: np.bincount(mask_of(name).ravel(), minlength=256)[:3].sum() for name in SHAPES}
    assert {name: sum(row["pixel_count"] for row in rows if row["micrograph"] == name) for name in SHAPES} == counts


def test_the_same_bytes_again_and_the_same_numbers_in_both_formats(run):
    measure_objects(run, ObjectSettings())
    before = {name: (run.folder / name).read_bytes() for name in OBJECT_TABLES}
    measure_objects(run, ObjectSettings())
    assert {name: (run.folder / name).read_bytes() for name in OBJECT_TABLES} == before
    with (run.folder / "objects.csv").open(encoding="utf-8", newline="") as handle:
        listed = list(csv.DictReader(handle))
    rows = rows_of(run)
    assert len(listed) == len(rows)
    for text, row in zip(listed, rows, strict=True):
        assert list(text) == list(row)
        for name, value in row.items():
            if isinstance(value, bool) or value is None:
                assert text[name] == ("" if value is None else str(value).lower())
            else:
                assert type(value)(text[name]) == value


def test_a_class_without_objects_and_a_micrograph_without_a_pixel_size(run):
    done = measure_objects(run, ObjectSettings())
    with (run.folder / "object_classes.csv").open(encoding="utf-8", newline="") as handle:
        rows = {(row["micrograph"], row["class_name"]): row for row in csv.DictReader(handle)}
    assert len(rows) == len(done.rows) == len(SHAPES) * len(CLASSES)
    assert rows["c.tif", "pore"]["object_count"] == "0"
    assert rows["c.tif", "pore"]["number_d50"] == ""
    assert rows["deep/b.tif", "matrix"]["unit"] == "px"
    assert rows["deep/b.tif", "matrix"]["density_per_mm2"] == ""
    with (run.folder / "object_sizes.csv").open(encoding="utf-8", newline="") as handle:
        bins = list(csv.DictReader(handle))
    for name in SHAPES:
        for spec in CLASSES:
            own = [row for row in bins if (row["micrograph"], row["class_name"]) == (name, spec.name)]
            assert sum(int(row["object_count"]) for row in own) == int(rows[name, spec.name]["object_count"])
    pooled = [row for row in bins if not row["micrograph"]]
    assert {row["unit"] for row in pooled} == {"um", "px"}
    assert sum(int(row["object_count"]) for row in pooled) == done.found


def test_an_unfinished_micrograph_is_left_out_and_named(run, microseg):
    store = MaskStore.open(run.store_path("c.tif"))
    store.forget((0, 1))
    ran = microseg(*MEASURE, run.folder)
    assert ran.code == 0
    assert {row["micrograph"] for row in rows_of(run)} == {"a.tif", "deep/b.tif"}
    assert "not finished, such as c.tif" in (run.folder / "accounting.csv").read_text()


def test_a_micrograph_that_is_gone_or_changed_has_objects_without_intensities(run):
    archive = Path(run.document["archive"])
    (archive / "c.tif").unlink()
    os.utime(archive / "a.tif", (1, 1))
    done = measure_objects(run, ObjectSettings())
    assert sorted(done.notes) == ["a.tif", "c.tif"]
    assert "changed since" in done.notes["a.tif"]
    known = {row["micrograph"]: row["intensity_mean"] for row in rows_of(run)}
    assert known["a.tif"] is None
    assert known["c.tif"] is None
    assert known["deep/b.tif"] is not None


def test_a_damaged_mask_is_set_aside_and_nothing_else_is_lost(run, microseg):
    shard = next(path for path in (run.store_path("a.tif") / "0" / "c").rglob("*") if path.is_file())
    content = bytearray(shard.read_bytes())
    content[5] ^= 0xFF
    shard.write_bytes(content)
    ran = microseg("measure", "--run", run.folder, "--exports.write", "false")
    assert ran.code == 3
    failures = (run.folder / "failures.csv").read_text()
    # Whichever step reads the mask first names it, once.
    assert failures.count("a.tif,") == 1
    done = measure_objects(run, ObjectSettings())
    assert [(each.path, each.stage) for each in done.failures] == [("a.tif", "objects")]
    assert {row["micrograph"] for row in rows_of(run)} == {"c.tif", "deep/b.tif"}


def test_measure_writes_objects_and_says_so(run, microseg):
    options = ("--objects.min_pixels", "9", "--objects.classes", "pore", "--objects.connectivity", "4")
    ran = microseg(*MEASURE, run.folder, *options)
    assert ran.code == 0, ran.err
    rows = rows_of(run)
    assert {row["class_name"] for row in rows} == {"pore"}
    with (run.folder / "object_classes.csv").open(encoding="utf-8", newline="") as handle:
        listed = [(row["class_name"], row["connectivity"], row["min_pixels"]) for row in csv.DictReader(handle)]
    assert listed == [("pore", "4", "9")] * len(SHAPES)
    assert min(row["pixel_count"] for row in rows) >= 9
    account = next(line for line in (run.folder / "accounting.csv").read_text().splitlines() if "objects" in line)
    assert "smaller than objects.min_pixels" in account or account.endswith(",0,0,")
    assert "have one pixel" not in ran.out
    ran = microseg(*MEASURE, run.folder)
    assert "removed" not in ran.out
    every = rows_of(run)
    assert len(every) > len(rows)
    single = sum(row["pixel_count"] == 1 for row in every)
    assert (f"{single} of {len(every)} objects have one pixel" in " ".join(ran.out.split())) == (
        2 * single > len(every)
    )
    ran = microseg(*MEASURE, run.folder, "--objects.measure", "false")
    assert "removed, because the tables are new: objects.csv" in ran.out
    assert not (run.folder / "objects.csv").exists()
    ran = microseg(*MEASURE, run.folder, "--objects.classes", "crack")
    assert ran.code == 2
    assert "'crack' is no class of this run" in ran.err


def test_measure_with_another_pixel_size_gives_other_micrometres(run, microseg):
    measure_objects(run, ObjectSettings())
    before = rows_of(run)
    assert microseg(*MEASURE, run.folder, "--pixel_size_um", "3").code == 0
    for old, new in zip(before, rows_of(run), strict=True):
        assert new["pixel_count"] == old["pixel_count"]
        assert new["area_um2"] == pytest.approx(9 * old["pixel_count"])
        assert new["feret_max_um"] == pytest.approx(3 * old["feret_max_px"])


def test_a_foreign_table_is_not_replaced(run, microseg):
    (run.folder / "objects.csv").write_text("mine")
    ran = microseg(*MEASURE, run.folder)
    assert ran.code == 1
    assert "objects.csv: exists and is not known" in ran.err
    assert (run.folder / "objects.csv").read_text() == "mine"


def test_row_groups_hold_a_bounded_number_of_rows(run, monkeypatch):
    monkeypatch.setattr(object_table, "GROUP_ROWS", 7)
    measure_objects(run, ObjectSettings())
    groups = pq.ParquetFile(run.folder / "objects.parquet").metadata
    assert max(groups.row_group(index).num_rows for index in range(groups.num_row_groups)) <= 7
    assert pq.read_table(run.folder / "objects.parquet").schema == object_table.OBJECT_SCHEMA
    assert isinstance(object_table.OBJECT_SCHEMA, pa.Schema)


def test_the_report_shows_the_objects_of_each_class(run, microseg):
    assert microseg(*MEASURE, run.folder).code == 0
    assert microseg("report", "--run", run.folder).code == 0
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    table = page[page.index("objects-heading") :]
    with (run.folder / "object_classes.csv").open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            assert f'data-value="{int(row["object_count"])}' in table
            assert row["class_name"] in table
    assert microseg(*MEASURE, run.folder, "--objects.measure", "false").code == 0
    assert microseg("report", "--run", run.folder).code == 0
    assert "objects-heading" not in (run.folder / "report.html").read_text(encoding="utf-8")
