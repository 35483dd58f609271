"""`measure`: grain sizes and largest grains of masks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from microseg_ray.statistics.largest import LargestObject, largest_grain_rows
from tests.runs.measured import CLASSES, MEASURE, by, make_run, rows_of


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
    options = ("--intervals.grain_boundaries", "pore", "--intervals.structure", "false", "--exports.write", "false")
    ran = microseg("measure", "--run", run, "--group", "^([ab])_", *options)
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
    assert "by counting grains" in ran.out
    counted = by(rows_of(run / "stereology.csv"), "scope", "name", "class_name", "quantity")
    for name, own in (("a", masks[:2]), ("b", masks[2:])):
        densities = []
        for mask in own:
            number = 0.0
            for kind in (0, 1):
                labels, found = ndimage.label(mask == kind, np.ones((3, 3)))
                beside = ndimage.binary_dilation(mask == 255)
                rim = {*labels[[0, -1]].flat, *labels[:, [0, -1]].flat, *labels[beside]} - {0}
                number += found - len(rim) / 2
            columns = np.flatnonzero((mask != 255).any(axis=0))
            number -= sum(mask[y, x] < 2 for y in (0, -1) for x in columns[[0, -1]]) / 4
            densities.append(number / (mask != 255).sum() * 1e6)
        row = counted["group", name, "pore", "grains_per_area"]
        assert float(row["mean"]) == pytest.approx(np.mean(densities))
        g = counted["group", name, "pore", "planimetric_grain_size_number"]
        assert float(g["mean"]) == pytest.approx(np.log2(np.mean(densities)) - 2.954, abs=0.001)
    without = make_run(tmp_path / "px", {"a_1.tif": None}, masks=masks[:1])
    assert microseg("measure", "--run", without, *options).code == 0
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
