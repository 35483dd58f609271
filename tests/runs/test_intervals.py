"""Groups, boundaries and intervals of a run by `measure`: those of the whole masks, whatever the shards and what is missing."""

from __future__ import annotations

import shutil
import signal

import numpy as np
import pyarrow.parquet as pq
import pytest
from skimage.measure import perimeter_crofton

from microseg_ray.cli import main
from microseg_ray.evaluation.confusions import write_confusions
from microseg_ray.evaluation.metrics import ConfusionMatrix
from microseg_ray.geometry import Box
from microseg_ray.runs.folder import Run
from microseg_ray.runs.intervals import count_parts
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.statistics.blocks import BlockCounts
from microseg_ray.statistics.boundaries import boundary_lengths, count_crossings
from microseg_ray.statistics.sampling import bounded_interval, sampling_error
from tests.runs.measured import MEASURE, NAMES, by, make_run, mask_of, rows_of

TABLES = ("groups", "boundaries", "intervals", "stereology")
SHAPE = (200, 150)


@pytest.fixture(scope="module")
def names():
    return [f"{group}_{view}.tif" for group in "ab" for view in (1, 2, 3)]


@pytest.fixture(scope="module")
def made(names, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made"), dict.fromkeys(names, (0.5, 0.5)))


@pytest.fixture(scope="module")
def measured(made, tmp_path_factory):
    """The run, measured once by groups."""
    folder = tmp_path_factory.mktemp("measured") / "run"
    shutil.copytree(made, folder)
    handler = signal.getsignal(signal.SIGTERM)
    options = ("--group", r"^([ab])_", "--intervals.pixel_size_uncertainty", "0.02")
    assert main([*MEASURE, str(folder), *options]) == 0
    signal.signal(signal.SIGTERM, handler)
    return folder


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def test_parts_of_a_store_are_those_of_the_whole_mask(made, names):
    mask = mask_of(0)
    parts = count_parts(MaskStore.open(Run.open(made).store_path(names[0])))
    whole = BlockCounts(SHAPE, 3)
    whole.add(Box.of_shape(SHAPE), mask)
    np.testing.assert_array_equal(parts.blocks.counts, whole.counts)
    np.testing.assert_array_equal(parts.crossings, count_crossings(mask, Box.of_shape(SHAPE), 3))


def test_groups_are_pooled_and_averaged(measured):
    run = measured
    rows = by(rows_of(run / "groups.csv"), "scope", "group", "class_name")
    assert len(rows) == 9
    masks = [mask_of(number) for number in range(3, 6)]
    shares = np.array([[(mask == k).sum() / (mask != 255).sum() for k in range(3)] for mask in masks])
    for index, name in enumerate(NAMES):
        row = rows["group", "b", name]
        assert int(row["pixel_count"]) == sum((mask == index).sum() for mask in masks)
        assert float(row["area_fraction"]) == pytest.approx(shares[:, index].mean())
        assert float(row["mean_area_fraction"]) == pytest.approx(shares[:, index].mean())
        assert float(row["sd_area_fraction"]) == pytest.approx(shares[:, index].std(ddof=1))
        assert float(row["area_um2"]) == pytest.approx(int(row["pixel_count"]) / 4)
        assert float(row["area_um2_standard_uncertainty"]) == pytest.approx(0.04 * float(row["area_um2"]))
        assert int(row["unmeasured_pixel_count"]) == 3 * 20 * 150
        assert float(row["coverage"]) == pytest.approx(180 / 190)
        assert (row["micrographs"], row["unfinished_micrographs"]) == ("3", "0")
    assert rows["archive", "", "pore"]["micrographs"] == "6"
    for row in rows_of(run / "areas.csv"):
        assert int(row["unmeasured_pixel_count"]) == 20 * 150
        assert float(row["coverage"]) == pytest.approx(180 / 190)
    for name in TABLES:
        table = pq.read_table(run / f"{name}.parquet")
        assert table.num_rows == len(rows_of(run / f"{name}.csv"))


def test_boundaries_are_scikit_images_where_a_class_touches_no_border(measured, names):
    rows = by(rows_of(measured / "boundaries.csv"), "scope", "name", "class_name", "other_name")
    mask = mask_of(0)
    lengths = boundary_lengths(count_crossings(mask, Box.of_shape(SHAPE), 3))
    row = rows["micrograph", names[0], "matrix", "grain"]
    assert float(row["length_px"]) == pytest.approx(lengths[0, 1])
    assert float(row["length_um"]) == pytest.approx(lengths[0, 1] / 2)
    assert float(row["specific_length_per_um"]) == pytest.approx(lengths[0, 1] / 2 / (180 * 150 / 4))
    assert float(row["share_of_class"]) == pytest.approx(lengths[0, 1] / lengths[0].sum())
    total = rows["archive", "", "grain", "(all)"]
    every = [float(rows["micrograph", name, "grain", "(all)"]["length_px"]) for name in names]
    assert float(total["length_px"]) == pytest.approx(sum(every))
    # With the unmeasured rows and the other borders cut off by a rim of the other class.
    inner = np.zeros(SHAPE, bool)
    inner[25:195, 5:145] = (mask == 1)[25:195, 5:145]
    alone = boundary_lengths(count_crossings(inner.view(np.uint8), Box.of_shape(SHAPE), 2))[0, 1]
    assert alone == pytest.approx(perimeter_crofton(inner, directions=4))


def test_intervals_are_those_of_the_mask_and_between_micrographs(measured, names):
    rows = by(rows_of(measured / "intervals.csv"), "scope", "name", "class_name", "part")
    mask = mask_of(0)
    known = mask != 255
    found = sampling_error(mask == 1, known)
    expected = bounded_interval(found.fraction, found.variance, found.degrees_of_freedom)
    row = rows["micrograph", names[0], "grain", "sampling"]
    assert float(row["low"]) == pytest.approx(expected.low, rel=1e-6)
    assert float(row["high"]) == pytest.approx(expected.high, rel=1e-6)
    assert float(row["integral_range_px"]) == pytest.approx(found.integral_range, rel=1e-6)
    assert float(row["more_um2_absolute"]) == pytest.approx(float(row["more_px_absolute"]) / 4)
    shares = np.array([(mask_of(n) == 1).sum() / (mask_of(n) != 255).sum() for n in range(3)])
    between = rows["group", "a", "grain", "micrographs"]
    assert float(between["standard_error"]) == pytest.approx(shares.std(ddof=1) / np.sqrt(3))
    assert int(between["more_micrographs_absolute"]) > 0
    assert float(between["low"]) < float(between["estimate"]) < float(between["high"])
    # A class that one micrograph does not have: nothing is known of its correlation there.
    nowhere = rows["micrograph", names[1], "pore", "sampling"]
    assert (nowhere["low"], nowhere["estimate"]) == ("", "0")
    assert "no pixel of the class" in nowhere["reason"]
    assert "no pixel of the class" in rows["group", "a", "pore", "sampling"]["reason"]


def test_one_micrograph_has_no_interval_across_micrographs(tmp_path, microseg):
    run = make_run(tmp_path, {"only.tif": None})
    assert microseg(*MEASURE, run).code == 0
    rows = by(rows_of(run / "intervals.csv"), "scope", "name", "class_name", "part")
    row = rows["archive", "", "grain", "micrographs"]
    assert (row["low"], row["high"], row["standard_error"]) == ("", "", "")
    assert row["reason"] == "one micrograph: no interval across micrographs"
    assert rows["archive", "", "grain", "sampling"]["low"] != ""
    group = by(rows_of(run / "groups.csv"), "scope", "class_name")["archive", "grain"]
    assert (group["area_um2"], group["sd_area_fraction"], group["micrographs_without_pixel_size"]) == ("", "", "1")


def test_bad_masks_have_reasons_and_no_figures_of_nothing(tmp_path, microseg):
    """Nothing measured, one object, a class that is nowhere, a missing pixel size, pixels that are not square: all in one run."""
    sizes = {"empty.tif": (0.5, 0.5), "one.tif": (0.5, 0.5), "px.tif": None, "flat.tif": (0.5, 2.0)}
    masks = (np.full(SHAPE, 255, np.uint8), np.ones(SHAPE, np.uint8), mask_of(1), mask_of(2))
    run = make_run(tmp_path, sizes, masks=masks)
    ran = microseg("measure", "--run", run, "--intervals.grain_boundaries", "grain", "--objects.intensity", "false")
    assert ran.code == 0, ran.err
    rows = by(rows_of(run / "intervals.csv"), "scope", "name", "class_name", "part")
    for place, reason in (
        (("micrograph", "empty.tif", "grain", "sampling"), "nothing was measured"),
        (("micrograph", "one.tif", "grain", "sampling"), "every pixel is of the class"),
        (("micrograph", "flat.tif", "pore", "sampling"), "no pixel of the class"),
        (("archive", "", "pore", "micrographs"), "in no micrograph of 3: no interval"),
    ):
        assert reason in rows[place]["reason"]
        assert (rows[place]["low"], rows[place]["high"], rows[place]["standard_error"]) == ("", "", "")
    assert rows["micrograph", "empty.tif", "grain", "sampling"]["area_fraction"] == ""
    anisotropy = by(rows_of(run / "anisotropy.csv"), "scope", "name", "class_name")
    assert ("archive", "", "grain") not in anisotropy
    assert "different pixel sizes: it has no correlation" in ran.out.replace("\n", " ")
    # Squares of 10 px are 5 um high and 20 um wide.
    flat = anisotropy["micrograph", "flat.tif", "grain"]
    assert 2 < float(flat["correlation_length_x"]) / float(flat["correlation_length_y"]) < 8
    assert anisotropy["micrograph", "px.tif", "grain"]["unit"] == "px"
    assert "nothing is correlated" in anisotropy["micrograph", "one.tif", "grain"]["reason"]
    stereology = by(rows_of(run / "stereology.csv"), "class_name", "quantity")
    assert stereology["matrix", "mean_intercept"]["unit"] == "px"
    assert stereology["grain", "grain_size_number"]["mean"] == ""
    chords = {(row["name"], row["unit"]) for row in rows_of(run / "chords.csv") if row["scope"] == "archive"}
    assert chords == {("", "um"), ("", "px")}
    assert "| empty.tif | grain | 1 | - | - | - | none | nothing was measured |" in (run / "tables.md").read_text(
        "utf-8"
    )


def test_a_run_half_done_is_partial_and_bad_masks_are_set_aside(tmp_path, microseg, names):
    sizes = dict.fromkeys(names, (0.5, 0.5)) | {names[1]: None}
    run = make_run(tmp_path, sizes, unfinished=(names[0],))
    store = Run.open(run).store_path(names[5])
    (store / "0/c/0/0").write_bytes(b"damaged")
    ran = microseg(*MEASURE, run, "--group", r"^([ab])_")
    assert ran.code == 3, ran.err
    assert "1 micrographs are not finished" in " ".join(ran.out.split())
    rows = by(rows_of(run / "groups.csv"), "scope", "group", "class_name")
    first, second = rows["group", "a", "grain"], rows["group", "b", "grain"]
    assert (first["micrographs"], first["unfinished_micrographs"], first["area_um2"]) == ("2", "1", "")
    assert (second["micrographs"], second["unfinished_micrographs"]) == ("2", "0")
    assert rows["archive", "", "grain"]["unfinished_micrographs"] == "1"
    failed = rows_of(run / "failures.csv")
    assert [(row["path"], row["stage"]) for row in failed] == [(names[5], "mask")]
    # Repaired, it is no failure any more.
    MaskStore.open(store).commit((0, 0), mask_of(5)[:64, :64])
    MaskStore.open(store).finish((0.5, 0.5), {"pixel_size_um": (0.5, 0.5)})
    assert microseg(*MEASURE, run).code == 0


def test_groups_of_a_table_and_micrographs_in_none(run, microseg, tmp_path, names):
    images = Run.open(run).document["archive"]
    table = tmp_path / "catalog.csv"
    lines = [f"{images}/{name},{'x' if number < 2 else 'y'}" for number, name in enumerate(names[:5])]
    table.write_text("micrograph,group\n" + "\n".join(lines) + "\n")
    ran = microseg(*MEASURE, run, "--table", table)
    assert ran.code == 0, ran.err
    assert "micrographs" in ran.out.split("error by")[1].split("micrographs are in no group")[0]
    assert "1 micrographs are in no group" in " ".join(ran.out.split())
    rows = by(rows_of(run / "groups.csv"), "scope", "group", "class_name")
    assert [rows["group", name, "grain"]["micrographs"] for name in "xy"] == ["2", "3"]
    assert rows["archive", "", "grain"]["micrographs"] == "6"


def test_areas_are_corrected_by_an_evaluation(run, microseg, tmp_path):
    """A model that calls 20 % of the grain matrix: the corrected fraction is what the rates say."""
    generator = np.random.default_rng(0)
    rates = np.array([[0.95, 0.05, 0], [0.2, 0.8, 0], [0.1, 0, 0.9]])
    matrices = {}
    for number in range(8):
        truth = generator.multinomial(4000, [0.6, 0.33, 0.07])
        counts = np.stack([generator.multinomial(n, row) for n, row in zip(truth, rates, strict=True)])
        matrices[f"{number}.png"] = ConfusionMatrix(counts)
    write_confusions(tmp_path / "confusion_per_image.csv", matrices, {}, NAMES)
    ran = microseg(*MEASURE, run, "--intervals.evaluation", tmp_path)
    assert ran.code == 0, ran.err
    rows = by(rows_of(run / "intervals.csv"), "scope", "name", "class_name", "part")
    masks = [mask_of(number) for number in range(6)]
    found = np.array([sum((mask == k).sum() for mask in masks) for k in range(3)])
    pooled = sum(matrix.counts for matrix in matrices.values())
    stratified = pooled / pooled.sum(axis=0) @ (found / found.sum())
    inverse = np.linalg.solve((pooled / pooled.sum(axis=1, keepdims=True)).T, found / found.sum())
    for index, name in enumerate(NAMES):
        one, other = (rows["archive", "", name, f"model_{kind}"] for kind in ("stratified", "inverse"))
        assert float(one["estimate"]) == pytest.approx(stratified[index])
        assert float(other["estimate"]) == pytest.approx(inverse[index])
        combined = rows["archive", "", name, "combined"]
        assert float(combined["estimate"]) == pytest.approx(inverse[index])
        assert float(combined["standard_error"]) > rows_error(rows, name)
        single = rows["micrograph", "a_1.tif", name, "combined"]
        assert float(single["standard_error"]) > float(other["standard_error"])
    wrong = microseg(*MEASURE, run, "--intervals.evaluation", tmp_path / "nothing")
    assert wrong.code == 2
    assert "not there" in wrong.err


def test_a_group_with_enough_test_micrographs_is_corrected_by_its_own(run, microseg, tmp_path):
    """Five test micrographs of group a have rates of their own; the four of b are too few, so b is corrected by all nine."""
    generator = np.random.default_rng(1)
    rates = {"a": [[0.95, 0.05, 0], [0.4, 0.6, 0], [0.1, 0, 0.9]], "b": [[0.7, 0.3, 0], [0.05, 0.95, 0], [0, 0.1, 0.9]]}
    matrices, groups = {}, {}
    for number, group in enumerate("aaaaabbbb"):
        truth = generator.multinomial(4000, [0.6, 0.33, 0.07])
        counts = np.stack([generator.multinomial(n, row) for n, row in zip(truth, rates[group], strict=True)])
        matrices[f"{number}.png"], groups[f"{number}.png"] = ConfusionMatrix(counts), group
    write_confusions(tmp_path / "confusion_per_image.csv", matrices, groups, NAMES)
    ran = microseg(*MEASURE, run, "--group", "^([ab])_", "--intervals.evaluation", tmp_path)
    assert ran.code == 0, ran.err
    rows = by(rows_of(run / "intervals.csv"), "scope", "name", "class_name", "part")
    for group, first, used in (("a", 0, "a"), ("b", 3, "ab")):
        masks = [mask_of(number) for number in range(first, first + 3)]
        found = np.array([sum((mask == k).sum() for mask in masks) for k in range(3)])
        pooled = sum(matrix.counts for name, matrix in matrices.items() if groups[name] in used)
        wanted = pooled / pooled.sum(axis=0) @ (found / found.sum())
        for index, name in enumerate(NAMES):
            row = rows["group", group, name, "model_stratified"]
            assert float(row["estimate"]) == pytest.approx(wanted[index])


def rows_error(rows, name):
    """The error that all units' rates leave, the smaller part of the combined one."""
    return float(rows["archive", "", name, "model_inverse"]["standard_error"]) / 2


def test_what_was_measured_goes_when_the_tables_are_new(measured, tmp_path, microseg):
    run = tmp_path / "run"
    shutil.copytree(measured, run)
    before = {name: (run / f"{name}.csv").read_bytes() for name in TABLES}
    assert microseg(*MEASURE, run, "--group", r"^([ab])_", "--intervals.pixel_size_uncertainty", "0.02").code == 0
    assert before == {name: (run / f"{name}.csv").read_bytes() for name in TABLES}
    ran = microseg(*MEASURE, run, "--intervals.measure", "false")
    assert ran.code == 0
    assert "removed" in ran.out
    assert not any((run / f"{name}.{kind}").exists() for name in TABLES for kind in ("csv", "parquet"))
