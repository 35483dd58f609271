"""Objects found block by block are those of the whole mask: scipy's labels, scikit-image's properties, naive geometry."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import euler_number, perimeter_crofton, regionprops

from microseg_ray.statistics.objects import merging
from microseg_ray.statistics.objects.finding import ObjectRule, Objects, find_objects, label_blocks
from microseg_ray.statistics.objects.hulls import feret_diameters, hull_rows
from microseg_ray.statistics.objects.merging import Found, merge
from microseg_ray.statistics.objects.outlines import OUTLINE, crofton_perimeter
from microseg_ray.statistics.objects.parts import PART, Hulls

if TYPE_CHECKING:
    from numpy.typing import NDArray

CLASSES = 3
STRUCTURE = {4: None, 8: np.ones((3, 3))}


@st.composite
def masks(draw: st.DrawFn, longest: int = 30) -> NDArray[np.uint8]:
    """Noise, smooth shapes and stripes of three classes, with unmeasured pixels, a rectangle of them or none."""
    shape = draw(st.tuples(st.integers(1, longest), st.integers(1, longest)) | st.just((1, 1)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    smooth = draw(st.sampled_from([0.0, 0.7, 1.5, 4.0]))
    field = ndimage.gaussian_filter(random.standard_normal(shape), (smooth, smooth * draw(st.sampled_from([1.0, 5.0]))))
    mask = np.digitize(field, np.quantile(field, sorted(draw(st.tuples(st.floats(0, 1), st.floats(0, 1))))))
    mask = mask.astype(np.uint8)
    missing = draw(st.sampled_from(["none", "some", "bar", "all"]))
    if missing == "some":
        mask[random.random(shape) < 0.05] = 255
    elif missing == "bar":
        mask[shape[0] // 2 :] = 255
    elif missing == "all" and draw(st.integers(0, 5)) == 0:
        mask[:] = 255
    return mask


rules = st.builds(ObjectRule, connectivity=st.sampled_from([4, 8]), block=st.integers(3, 64))
spacings = st.tuples(st.floats(0.05, 20), st.floats(0.05, 20))


def found_in(mask: NDArray[np.uint8], rule: ObjectRule, *rest: Any) -> Objects:
    return find_objects(mask.shape, lambda box: mask[box.slices], rule, *rest)


def labelled(mask: NDArray[np.uint8], connectivity: int) -> tuple[NDArray[np.int64], list[int]]:
    """The oracle: scipy's labels, class by class, on the whole mask."""
    labels, of_class = np.zeros(mask.shape, np.int64), []
    for index in range(CLASSES):
        own, count = ndimage.label(mask == index, STRUCTURE[connectivity])
        labels[own > 0] = own[own > 0] + len(of_class)
        of_class += [index] * count
    return labels, of_class


@given(masks(), rules)
@settings(max_examples=120)
def test_labels_are_scipys_on_the_whole_mask(mask: NDArray[np.uint8], rule: ObjectRule) -> None:
    found = found_in(mask, rule)
    labels, of_class = labelled(mask, rule.connectivity)
    assert found.sums.class_index.tolist() == of_class
    assert found.sums.pixels.tolist() == np.bincount(labels.ravel(), minlength=len(of_class) + 1)[1:].tolist()
    painted = np.zeros(mask.shape, np.uint32)
    for box, part in label_blocks(mask.shape, lambda box: mask[box.slices], found, rule):
        painted[box.slices] = part
    assert np.array_equal(painted, labels)


@given(masks(24), rules, st.none() | spacings, st.sampled_from(["uint8", "uint16", "float32"]))
@settings(max_examples=40)
def test_properties_are_scikit_images(
    mask: NDArray[np.uint8], rule: ObjectRule, size: tuple[float, float] | None, kind: str
) -> None:
    light = (np.random.default_rng(mask.size).random(mask.shape) * 250 + 5).astype(kind)
    found = found_in(mask, rule, size, lambda box: light[box.slices])
    labels, _ = labelled(mask, rule.connectivity)
    spacing = size or (1.0, 1.0)
    regions = regionprops(labels, light, spacing=spacing)
    assert len(regions) == len(found)
    sizes = found.um or found.px
    assert found.intensities is not None
    for index, region in enumerate(regions):
        assert found.sums.pixels[index] == region.num_pixels
        assert tuple(found.sums.box[index]) == region.bbox
        assert found.sums.euler[index] == euler_number(region.image, connectivity=rule.connectivity // 4)
        assert found.px.area[index] == region.num_pixels
        scale = math.hypot(*spacing) * max(mask.shape)
        near = {"rel": 1e-9, "abs": 1e-9 * scale}
        assert tuple(found.sums.centroid[index] * spacing) == pytest.approx(region.centroid, **near)
        assert sizes.area[index] == pytest.approx(region.area)
        assert sizes.equivalent_diameter[index] == pytest.approx(region.equivalent_diameter_area)
        # An axis is the root of a variance, so rounding near 0 shows at half its digits.
        assert sizes.major_axis[index] == pytest.approx(region.axis_major_length, abs=1e-6 * scale)
        assert sizes.minor_axis[index] == pytest.approx(region.axis_minor_length, abs=1e-6 * scale)
        assert found.px.perimeter[index] == pytest.approx(perimeter_crofton(region.image, directions=4))
        # scikit-image adds the pixels whose centre lies in the hull, and half a pixel around them.
        assert sizes.feret_max[index] <= region.feret_diameter_max + 1e-9 * scale
        assert sizes.feret_max[index] > region.feret_diameter_max - max(spacing)
        assert found.intensities.mean[index] == pytest.approx(region.intensity_mean, rel=1e-6)
        assert found.intensities.sd[index] == pytest.approx(region.intensity_std, rel=1e-4, abs=1e-4)
        if region.axis_major_length > 1.001 * region.axis_minor_length:
            # From the y axis, counter-clockwise, in [-90, 90] there.
            turned = (90 + math.degrees(region.orientation) - found.shapes.orientation_deg[index]) % 180
            assert min(turned, 180 - turned) < 1e-3


@given(masks(11), rules, spacings)
@settings(max_examples=25)
def test_feret_diameters_are_those_of_all_pairs_of_points(
    mask: NDArray[np.uint8], rule: ObjectRule, size: tuple[float, float]
) -> None:
    found = found_in(mask, rule, size)
    labels, _ = labelled(mask, rule.connectivity)
    assert found.um is not None
    for index in range(len(found)):
        centres = np.argwhere(labels == index + 1)
        # The middles of the edges of all pixels.
        points = np.concatenate([centres + step for step in ((0, 0.5), (0, -0.5), (0.5, 0), (-0.5, 0))]) * size
        points = np.unique(points, axis=0)
        between = points[:, None] - points[None]
        apart = np.hypot(between[..., 0], between[..., 1])
        assert found.um.feret_max[index] == pytest.approx(apart.max())
        # Every edge of the hull is a line through two points.
        lines = between[apart > 0] / apart[apart > 0][:, None]
        widths = np.ptp(np.stack([-lines[:, 1], lines[:, 0]], axis=1) @ points.T, axis=1)
        assert found.um.feret_min[index] == pytest.approx(widths.min())


@given(masks(24), rules)
@settings(max_examples=25)
def test_neighbours_and_contacts_are_those_of_the_whole_mask(mask: NDArray[np.uint8], rule: ObjectRule) -> None:
    found = found_in(mask, rule)
    labels, of_class = labelled(mask, rule.connectivity)
    centroids = np.array([np.argwhere(labels == index + 1).mean(axis=0) for index in range(len(found))]).reshape(-1, 2)
    beside = ndimage.binary_dilation(mask == 255)
    for index, own in enumerate(of_class):
        others = [
            math.dist(centroids[index], centroids[other])
            for other in range(len(found))
            if other != index and of_class[other] == own
        ]
        nearest = found.px.nearest_neighbour[index]
        assert math.isnan(nearest) if not others else nearest == pytest.approx(min(others))
        rows, columns = np.nonzero(labels == index + 1)
        at_edge = rows.min() == 0 or columns.min() == 0 or rows.max() == mask.shape[0] - 1
        assert found.touches_edge[index] == (at_edge or columns.max() == mask.shape[1] - 1)
        assert found.sums.unmeasured[index] == beside[labels == index + 1].any()


@given(masks(30), st.sampled_from([4, 8]), st.lists(st.integers(3, 64), min_size=2, max_size=3))
@settings(max_examples=25)
def test_the_block_decides_no_digit(mask: NDArray[np.uint8], connectivity: Any, sides: list[int]) -> None:
    light = np.random.default_rng(1).integers(0, 65536, mask.shape).astype(np.uint16)
    results = [
        found_in(mask, ObjectRule(connectivity, block=side), (0.3, 0.7), lambda box: light[box.slices])
        for side in (*sides, 128)
    ]
    for each in results[1:]:
        for name in (
            "class_index",
            "box",
            "pixels",
            "centroid",
            "moments",
            "entries",
            "euler",
            "intensity",
            "unmeasured",
        ):
            assert np.array_equal(getattr(each.sums, name), getattr(results[0].sums, name))
        assert each.um is not None
        assert results[0].um is not None
        assert np.array_equal(each.um.feret_max, results[0].um.feret_max)
        assert np.allclose(each.um.feret_min, results[0].um.feret_min, rtol=1e-12)


def spiral(side: int) -> NDArray[np.uint8]:
    """A line of one pixel that winds to the middle, with one pixel between its turns."""
    mask = np.zeros((side, side), np.uint8)
    y, x, dy, dx = 0, 0, 0, 1
    mask[0, 0] = 1

    def free(y: int, x: int) -> bool:
        ahead = (y + dy, x + dx)
        inside = all(0 <= value < side for value in (y, x))
        beyond = all(0 <= value < side for value in ahead) and mask[ahead] == 1
        return inside and mask[y, x] == 0 and not beyond

    turns = 0
    while turns < 2:
        if free(y + dy, x + dx):
            y, x, turns = y + dy, x + dx, 0
            mask[y, x] = 1
        else:
            dy, dx, turns = dx, -dy, turns + 1
    return mask


@pytest.mark.parametrize("block", [3, 4, 7, 16, 33])
@pytest.mark.parametrize("connectivity", [4, 8])
def test_a_spiral_through_many_blocks_is_one_object(block: int, connectivity: Any) -> None:
    mask = spiral(33)
    found = found_in(mask, ObjectRule(connectivity, frozenset({1}), block))
    assert len(found) == 1
    assert found.sums.pixels.tolist() == [int(mask.sum())]
    assert found.holes.tolist() == [0]
    region = regionprops(mask)[0]
    assert found.px.perimeter[0] == pytest.approx(perimeter_crofton(region.image, directions=4))
    assert found.px.feret_max[0] == pytest.approx(region.feret_diameter_max)


@pytest.mark.parametrize("block", [3, 5, 8])
def test_an_object_over_four_corners_of_blocks_is_one(block: int) -> None:
    mask = np.zeros((4 * block, 4 * block), np.uint8)
    for y, x in itertools.product(range(block, 4 * block, block), repeat=2):
        mask[y - 1 : y + 1, x - 1 : x + 1] = 1
    found = found_in(mask, ObjectRule(4, block=block))
    assert found.sums.pixels.tolist() == [mask.size - 36, *[4] * 9]
    assert found.holes.tolist() == [9, *[0] * 9]
    assert np.allclose(found.px.perimeter[1:], math.pi / 4 * (2 + 2 + 6 / math.sqrt(2)))


def test_two_parts_that_touch_at_a_corner_and_meet_elsewhere_are_one_object_with_connectivity_4() -> None:
    mask = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 0]], np.uint8)
    for block in (3, 2, 1):
        found = found_in(mask, ObjectRule(4, frozenset({1}), block))
        assert len(found) == 1
        assert found.px.perimeter[0] == pytest.approx(perimeter_crofton(mask == 1, directions=4))
        assert found.sums.euler[0] == euler_number(mask == 1, connectivity=1)


def test_a_mask_of_one_object_and_one_without_a_measured_pixel() -> None:
    found = found_in(np.ones((50, 30), np.uint8), ObjectRule(block=16), (2.0, 1.0))
    assert (len(found), found.sums.pixels.tolist(), found.holes.tolist()) == (1, [1500], [0])
    assert math.isnan(found.px.nearest_neighbour[0])
    nothing = found_in(np.full((5, 7), 255, np.uint8), ObjectRule(block=3), (1.0, 1.0), lambda box: np.zeros(box.shape))
    assert len(nothing) == 0
    assert nothing.px.feret_max.shape == (0,)


def test_sums_of_an_object_wider_than_64_bits_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = np.random.default_rng(0).integers(0, 2, (40, 40)).astype(np.uint8)
    before = found_in(mask, ObjectRule(block=16))
    monkeypatch.setattr(merging, "LARGEST_EXACT", 4)
    after = found_in(mask, ObjectRule(block=16))
    assert np.array_equal(before.sums.moments, after.sums.moments)


def test_the_moments_of_an_object_too_large_for_64_bits() -> None:
    """4 x 4 blocks of a square of 2^17 px: the variance of positions along a line of s pixels is (s^2 - 1) / 12."""
    block = 1 << 15
    parts = np.zeros(16, PART)
    line, squares = block * (block - 1) // 2, (block - 1) * block * (2 * block - 1) // 6
    for part, (row, column) in zip(parts, itertools.product(range(4), repeat=2), strict=True):
        part["pixels"], part["sum_xy"] = block * block, line * line
        part["sum_y"] = part["sum_x"] = block * line
        part["sum_yy"] = part["sum_xx"] = block * squares
        part["y0"], part["x0"] = part["origin_y"], part["origin_x"] = row * block, column * block
        part["y1"], part["x1"] = (row + 1) * block, (column + 1) * block
    chain = np.stack([np.arange(15), np.arange(1, 16)], axis=1)
    hulls = Hulls(np.full(16, 1), np.stack([parts["y0"], parts["x0"]], axis=1))
    none = np.zeros(0, np.int64)
    merged = merge(Found(parts, hulls, np.zeros(0, OUTLINE), np.zeros((0, 4), np.int64), chain, none))
    side = 4 * block
    assert merged.pixels.tolist() == [side**2]
    assert merged.centroid[0].tolist() == [(side - 1) / 2] * 2
    assert merged.moments[0].tolist() == pytest.approx([(side**2 - 1) / 12] * 2 + [0], abs=1e-3)


def test_the_variance_of_bright_intensities_keeps_its_digits() -> None:
    mask = np.ones((200, 200), np.uint8)
    light = np.full(mask.shape, 65000, np.uint16)
    light[::2] += 1
    for values, exact in ((light, 0.5), (light.astype(np.float64) * 1e4, 5e3)):
        found = found_in(mask, ObjectRule(block=64), None, lambda box, values=values: values[box.slices])
        assert found.intensities is not None
        assert found.intensities.sd[0] == pytest.approx(exact, rel=1e-9)


def test_intensities_that_are_no_numbers_stay_in_their_object() -> None:
    mask = np.array([[1, 0, 1, 1]], np.uint8)
    light = np.array([[np.nan, 2.0, 3.0, 5.0]])
    found = found_in(mask, ObjectRule(block=2), None, lambda box: light[box.slices])
    assert found.intensities is not None
    assert np.isnan(found.intensities.mean[1])
    assert found.intensities.mean[[0, 2]].tolist() == [2.0, 4.0]
    assert found.intensities.sd[[0, 2]].tolist() == [0.0, 1.0]


@pytest.mark.parametrize("size", [(1.0, 1.0), (1.0, 2.0), (0.5, 0.3)])
def test_a_disc_of_any_pixel_size_has_the_perimeter_of_a_circle(size: tuple[float, float]) -> None:
    radius = 60.0
    y, x = np.mgrid[-70 : 70 : size[0], -70 : 70 : size[1]]
    mask = (y**2 + x**2 < radius**2).astype(np.uint8)
    found = found_in(mask, ObjectRule(only=frozenset({1})), size)
    assert found.um is not None
    # Four directions are exact on average over all; the largest error of a smooth outline is a few per cent.
    assert found.um.perimeter[0] == pytest.approx(2 * math.pi * radius, rel=0.03)
    assert found.um.feret_max[0] == pytest.approx(2 * radius, rel=0.02)
    assert found.um.feret_min[0] == pytest.approx(2 * radius, rel=0.02)
    assert found.um.equivalent_diameter[0] == pytest.approx(2 * radius, rel=0.01)
    assert found.shapes.aspect_ratio[0] == pytest.approx(1, abs=0.01)
    assert found.shapes.circularity[0] == pytest.approx(1, abs=0.06)


def test_weights_of_the_crofton_formula_are_a_whole_turn() -> None:
    # A very large convex set of width 1 in every direction has the perimeter pi (Cauchy).
    for size in ((1.0, 1.0), (1.0, 3.0), (0.2, 0.1)):
        diagonal = math.hypot(*size) / (size[0] * size[1])
        lines = [np.array([each]) for each in (1 / size[0], 1 / size[1], 2 * diagonal)]
        assert crofton_perimeter(*lines, size)[0] == pytest.approx(math.pi)


def test_a_hull_of_two_curves_that_bend_inward_loses_them_whole() -> None:
    rows = np.arange(1001)
    bent = 500 - np.abs(rows - 500)
    counts, points, _ = hull_rows(np.zeros(1001, np.int64), rows, bent, np.full(1001, 600))
    assert sorted(map(tuple, points.tolist())) == [(0, 0), (0, 600), (1000, 0), (1000, 600)]
    assert feret_diameters(counts, points, (1.0, 1.0))[1][0] == pytest.approx(601)


_HALF_A_MILLION = """
import resource, numpy as np
from scipy import ndimage
from microseg_ray.statistics.objects.finding import ObjectRule, find_objects

side = 3 * 708
mask = np.zeros((side, side), np.uint8)
mask[1::3, 1::3] = 1
mask[1::3, 2::3] = np.random.default_rng(0).random((708, 708)) < 0.5
mask[1::3, 2::3][:, -1] = 0
find_objects((8, 8), lambda box: mask[box.slices], ObjectRule(4))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
found = find_objects(mask.shape, lambda box: mask[box.slices], ObjectRule(4))
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
own = found.sums.class_index == 1
labels, count = ndimage.label(mask == 1)
assert own.sum() == count == 708 * 708, (own.sum(), count)
assert (found.sums.pixels[own] == np.bincount(labels.ravel())[1:]).all()
assert found.sums.pixels[~own].tolist() == [int((mask == 0).sum())]
assert found.holes[~own].tolist() == [count]
print(grown * 1024 / count)
"""


@pytest.mark.slow
def test_half_a_million_objects_in_one_micrograph_are_scipys_in_bounded_memory():
    """501264 objects of 1 and 2 px: the labels and areas of scipy, and not more bytes an object than `find_objects` documents."""
    done = subprocess.run(
        [sys.executable, "-c", _HALF_A_MILLION], capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert float(done.stdout) < 1400
