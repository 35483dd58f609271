"""Groups, boundaries and intervals of a run by `measure`: those of the whole masks, whatever the shards and what is missing."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy import ndimage
from skimage.measure import perimeter_crofton

from microseg_ray.evaluation.confusions import write_confusions
from microseg_ray.evaluation.metrics import ConfusionMatrix
from microseg_ray.geometry import Box
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.intervals import count_parts
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec
from microseg_ray.statistics.blocks import BlockCounts
from microseg_ray.statistics.boundaries import boundary_lengths, count_crossings
from microseg_ray.statistics.largest import LargestObject, largest_grain_rows
from microseg_ray.statistics.sampling import bounded_interval, sampling_error

NAMES = ("matrix", "grain", "pore")
CLASSES = tuple(ClassSpec(name=name) for name in NAMES)
TABLES = ("groups", "boundaries", "intervals", "stereology")
SHAPE = (200, 150)
MEASURE = ("measure", "--objects.measure", "false", "--run")


def mask_of(number):
    """Squares of 10 px of random classes; `pore` is in the first micrograph of each group only."""
    generator = np.random.default_rng(number)
    share = (0.6, 0.3, 0.1) if number % 3 == 0 else (0.65 + number / 50, 0.35 - number / 50, 0)
    mask = np.kron(generator.choice(3, (20, 15), p=share).astype(np.uint8), np.ones((10, 10), np.uint8))
    mask[:20] = 255
    return mask


def make_run(folder, sizes, *, unfinished=(), masks=None):
    """A run of micrographs G_N.tif with the pixel sizes given by name."""
    record = {
        "archive": str(folder / "images"),
        "source": {},
        "checkpoint": "m",
        "settings": {},
        "classes": [spec.model_dump() for spec in CLASSES],
    }
    run = Run.create(folder / "run", RunIdentity("f0", {"halo": 8}), record)
    for number, (name, size) in enumerate(sizes.items()):
        mask = mask_of(number) if masks is None else masks[number]
        store = MaskStore.create(run.store_path(name), MaskSpec(mask.shape, CLASSES, shard=64), {"model": "f0"})
        for shard in store.missing():
            if name not in unfinished or shard != (0, 0):
                store.commit(shard, mask[store.spec.box(shard).slices])
        if name not in unfinished:
            note = {"pixel_size_um": size, "pixel_size_source": "option", "info_bar": {"rows": 10}}
            store.finish(size, note)
    return run.folder


@pytest.fixture(scope="module")
def names():
    return [f"{group}_{view}.tif" for group in "ab" for view in (1, 2, 3)]


@pytest.fixture(scope="module")
def made(names, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("made"), dict.fromkeys(names, (0.5, 0.5)))


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def by(rows, *keys):
    found = {tuple(row[key] for key in keys): row for row in rows}
    assert len(found) == len(rows)
    return found


def test_parts_of_a_store_are_those_of_the_whole_mask(made, names):
    mask = mask_of(0)
    parts = count_parts(MaskStore.open(Run.open(made).store_path(names[0])))
    whole = BlockCounts(SHAPE, 3)
    whole.add(Box.of_shape(SHAPE), mask)
    np.testing.assert_array_equal(parts.blocks.counts, whole.counts)
    np.testing.assert_array_equal(parts.crossings, count_crossings(mask, Box.of_shape(SHAPE), 3))


def test_groups_are_pooled_and_averaged(run, microseg):
    ran = microseg(*MEASURE, run, "--group", r"^([ab])_", "--intervals.pixel_size_uncertainty", "0.02")
    assert ran.code == 0, ran.err
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


def test_boundaries_are_scikit_images_where_a_class_touches_no_border(run, microseg, names):
    assert microseg(*MEASURE, run).code == 0
    rows = by(rows_of(run / "boundaries.csv"), "scope", "name", "class_name", "other_name")
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


def test_intervals_are_those_of_the_mask_and_between_micrographs(run, microseg, names):
    ran = microseg(*MEASURE, run, "--group", r"^([ab])_")
    assert "micrographs" in ran.out
    rows = by(rows_of(run / "intervals.csv"), "scope", "name", "class_name", "part")
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


def test_the_grain_size_of_squares_is_that_of_their_intercepts(tmp_path, microseg):
    """Grains are squares of 20 um with boundaries of 1 px: along x and y one in 20 um, along a diagonal sqrt(2) times as many."""
    mask = np.ones((400, 400), np.uint8)
    mask[20::40] = mask[:, 20::40] = 2
    run = make_run(tmp_path, {"a_1.tif": (0.5, 0.5), "a_2.tif": (0.5, 0.5)}, masks=(mask, mask[:360].copy()))
    ran = microseg(*MEASURE, run, "--intervals.grain_boundaries", "pore")
    assert ran.code == 0, ran.err
    assert "ASTM grain size number G" in ran.out
    rows = by(rows_of(run / "stereology.csv"), "scope", "class_name", "quantity")
    length = float(rows["archive", "pore", "mean_grain_intercept"]["mean"])
    assert length == pytest.approx(20 / ((1 + np.sqrt(2)) / 2), rel=0.04)
    number = rows["archive", "pore", "grain_size_number"]
    assert float(number["mean"]) == pytest.approx(-6.643856 * np.log10(length / 1000) - 3.288)
    assert float(number["low"]) <= float(number["mean"]) <= float(number["high"])
    assert float(rows["archive", "grain", "mean_intercept_x"]["mean"]) == pytest.approx(19.5)
    wrong = microseg(*MEASURE, run, "--intervals.grain_boundaries", "edge")
    assert (wrong.code, "no class is named 'edge'" in wrong.err) == (2, True)
    without = make_run(tmp_path / "px", {"a_1.tif": None}, masks=(mask,))
    assert microseg(*MEASURE, without, "--intervals.grain_boundaries", "pore").code == 0
    rows = by(rows_of(without / "stereology.csv"), "scope", "class_name", "quantity")
    assert rows["archive", "pore", "mean_grain_intercept"]["unit"] == "px"
    assert rows["archive", "pore", "grain_size_number"]["mean"] == ""
    assert "no pixel size" in rows["archive", "pore", "grain_size_number"]["reason"]
    assert rows["archive", "pore", "area_fraction"]["reason"] == "one field: no interval"
    assert rows["archive", "matrix", "mean_intercept"]["reason"] == "in no field: not defined"


def test_the_largest_grain_is_that_of_scipys_labels(tmp_path, microseg):
    """ASTM E930: of all micrographs of a group, with its own G; a cut one is said to be a lower bound."""
    masks = []
    for number in range(4):
        lines = np.random.default_rng(number).choice(np.arange(8, 120), (2, 5), replace=False)
        mask = np.ones((128, 128), np.uint8)
        mask[[*lines[0], 4, 124]] = mask[:, [*lines[1], 4, 124]] = 2
        masks.append(mask)
    masks[3][:, 125:] = 255
    masks[3][5:110, 60:128] = 0
    sizes = {f"{group}_{view}.tif": (0.5, 2.0) for group in "ab" for view in (1, 2)}
    run = make_run(tmp_path, sizes, masks=tuple(masks))
    ran = microseg("measure", "--run", run, "--group", "^([ab])_", "--intervals.grain_boundaries", "pore")
    assert ran.code == 0, ran.err
    rows = [row for row in rows_of(run / "stereology.csv") if row["standard"] == "ASTM E930"]
    rows = by(rows, "scope", "name", "quantity", "standard")
    for scope, name, own in (("group", "a", masks[:2]), ("group", "b", masks[2:]), ("archive", "", masks)):
        areas, count = [], 0
        for mask in own:
            for kind in (0, 1):
                labels, found = ndimage.label(mask == kind, np.ones((3, 3)))
                areas += np.bincount(labels.ravel())[1:].tolist()
                count += found
        area = rows[scope, name, "largest_grain_area", "ASTM E930"]
        assert float(area["mean"]) == max(areas)  # a pixel is 1 um2
        assert (area["unit"], area["fields"], area["low"]) == ("um2", str(len(own)), "")
        assert f"the largest of {count} grains" in area["reason"]
        assert ("lower bound" in area["reason"]) == (name != "a")
        number = rows[scope, name, "largest_grain_size_number", "ASTM E930"]
        assert float(number["mean"]) == pytest.approx(np.log2(1e6 / max(areas)) - 2.954, abs=0.001)
    assert "ASTM E930 G of the largest grain" in ran.out
    without = make_run(tmp_path / "px", {"a_1.tif": None}, masks=masks[:1])
    assert microseg("measure", "--run", without, "--intervals.grain_boundaries", "pore").code == 0
    rows = by(rows_of(without / "stereology.csv"), "quantity", "standard", "class_name")
    assert rows["largest_grain_area", "ASTM E930", "grain"]["unit"] == "px"
    assert "no pixel size" in rows["largest_grain_size_number", "ASTM E930", "grain"]["reason"]


def cells(gaps):
    """Squares of 9 x 9 px with a boundary of 1 px that has this many gaps in one row of squares."""
    mask = np.ones((101, 101), np.uint8)
    mask[::10] = mask[:, ::10] = 2
    mask[15, 20 : 20 + 10 * gaps : 10] = 1
    return mask


@pytest.mark.parametrize(("gaps", "size", "said"), [(6, (0.5, 0.5), False), (7, (0.5, 0.5), True), (7, None, True)])
def test_a_largest_grain_that_is_joined_by_gaps_is_doubted(tmp_path, microseg, gaps, size, said):
    """More than 8 times the mean of the others is doubted, less is not."""
    run = make_run(tmp_path, dict.fromkeys(("a_1.tif", "a_2.tif"), size), masks=(cells(0), cells(gaps)))
    fast = ("--intervals.structure", "false", "--exports.write", "false", "--objects.intensity", "false")
    ran = microseg("measure", "--run", run, "--intervals.grain_boundaries", "pore", *fast)
    assert ran.code == 0, ran.err
    rows = by(rows_of(run / "stereology.csv"), "scope", "class_name", "quantity", "standard")
    row = rows["archive", "grain", "largest_grain_area", "ASTM E930"]
    joined = 81 * (gaps + 1) + gaps
    assert float(row["mean"]) == joined * (0.25 if size else 1)
    assert (f"doubtful: {joined / 81:.1f} times the mean of the others" in row["reason"]) == said
    assert ("may have joined grains" in " ".join(ran.out.split())) == said


def test_a_grain_that_is_alone_has_nothing_to_compare_with():
    alone = (LargestObject(1, 9, 2.25, cut=False, objects=1, total_pixels=9, total_area_um2=2.25),)
    pores = (LargestObject(0, 1, 0.25, cut=False, objects=5, total_pixels=5, total_area_um2=1.25),)
    area, number = largest_grain_rows("archive", "", [alone, pores], CLASSES, 2, 0)
    assert area.mean == 2.25
    assert all("the only grain of its class" in row.reason for row in (area, number))


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
    fast = ("--intervals.structure", "false", "--exports.write", "false")
    ran = microseg(*MEASURE, run, "--group", "^([ab])_", "--intervals.evaluation", tmp_path, *fast)
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


def test_what_was_measured_goes_when_the_tables_are_new(run, microseg):
    assert microseg(*MEASURE, run).code == 0
    before = {name: (run / f"{name}.csv").read_bytes() for name in TABLES}
    assert microseg(*MEASURE, run).code == 0
    assert before == {name: (run / f"{name}.csv").read_bytes() for name in TABLES}
    ran = microseg(*MEASURE, run, "--intervals.measure", "false")
    assert ran.code == 0
    assert "removed" in ran.out
    assert not any((run / f"{name}.{kind}").exists() for name in TABLES for kind in ("csv", "parquet"))
