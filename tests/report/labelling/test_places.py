"""`next`: places of real runs, against the mask and the margin pixel by pixel; bad input loses itself alone."""

import csv
import json
import os
import shutil

import numpy as np
import pytest
import tifffile
import zarr

from microseg_ray.geometry import Box
from microseg_ray.report.kept import kept_of
from microseg_ray.report.labelling.places import Search, find_places, write_places
from microseg_ray.report.labelling.ranking import rarity
from microseg_ray.report.labelling.windows import doubt_of, spread_boxes, windows_of
from microseg_ray.report.viewer.labels import Labels, Sheet, Ticket
from microseg_ray.report.viewer.strokes import Stroke
from microseg_ray.report.viewer.subject import name_of
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="grain"), ClassSpec(name="pore"))
ODD = os.fsdecode(b'<b>"x"\n\xff.tif')


def write_run(place, names, extra="margin", shape=(96, 80), finish=True):
    """A run of random blocks whose margin is low in one corner; no model is needed for it."""
    archive = place / "archive"
    archive.mkdir(parents=True)
    record = {
        "archive": str(archive), "source": str(archive), "checkpoint": "none", "settings": {},
        "classes": [each.model_dump() for each in CLASSES],
    }  # fmt: skip
    run = Run.create(place / "run", RunIdentity("f00d", {}), record)
    for number, name in enumerate(names):
        generator = np.random.default_rng(number)
        blocks = generator.choice(3, (shape[0] // 8, shape[1] // 8), p=(0.7, 0.25, 0.05))
        mask = np.kron(blocks, np.ones((8, 8))).astype(np.uint8)
        tifffile.imwrite(archive / name, (mask * 80 + generator.integers(0, 40, shape)).astype(np.uint8))
        store = MaskStore.create(run.store_path(name), MaskSpec(shape, CLASSES, shard=64, extra=extra), {})
        doubt = generator.integers(0, 255, shape).astype(np.uint8)
        doubt[:32, :32] = number
        for shard in np.ndindex(*store.spec.shards):
            box = store.spec.box(shard)
            store.commit(shard, mask[box.slices], None if extra == "none" else doubt[box.slices])
        if finish:
            store.finish((0.5, 0.25), {"pixel_size_um": [0.5, 0.25]})
    run.write_tables(names, [])
    return Run.open(run.folder)


@pytest.mark.parametrize("extra", ["margin", "entropy", "none"])
def test_windows_are_those_of_the_pixels(tmp_path, extra):
    run = write_run(tmp_path, ["a.tif"], extra)
    store = MaskStore.open(run.store_path("a.tif"))
    mask, rare = store.mask[:], np.array([0.0, 0.5, 1.0])
    found = windows_of(
        "a.tif", kept_of(store.path), spread_boxes(store.spec, 99), rare, lambda box: np.zeros(box.shape, bool), 32, 99
    )
    # Shards of 64 px: windows never cross them, and what is cut off is kept from half of a window on.
    assert sum(each.box.area for each in found) == mask.size
    for window in found:
        inside = window.box.slices
        if extra == "none":
            part = mask[inside]
            differs = np.zeros(part.shape, bool)
            # A border at the edge of a shard belongs to the next one.
            for y, x in np.ndindex(*part.shape):
                for near in ((y + 1, x), (y, x + 1)):
                    at = (window.box.y0 + near[0], window.box.x0 + near[1])
                    crosses = (at[0] % 64 == 0 and near[0] > y) or (at[1] % 64 == 0 and near[1] > x)
                    if at[0] < mask.shape[0] and at[1] < mask.shape[1] and not crosses:
                        differs[y, x] |= mask[at] != part[y, x]
            expected = differs.mean()
        else:
            kept = zarr.open_array(f"{store.path}/{extra}", mode="r")[:][inside] / 254
            expected = (1 - kept if extra == "margin" else kept).mean()
        assert window.doubt == pytest.approx(expected)
        shares = [(mask[inside] == index).mean() for index in range(3)]
        assert window.shares == pytest.approx(shares)
        assert window.score == pytest.approx(expected * (1 + np.dot(shares, rare)))
    assert [each.score for each in found] == sorted((each.score for each in found), reverse=True)


def test_the_doubt_of_probabilities_is_that_of_their_margin(tmp_path):
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((64, 64), CLASSES, shard=64, extra="probabilities"), {})
    chances = np.random.default_rng(0).dirichlet(np.ones(3), (64, 64)).transpose(2, 0, 1).astype(np.float16)
    store.commit((0, 0), chances.argmax(axis=0).astype(np.uint8), chances)
    source, doubt = doubt_of(kept_of(store.path))
    ordered = np.sort(chances.astype(float), axis=0)
    assert source == "probabilities"
    box = Box(3, 5, 40, 60)
    np.testing.assert_allclose(doubt(box, store.read(box)), 1 - (ordered[2] - ordered[1])[box.slices])


def test_places_are_written_and_labelled_ones_are_skipped(tmp_path, microseg):
    run = write_run(tmp_path, ["a.tif", "b.tif", ODD])
    done = microseg("next", run.folder, "--count", 4, "--side", 32)
    assert done.code == 0, done.out + done.err
    assert "files: 3 seen = 3 used" in done.out
    places = json.loads((run.folder / "labels" / "next.json").read_text())["places"]
    assert len(places) == 4
    # The doubtful corner of each micrograph comes first, whatever its name.
    assert {name_of(each["key"]) for each in places[:3]} == {"a.tif", "b.tif", ODD}
    assert all(each["box"] == [0, 0, 32, 32] for each in places[:3])
    assert places[0]["box_um"] == [0.0, 0.0, 16.0, 8.0]
    assert places[0]["doubt_of"] == "margin"
    with (run.folder / "labels" / "next.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    assert [row["micrograph"] for row in rows] == [name_of(each["key"]) for each in places]
    assert [float(row["score"]) for row in rows] == [each["score"] for each in places]
    # A stroke in that corner of a.tif: the place is not asked for again, and a.tif comes last.
    labels = Labels(run.folder / "labels", run.classes)
    sheet = Sheet("a.tif", str(tmp_path / "archive" / "a.tif"), (96, 80), None)
    labels.draw(sheet, Stroke("brush", 1, ((4.0, 4.0), (9.0, 9.0)), 2), Ticket("Ann", "s", 0, "1"))
    assert microseg("next", run.folder, "--count", 99, "--side", 32).code == 0
    places = json.loads((run.folder / "labels" / "next.json").read_text())["places"]
    assert all(each["box"] != [0, 0, 32, 32] for each in places if each["key"] == "YS50aWY")
    assert name_of(places[0]["key"]) != "a.tif"
    assert name_of(places[1]["key"]) != "a.tif"


def test_what_cannot_be_used_is_named_and_nothing_else_is_lost(tmp_path, microseg):
    run = write_run(tmp_path, ["a.tif", "b.tif", "c.tif"], extra="none")
    (tmp_path / "archive" / "b.tif").unlink()
    shutil.rmtree(run.store_path("c.tif") / "0")
    done = microseg("next", run.folder, "--side", 32)
    assert done.code == 3
    assert "b.tif" in done.out
    assert "c.tif" in done.out
    assert "segment --extra margin" in done.out
    assert "files: 3 seen = 1 used + 2 set aside" in done.out
    places = json.loads((run.folder / "labels" / "next.json").read_text())["places"]
    assert {each["micrograph"] for each in places} == {"a.tif"}
    assert "border of classes" in places[0]["reasons"]
    assert microseg("next", tmp_path / "archive").code == 1


def test_a_run_that_is_half_done_is_ranked_as_far_as_it_is(tmp_path):
    run = write_run(tmp_path, ["a.tif"], finish=False)
    store = MaskStore.open(run.store_path("a.tif"))
    store.forget((0, 0))
    store._file(store.mask, (0, 0)).unlink()
    found = find_places(run, Labels(tmp_path / "labels", CLASSES), Search(99, 32))
    assert found.failures == []
    boxes = [place.window.box for place in found.places]
    assert boxes
    assert all(box.intersection(Box(0, 0, 64, 64)).area == 0 for box in boxes)
    # No pixel size, no micrometres.
    record = found.places[0].record(["matrix", "grain", "pore"])
    assert record["box_um"] is None
    write_places(tmp_path / "labels", found, ["matrix", "grain", "pore"])
    assert ",,,,," in (tmp_path / "labels" / "next.csv").read_text().splitlines()[1]


def test_a_huge_mask_is_looked_at_in_parts_that_are_spread(tmp_path):
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((640, 640), CLASSES, shard=64), {})
    boxes = list(spread_boxes(store.spec, 7))
    assert len(set(boxes)) == len(boxes) == 7
    assert boxes[0] == Box(0, 0, 64, 64)
    assert boxes[-1] == Box(576, 576, 640, 640)
    assert len(list(spread_boxes(store.spec, 1000))) == 100
    assert rarity(np.array([1.0])).tolist() == [0.0]
