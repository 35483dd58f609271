"""Labels: exactly the pixels that were painted, on the disk at once, undone exactly, and read by `tile`."""

import itertools
import json

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.measure import label

from microseg_ray.catalog.table import read_table
from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.report.viewer.labels import Labels, Sheet, SomebodyElseError, Ticket
from microseg_ray.report.viewer.strokes import Stroke
from microseg_ray.settings import ClassSpec
from microseg_ray.sources import read_mask

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="grain"), ClassSpec(name="pore"))
SHAPE = (40, 30)
points = st.tuples(st.floats(-5, 45), st.floats(-5, 35))
brushes = st.builds(
    lambda value, path, radius: Stroke("brush", value, tuple(path), radius),
    st.sampled_from([0, 1, 2, 255]),
    st.lists(points, min_size=1, max_size=5),
    st.floats(0.5, 8),
)
polygons = st.builds(
    lambda value, path: Stroke("polygon", value, tuple(path)),
    st.sampled_from([0, 1, 255]),
    st.lists(points, min_size=3, max_size=6),
)
fills = st.builds(
    lambda value, y, x: Stroke("fill", value, ((y, x),)), st.integers(0, 2), st.floats(0, 39.9), st.floats(0, 29.9)
)


def ticket(version, stroke="s", session="a", who="Ann"):
    return Ticket(who, session, version, stroke)


def sheet_in(folder, shape=SHAPE):
    return Sheet("b/a.tif", str(folder / "b" / "a.tif"), shape, (0.5, 0.5))


def brushed(stroke, shape):
    """Each pixel by itself: how far its centre is from the nearest point of the path."""
    path = np.array(stroke.points)
    path = np.concatenate([path, path[-1:]])
    found = np.zeros(shape, bool)
    for y, x in np.ndindex(shape):
        at, least = np.array([y + 0.5, x + 0.5]), np.inf
        for start, end in itertools.pairwise(path):
            along, length = end - start, float(((end - start) ** 2).sum())
            share = 0.0 if length == 0 else float(np.clip(((at - start) @ along) / length, 0, 1))
            least = min(least, float(np.hypot(*(at - start - share * along))))
        found[y, x] = least <= max(0.5, stroke.radius)
    return found


def distance_is_clear(stroke, shape):
    """No pixel's centre lies within rounding of the edge of the pen."""
    inner = Stroke("brush", stroke.value, stroke.points, max(0.5, stroke.radius) + 1e-6)
    outer = Stroke("brush", stroke.value, stroke.points, max(0.5, stroke.radius) - 1e-6)
    return (brushed(inner, shape) == brushed(outer, shape)).all() if outer.radius > 0.5 else False


@settings(max_examples=25)
@given(brushes)
def test_a_brush_paints_the_pixels_whose_centre_is_near(stroke):
    shape = (14, 12)
    if distance_is_clear(stroke, shape):
        np.testing.assert_array_equal(stroke.fill(Box.of_shape(shape)), brushed(stroke, shape))


@settings(max_examples=25)
@given(st.lists(st.one_of(brushes, polygons, fills), min_size=1, max_size=6))
def test_strokes_add_up_and_undo_goes_back_exactly(tmp_path_factory, strokes):
    folder = tmp_path_factory.mktemp("labels")
    labels, sheet, whole = Labels(folder / "labels", CLASSES), sheet_in(folder), Box.of_shape(SHAPE)
    model = np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8)
    expected = [np.full(SHAPE, 255, np.uint8)]
    for number, stroke in enumerate(strokes):
        entry = labels.draw(sheet, stroke, ticket(number, str(number)), lambda box: model[box.slices])
        now = expected[-1].copy()
        if stroke.tool == "fill":
            shown = np.where(now == 255, model, now)
            y, x = (int(value) for value in stroke.points[0])
            parts = label(shown == shown[y, x], connectivity=1)
            now[parts == parts[y, x]] = stroke.value
        else:
            now[stroke.fill(whole)] = stroke.value
        assert entry["version"] == number + 1
        assert entry["pixels"] == (now != expected[-1]).sum()
        expected.append(now)
        # Another process reads the same from the disk.
        np.testing.assert_array_equal(Labels(folder / "labels", CLASSES).pixels(sheet, whole), now)
    for older in reversed(expected[:-1]):
        labels.undo(sheet, ticket(len(labels.entries(sheet.name))))
        np.testing.assert_array_equal(labels.pixels(sheet, whole), older)
    with pytest.raises(InputError, match="no stroke of this page"):
        labels.undo(sheet, ticket(99))


def test_the_parts_of_a_stroke_are_undone_together(tmp_path):
    labels, sheet = Labels(tmp_path / "labels", CLASSES), sheet_in(tmp_path)
    for number, (x, stroke) in enumerate([(3, "one"), (8, "two"), (12, "two")]):
        labels.draw(sheet, Stroke("brush", 1, ((5.0, x),), 2), ticket(number, stroke))
    labels.undo(sheet, ticket(3))
    left = labels.pixels(sheet, Box.of_shape(SHAPE)) == 1
    np.testing.assert_array_equal(left, Stroke("brush", 1, ((5.0, 3.0),), 2).fill(Box.of_shape(SHAPE)))


def test_the_second_of_two_people_is_told_and_nothing_of_either_is_lost(tmp_path):
    ann, bob = Labels(tmp_path / "labels", CLASSES), Labels(tmp_path / "labels", CLASSES)
    sheet = sheet_in(tmp_path)
    ann.draw(sheet, Stroke("brush", 1, ((5.0, 5.0),), 2), ticket(0, session="a"))
    stroke = Stroke("brush", 2, ((5.0, 6.0),), 2)
    before = ann.pixels(sheet, Box.of_shape(SHAPE))
    with pytest.raises(SomebodyElseError, match="Ann painted here at 20"):
        bob.draw(sheet, stroke, ticket(0, session="b", who="Bob"))
    np.testing.assert_array_equal(ann.pixels(sheet, Box.of_shape(SHAPE)), before)
    bob.draw(sheet, stroke, ticket(1, session="b", who="Bob"))
    with pytest.raises(InputError, match="Bob painted over this stroke"):
        ann.undo(sheet, ticket(2, session="a"))
    # Ann's own version is older, but all that came since is her own.
    assert [entry["who"] for entry in ann.entries(sheet.name)] == ["Ann", "Bob"]


def test_starting_from_the_mask_keeps_what_was_painted(tmp_path):
    labels, sheet = Labels(tmp_path / "labels", CLASSES), sheet_in(tmp_path)
    labels.draw(sheet, Stroke("brush", 2, ((5.0, 5.0),), 2), ticket(0))
    own = labels.pixels(sheet, Box.of_shape(SHAPE))
    model = np.random.default_rng(0).integers(0, 2, SHAPE).astype(np.uint8)
    labels.copy(sheet, Box(0, 0, 20, 30), lambda box: model[box.slices], ticket(1, "c"))
    expected = np.where(own == 255, model, own)
    expected[20:] = own[20:]
    np.testing.assert_array_equal(labels.pixels(sheet, Box.of_shape(SHAPE)), expected)
    labels.undo(sheet, ticket(2))
    np.testing.assert_array_equal(labels.pixels(sheet, Box.of_shape(SHAPE)), own)


def test_a_huge_micrograph_takes_the_room_of_its_strokes_and_coarse_tiles_show_them(tmp_path):
    labels, sheet = Labels(tmp_path / "labels", CLASSES), sheet_in(tmp_path, (32768, 32768))
    labels.draw(sheet, Stroke("brush", 1, ((20000.5, 20000.5), (20000.5, 20900.5)), 0.5), ticket(0))
    chunks = [file for file in (labels.mask_path(sheet.name) / "0" / "c").rglob("*") if file.is_file()]
    assert len(chunks) == 2
    tile = labels.tile(sheet, 6, Box(0, 0, 512, 512))
    assert np.argwhere(tile == 1)[[0, -1]].tolist() == [[312, 312], [312, 326]]
    assert (tile[tile != 1] == 255).all()


def test_what_is_painted_is_read_by_tile_and_by_others(tmp_path, microseg):
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    labels = Labels(tmp_path / "labels", CLASSES)
    truth = {}
    for name in ("a.png", "a.tif.png", "line\nbreak.png"):
        Image.fromarray(generator.integers(0, 255, (96, 80), np.uint8)).save(tmp_path / "images" / name)
        sheet = Sheet(name, str(tmp_path / "images" / name), (96, 80), (0.5, 0.5))
        for number, value in enumerate((0, 1, 2)):
            stroke = Stroke("brush", value, ((10.0 + 30 * value, 5.0), (12.0 + 30 * value, 70.0)), 4)
            labels.draw(sheet, stroke, ticket(number, str(number)))
        truth[name] = labels.pixels(sheet, Box(0, 0, 96, 80))
        np.testing.assert_array_equal(read_mask(labels.mask_path(name)), truth[name])
    assert labels.add_class("crack", "#ff00ff") == 3
    with pytest.raises(InputError, match="not taken"):
        labels.add_class("crack")
    rows = read_table(tmp_path / "labels" / "labels.csv")
    assert [row.mask for row in rows] == [labels.mask_path(name) for name in truth]
    done = microseg(
        *("tile", "--table", tmp_path / "labels" / "labels.csv", "--output", tmp_path / "tiles", "--tile", 32),
        *("--overlap", 0, "--workers", 0, "--classes", "[matrix,grain,pore,crack]"),
    )
    assert done.code == 0, done.err
    place = tmp_path / "tiles"
    store = zarr.open_group(place / "tiles.zarr" if (place / "tiles.zarr").exists() else place, mode="r")
    masks = np.asarray(store["masks"][:])
    painted = sum(np.bincount(mask.ravel(), minlength=256) for mask in truth.values())
    found = np.bincount(masks.ravel(), minlength=256)
    # Tiles of 32 px: the rows and columns at the edges are in two of them.
    assert (found[:3] >= painted[:3]).all()
    assert found[3:255].sum() == 0
    assert json.loads((tmp_path / "labels" / "classes.json").read_text())[3]["name"] == "crack"


@pytest.mark.parametrize("record", [
    {}, {"tool": "brush", "value": 9, "points": [[1, 1]]}, {"tool": "brush", "value": 1, "points": []},
    {"tool": "polygon", "value": 1, "points": [[1, 1], [2, 2]]}, {"tool": "spray", "value": 1, "points": [[1, 1]]},
    {"tool": "brush", "value": 1, "points": [[float("nan"), 1]]}, {"tool": "brush", "value": 1, "points": [[1, 1, 1]]},
])  # fmt: skip
def test_what_is_no_stroke_is_refused(record):
    with pytest.raises(InputError):
        Stroke.of_record(record, 3)


def test_a_stroke_that_covers_too_much_is_refused(tmp_path):
    labels, sheet = Labels(tmp_path / "labels", CLASSES), sheet_in(tmp_path, (32768, 32768))
    with pytest.raises(InputError, match="zoom in"):
        labels.draw(sheet, Stroke("brush", 1, ((0.0, 0.0), (32000.0, 32000.0)), 10), ticket(0))
    assert labels.entries(sheet.name) == []
