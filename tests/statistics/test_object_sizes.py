"""The border correction of Miles and Lantuejoul, bins, quantiles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from microseg_ray.settings import ClassSpec
from microseg_ray.statistics.objects.finding import ObjectRule, Objects, find_objects
from microseg_ray.statistics.objects.sizes import SizeTable, border_weights, class_rows

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="pore"))


def found_in(mask: NDArray[np.uint8], size: tuple[float, float] | None = None, **options: int) -> Objects:
    return find_objects(mask.shape, lambda box: mask[box.slices], ObjectRule(**options), size)  # type: ignore[arg-type]


@pytest.mark.parametrize(("seed", "tall", "wide"), [(0, 9, 14), (1, 11, 8)])
def test_over_all_places_of_the_frame_the_weights_give_the_true_density(seed: int, tall: int, wide: int) -> None:
    """A periodic plane with a known number of objects of several sizes; the frame goes to every place on it."""
    side = 18
    plane = np.zeros((side, side), np.uint8)
    # Small enough that every object fits into the frame, apart so that they stay objects.
    for y in range(0, side, 6):
        for x in range(0, side, 6):
            height, width = np.random.default_rng([seed, y, x]).integers(1, 5, 2)
            plane[y : y + height, x : x + width] = 1
    counted, area = [], []
    for y in range(side):
        for x in range(side):
            frame = np.roll(plane, (-y, -x), axis=(0, 1))[:tall, :wide]
            found = found_in(frame)
            own = found.sums.class_index == 1
            weights = border_weights(found)[own]
            counted.append(weights.sum())
            area.append((weights * found.px.area[own]).sum())
    assert np.mean(counted) / (tall * wide) == pytest.approx(9 / side**2)
    assert np.mean(area) / (tall * wide) == pytest.approx(plane.sum() / side**2)


def test_without_the_correction_large_objects_are_missed() -> None:
    random = np.random.default_rng(3)
    mask = np.zeros((120, 120), np.uint8)
    for y, x in random.integers(0, 120, (40, 2)):
        mask[y : y + 2, x : x + 2] = 1
    mask[30:70, 30:70] = 1
    found = found_in(mask)
    rows = [row for row in SizeTable(CLASSES).add("a", found) if row.class_index == 1]
    assert sum(row.object_count for row in rows) == int((found.sums.class_index == 1).sum())
    assert sum(row.corrected_count for row in rows) > sum(row.inside_count for row in rows)
    assert rows[-1].corrected_count / rows[-1].inside_count > rows[0].corrected_count / rows[0].inside_count


@given(st.integers(0, 2**32), st.sampled_from([None, (0.5, 0.5), (0.5, 0.2)]))
@settings(max_examples=15)
def test_bins_and_quantiles_are_those_of_the_objects(seed: int, size: tuple[float, float] | None) -> None:
    random = np.random.default_rng(seed)
    mask = (ndimage.gaussian_filter(random.standard_normal((60, 50)), 1.5) > 0.05).astype(np.uint8)
    found = found_in(mask, size)
    sizes = found.px if size is None else found.um
    assert sizes is not None
    weights = border_weights(found)
    table = SizeTable(CLASSES)
    rows = [*table.add("a", found)]
    for row in rows:
        chosen = (found.sums.class_index == row.class_index) & (sizes.equivalent_diameter >= row.diameter_from)
        chosen &= sizes.equivalent_diameter < row.diameter_to
        own = found.sums.class_index == row.class_index
        assert row.unit == ("px" if size is None else "um")
        assert row.object_count == chosen.sum()
        assert row.inside_count == (weights[chosen] > 0).sum()
        assert row.corrected_count == pytest.approx(weights[chosen].sum())
        if weights[own].sum():
            assert row.number_share == pytest.approx(weights[chosen].sum() / weights[own].sum())
            moment = (weights * sizes.area)[own].sum()
            assert row.area_share == pytest.approx((weights * sizes.area)[chosen].sum() / moment)
        else:
            assert row.number_share is None
    ends = {row.class_index: row for row in rows}
    assert all((end.number_share_up_to or 1) == pytest.approx(1) for end in ends.values())
    for row in class_rows("a", found, CLASSES, size, ObjectRule()):
        own = found.sums.class_index == row.class_index
        repeated = np.repeat(sizes.equivalent_diameter[own], np.round(weights[own] * 1e4).astype(int))
        if row.number_d50 is None:
            assert not weights[own].any()
        else:
            assert row.number_d50 == pytest.approx(np.quantile(repeated, 0.5, method="inverted_cdf"))
            assert row.mean_diameter == pytest.approx(np.average(sizes.equivalent_diameter[own], weights=weights[own]))
    # The same micrograph twice has twice the objects and the same shares.
    again = [*table.add("b", found)]
    pooled = [*table.pooled()]
    assert [row.object_count for row in pooled] == [2 * row.object_count for row in again]
    assert [row.micrograph for row in pooled] == [""] * len(pooled)
    assert [row.number_share for row in pooled] == pytest.approx([row.number_share for row in again])


def test_a_class_without_an_object_has_a_row_and_no_bins() -> None:
    found = found_in(np.zeros((5, 5), np.uint8), (2.0, 2.0))
    rows = class_rows("a", found, CLASSES, (2.0, 2.0), ObjectRule())
    assert [row.object_count for row in rows] == [1, 0]
    assert rows[1].number_d50 is None
    # None is none; the one that touches the border stands for a number that is not known.
    assert [row.density_per_mm2 for row in rows] == [None, 0]
    assert [row.class_index for row in SizeTable(CLASSES).add("a", found)] == [0]


def test_nothing_measured_has_no_frame() -> None:
    found = found_in(np.full((5, 5), 255, np.uint8))
    assert found.frame is None
    assert [row.density_per_mpx for row in class_rows("a", found, CLASSES, None, ObjectRule())] == [None, None]
    assert [*SizeTable(CLASSES).add("a", found)] == []


def test_the_frame_is_what_was_measured() -> None:
    mask = np.zeros((40, 30), np.uint8)
    mask[10:14, 10:14] = 1
    mask[28:30, 5:9] = 1  # down to the info bar
    mask[30:] = 255
    found = found_in(mask, block=16)
    assert found.frame is not None
    assert found.frame.shape == (30, 30)
    assert border_weights(found)[1:].tolist() == [pytest.approx(30 * 30 / (25 * 25)), 0]
    (row,) = [row for row in class_rows("a", found, CLASSES, None, ObjectRule()) if row.class_index == 1]
    assert (row.inside_count, row.frame_measured_share) == (1, 1)


def test_small_objects_are_left_out_everywhere() -> None:
    mask = np.zeros((20, 20), np.uint8)
    mask[3, 3] = 1
    mask[10:13, 10:13] = 1
    found = found_in(mask, least=2, block=8)
    assert found.sums.pixels.tolist() == [390, 9]
    assert found.left_out == 1
    assert np.isnan(found.px.nearest_neighbour).all()
    assert found.px.feret_max[1] == pytest.approx(math.hypot(3, 2))
