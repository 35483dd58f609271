"""Post-processing: cut up or whole, on threads or on Ray, the same masks; and a run of its own that says so."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict

import dask.array as da
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from scipy import ndimage
from skimage.measure import label as skimage_label

from microseg_ray.errors import RunMismatchError, SettingsError, StoreError
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.derived.operations import Steps, majority_filter, remove_small
from microseg_ray.runs.derived.postprocess import postprocess
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.verify import verify
from microseg_ray.settings import PostprocessSettings, SegmentSettings, VerifySettings

CLASSES = 3
NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))


def removed(mask, limits):
    """remove_small of a whole mask, class by class, part by part and pixel by pixel."""
    for index, limit in enumerate(limits):
        result = mask.copy()
        labels, count = ndimage.label(mask == index)
        assert count == skimage_label(mask == index, connectivity=1).max()
        for part in range(1, count + 1):
            pixels = {(int(y), int(x)) for y, x in np.argwhere(labels == part)}
            votes = around(mask, pixels, len(limits))
            if len(pixels) < limit and any(votes):
                for y, x in pixels:
                    result[y, x] = votes.index(max(votes))
        mask = result
    return mask


def around(mask, pixels, classes):
    """By class, the pixels that share an edge with these."""
    votes = [0] * classes
    for y, x in {(y + down, x + right) for y, x in pixels for down, right in NEIGHBOURS} - pixels:
        if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] != 255:
            votes[mask[y, x]] += 1
    return votes


def small_parts(mask, limits):
    """The parts below their class's limit that have a class around them: (those, parts with nothing around)."""
    replaceable = stuck = 0
    for index, limit in enumerate(limits):
        labels, count = ndimage.label(mask == index)
        sizes = np.bincount(labels.ravel(), minlength=count + 1)
        slices = ndimage.find_objects(labels)
        for part in np.flatnonzero(sizes[1:] < limit) + 1:
            y, x = slices[part - 1]
            rows, columns = np.nonzero(labels[y, x] == part)
            pixels = {(int(r) + y.start, int(c) + x.start) for r, c in zip(rows, columns, strict=True)}
            if any(around(mask, pixels, len(limits))):
                replaceable += 1
            else:
                stuck += 1
    return replaceable, stuck


def elected(mask, classes, radius):
    """majority_filter of a whole mask, pixel by pixel."""
    result = mask.copy()
    for y, x in np.argwhere(mask != 255):
        square = mask[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1]
        votes = [int(np.count_nonzero(square == index)) for index in range(classes)]
        best = [index for index in range(classes) if votes[index] == max(votes)]
        result[y, x] = mask[y, x] if mask[y, x] in best else best[0]
    return result


@st.composite
def masks(draw):
    """Noise, blobs and stripes with unmeasured pixels, up to 40 px a side."""
    shape = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    grain = draw(st.sampled_from([1, 2, 3, 5]))
    shares = draw(st.sampled_from([(0.5, 0.3, 0.2, 0.0), (0.8, 0.1, 0.08, 0.02), (0.4, 0.0, 0.3, 0.3)]))
    coarse = generator.choice(
        np.array([0, 1, 2, 255], np.uint8), size=(shape[0] // grain + 1, shape[1] // grain + 1), p=shares
    )
    return np.kron(coarse, np.ones((grain, grain), np.uint8))[: shape[0], : shape[1]]


def snake(length):
    """One part that winds through a mask: far along the part, near in the plane."""
    mask = np.zeros((9, 21), np.uint8)
    places = [(y, x) for y in range(1, 8, 2) for x in (range(1, 20) if y % 4 == 1 else range(19, 0, -1))]
    joints = {(2, 19), (4, 1), (6, 19)}
    for y, x in [*places[:length], *(joint for joint in joints if joint[0] < places[length - 1][0])]:
        mask[y, x] = 1
    return mask


@examples(max_examples=60)
@given(masks(), st.tuples(*[st.integers(0, 14)] * CLASSES), st.tuples(st.integers(1, 41), st.integers(1, 41)))
@example(snake(70), (0, 73, 0), (2, 3))
@example(snake(70), (0, 74, 0), (2, 3))
# Lines that begin with the last pixel of a chunk: the far border, or the tenth pixel, is N - 1 away.
@example(np.array([[2] * 8 + [1] * 9 + [0]], np.uint8), (0, 10, 0), (1, 9))
@example(np.array([[2] * 8 + [1] * 10], np.uint8), (0, 10, 0), (1, 9))
@example(np.full((4, 4), 1, np.uint8), (9, 99, 9), (3, 3))
def test_removing_small_parts_does_not_see_the_chunks(mask, limits, chunks):
    lazy = remove_small(da.from_array(mask, chunks=chunks), limits)
    result = lazy.compute(scheduler="synchronous")
    np.testing.assert_array_equal(result, removed(mask, limits))
    assert small_parts(result, limits)[0] == 0
    np.testing.assert_array_equal(remove_small(lazy, limits).compute(scheduler="synchronous"), result)


# Two small parts side by side, which would exchange their classes for ever if both were replaced at once.
@pytest.mark.parametrize(
    ("rows", "limit", "expected"),
    [
        ([[255, 255, 255, 255], [1, 1, 2, 2], [255, 255, 255, 255]], 3, [[255] * 4, [2, 2, 2, 2], [255] * 4]),
        ([[0, 0, 0, 0], [0, 1, 2, 0], [0, 0, 0, 0]], 2, [[0] * 4] * 3),
        ([[255, 1, 255], [1, 255, 2], [255, 2, 255]], 4, [[255, 1, 255], [1, 255, 2], [255, 2, 255]]),
    ],
)
def test_small_parts_do_not_exchange_their_classes(rows, limit, expected):
    result = remove_small(da.from_array(np.array(rows, np.uint8), chunks=2), (limit,) * 3)
    assert result.compute(scheduler="synchronous").tolist() == expected


@examples(max_examples=12)
@given(
    masks(), st.integers(2, 9), st.integers(0, 9), st.integers(1, 4), st.tuples(st.integers(3, 41), st.integers(3, 41))
)
def test_no_small_part_is_left_after_the_majority_filter(mask, speck, hole, radius, chunks):
    steps = Steps(speck, hole, radius)
    result = steps.apply(da.from_array(mask, chunks=chunks), CLASSES).compute(scheduler="synchronous")
    limits = steps.limits(CLASSES)
    np.testing.assert_array_equal(result, removed(elected(removed(mask, limits), CLASSES, radius), limits))
    assert small_parts(result, limits)[0] == 0


@pytest.mark.parametrize("kind", [pytest.param("labels", marks=pytest.mark.slow), "seed_pred"])
def test_no_small_part_is_left_on_a_real_mask(real_data, kind, tmp_path):
    from PIL import Image

    mask = np.array(Image.open(real_data / f"mudrock/mosaics/15_{kind}.png"))
    make_run(tmp_path / "run", {"15.png": mask}, 1024)
    steps = Steps(64, 64, 2)
    done = postprocess(settings(tmp_path / "run", tmp_path / "out", **asdict(steps)))
    found = np.asarray(MaskStore.open(done.run.store_path("15.png")).mask[:])
    counts = [sum(small_sizes(each, index).size for index in range(CLASSES)) for each in (mask, found)]
    print(f"{kind} of 15: parts below 64 px before {counts[0]}, after {counts[1]}")
    assert counts[0] > 50
    assert counts[1] == 0
    np.testing.assert_array_equal(found, whole(mask, steps))


def small_sizes(mask, index, limit=64):
    """The sizes of the parts of a class below the limit."""
    sizes = np.bincount(ndimage.label(mask == index)[0].ravel())[1:]
    return sizes[sizes < limit]


def expected(mask, steps):
    """All steps, pixel by pixel."""
    limits = steps.limits(CLASSES)
    return removed(elected(removed(mask, limits), CLASSES, steps.majority), limits)


def test_a_radius_that_would_overflow_the_votes_is_refused():
    mask = da.zeros((300, 300), dtype=np.uint8, chunks=300)
    assert majority_filter(mask, 1, 127).compute().max() == 0
    with pytest.raises(ValueError, match="0 to 127"):
        majority_filter(mask, 1, 128)


def make_run(folder, masks, shard, pixel_size_um=(0.5, 0.25)):
    """A finished run of these masks, as segment leaves one."""
    from microseg_ray.runs.identity import RunIdentity
    from microseg_ray.settings import ClassSpec

    classes = tuple(ClassSpec(name=name) for name in ("matrix", "grain", "pore"))
    record = {
        "settings": {},
        "archive": "/nowhere",
        "source": "/nowhere",
        "checkpoint": "/nowhere",
        "classes": [item.model_dump() for item in classes],
        "verdict": "exact",
    }
    run = Run.create(folder, RunIdentity("f0", {"halo": 8}), record)
    for name, mask in masks.items():
        identity = {"model_digest": "f0", "pixels": {"halo": 8}, "fingerprint": f"of {name}", "limits": [0, 255]}
        store = MaskStore.create(run.store_path(name), MaskSpec(mask.shape, classes, shard), identity)
        for shard_index in store.missing():
            store.commit(shard_index, np.ascontiguousarray(mask[store.spec.box(shard_index).slices]))
        size = None if pixel_size_um is None else list(pixel_size_um)
        store.finish(pixel_size_um, {"verdict": "exact", "pixel_size_um": size, "pixel_size_source": "a test"})
    run.write_tables(run.names(), [])
    return run


def speckled(shape, seed):
    generator = np.random.default_rng(seed)
    mask = np.kron(generator.integers(0, 3, (shape[0] // 16 + 1, shape[1] // 16 + 1)), np.ones((16, 16)))
    mask = mask[: shape[0], : shape[1]].astype(np.uint8)
    noisy = generator.random(shape) < 0.1
    mask[noisy] = generator.integers(0, 3, int(noisy.sum()))
    mask[: shape[0] // 7, : shape[1] // 3] = 255
    return mask


def settings(run, output, **options):
    chosen = {"min_speck": 12, "min_hole": 30, "majority": 2, "workers": 0, **options}
    return PostprocessSettings(run=str(run), output=str(output), **chosen)


def whole(mask, steps):
    """The steps in memory, on the whole mask as one chunk."""
    return steps.apply(da.from_array(mask, chunks=mask.shape), CLASSES).compute(scheduler="synchronous")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Three masks, the largest of 5 x 5 shards: more than one wave."""
    contents = {
        "large.tif": speckled((200, 170), 0),
        "2019/deep.tif": speckled((64, 130), 1),
        "small.png": speckled((9, 7), 2),
    }
    return make_run(tmp_path_factory.mktemp("parent") / "run", contents, 40), contents


@pytest.fixture(scope="module")
def derived(source, tmp_path_factory):
    return postprocess(settings(source[0].folder, tmp_path_factory.mktemp("derived") / "run"))


@pytest.mark.parametrize("name", ["large.tif", "2019/deep.tif", "small.png"])
def test_a_mask_on_disk_equals_the_whole_in_memory(source, derived, name):
    _, contents = source
    steps = Steps(12, 30, 2)
    store = MaskStore.open(derived.run.store_path(name))
    mask = np.asarray(store.mask[:])
    np.testing.assert_array_equal(mask, expected(contents[name], steps))
    assert np.count_nonzero(mask != contents[name]) > 0 or name == "small.png"
    assert store.counts.sum(axis=(0, 1)).tolist() == np.bincount(mask[mask != 255], minlength=3).tolist()
    assert all(store.recount(shard) for shard in np.ndindex(*store.spec.shards))
    assert store.finished
    assert not store.missing()


@examples(max_examples=6)
@given(
    st.sampled_from([32, 48, 64, 200]),
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 9),
    st.integers(0, 2**32 - 1),
)
def test_shards_do_not_show(tmp_path_factory, shard, speck, hole, radius, seed):
    if max(speck, hole) <= 1 and radius == 0:
        speck = 2
    folder = tmp_path_factory.mktemp("shards")
    mask = speckled((150 + seed % 60, 170), seed)
    make_run(folder / "run", {"a.tif": mask}, shard)
    postprocess(settings(folder / "run", folder / "out", min_speck=speck, min_hole=hole, majority=radius))
    found = np.asarray(MaskStore.open(folder / "out/masks/a.tif.zarr").mask[:])
    np.testing.assert_array_equal(found, whole(mask, Steps(speck, hole, radius)))
    shutil.rmtree(folder)


def test_what_the_parent_knew_is_carried_over(source, derived):
    run, _ = source
    document = json.loads((derived.run.folder / "run.json").read_text())
    assert document["parent"] == {"path": str(run.folder), "identity": {"model_digest": "f0", "pixels": {"halo": 8}}}
    assert document["identity"]["pixels"] == {
        "halo": 8,
        "postprocess": {"min_speck": 12, "min_hole": 30, "majority": 2, "parts": "class by class"},
    }
    assert document["verdict"] == "exact"
    note = MaskStore.open(derived.run.store_path("large.tif")).note
    assert (note["verdict"], note["pixel_size_um"], note["pixel_size_source"]) == ("exact", [0.5, 0.25], "a test")
    rows = [row for row in derived.areas if row.micrograph == "large.tif"]
    assert sum(row.pixel_count for row in rows) == rows[0].measured_pixel_count == rows[1].measured_pixel_count
    assert rows[1].area_um2 == rows[1].pixel_count * 0.125


def test_the_parent_is_left_alone_and_a_second_run_computes_nothing(source, derived, tree_of):
    parent, child = tree_of(source[0].folder), tree_of(derived.run.folder)
    areas = list(derived.areas)
    again = postprocess(settings(source[0].folder, derived.run.folder))
    assert (again.computed, again.kept) == (0, derived.run.names())
    assert list(again.areas) == areas
    assert (tree_of(source[0].folder), tree_of(derived.run.folder)) == (parent, child)


def test_only_what_is_missing_is_computed_and_the_bytes_are_the_same(source, derived, tree_of, tmp_path):
    shutil.copytree(derived.run.folder, tmp_path / "run")
    store = MaskStore.open(tmp_path / "run/masks/large.tif.zarr")
    store.forget((0, 0))
    (tmp_path / "run/masks/large.tif.zarr/0/c/4/3").unlink()
    again = postprocess(settings(source[0].folder, tmp_path / "run"))
    assert again.computed == 2
    assert len(again.kept) == 2
    assert tree_of(tmp_path / "run/masks") == tree_of(derived.run.folder / "masks")


def test_results_are_never_mixed(source, derived, tmp_path):
    with pytest.raises(RunMismatchError, match="postprocess"):
        postprocess(settings(source[0].folder, derived.run.folder, min_speck=13))
    for output in (source[0].folder, source[0].folder / "masks" / "x"):
        with pytest.raises(SettingsError, match="another folder"):
            postprocess(settings(source[0].folder, output, overwrite=True))
    with pytest.raises(SettingsError, match="postprocessed itself"):
        postprocess(settings(derived.run.folder, tmp_path / "run"))
    with pytest.raises(StoreError, match="no run is here"):
        postprocess(settings(tmp_path / "none", tmp_path / "run"))
    assert Run.open(source[0].folder).names() == derived.run.names()
    with pytest.raises(ValueError, match="nothing to do"):
        settings("a", "b", min_speck=1, min_hole=0, majority=0)


def test_a_changed_parent_is_followed_and_a_broken_one_is_named(source, tmp_path):
    shutil.copytree(source[0].folder, tmp_path / "run")
    first = postprocess(settings(tmp_path / "run", tmp_path / "out"))
    MaskStore.open(first.run.store_path("small.png")).recalibrate((7.0, 7.0), "by hand")
    parent = Run.open(tmp_path / "run")
    MaskStore.open(parent.store_path("2019/deep.tif")).recalibrate((2.0, 2.0), "option pixel_size_um")
    MaskStore.open(parent.store_path("large.tif")).forget((1, 1))
    again = postprocess(settings(tmp_path / "run", tmp_path / "out"))
    assert again.computed == 0
    assert [failure.path for failure in again.failures] == ["large.tif"]
    assert "not finished" in again.failures[0].reason
    sizes = {row.micrograph: row.pixel_size_um_y for row in again.areas}
    assert sizes == {"2019/deep.tif": 2.0, "small.png": 7.0}, "the parent's correction comes, the child's own stays"
    shutil.copytree(source[0].folder, tmp_path / "broken")
    (tmp_path / "broken/masks/large.tif.zarr/0/c/2/2").write_bytes(b"no shard")
    broken = postprocess(settings(tmp_path / "broken", tmp_path / "other"))
    assert [(failure.path, failure.stage) for failure in broken.failures] == [("large.tif", "postprocess")]
    assert {row.micrograph for row in broken.areas} == {"2019/deep.tif", "small.png"}


def test_verify_recounts_and_names_the_parent(source, derived, tmp_path, microseg):
    found = verify(VerifySettings(run=str(derived.run.folder), shards=99))
    assert (found.recomputed, found.problems) == (0, ())
    assert found.recounted == 25 + 8 + 1
    assert f"microseg verify --run {source[0].folder}" in found.advice
    shutil.copytree(derived.run.folder, tmp_path / "run")
    store = MaskStore.open(tmp_path / "run/masks/small.png.zarr")
    store.mask[0, 6] = 2 - store.mask[0, 6]
    ran = microseg("verify", "--run", tmp_path / "run", "--shards", 99)
    assert ran.code == 1
    assert "small.png, shard (0, 0)" in ran.out
    assert "verify the run that it was made from" in ran.out


def test_the_job_and_the_whole_path_from_a_segmented_run(archive, checkpoint, tmp_path, microseg):
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "shard": 256, "workers": 0, "extra": "margin"}
    parent = segment(SegmentSettings(**chosen, output=str(tmp_path / "run")))
    ran = microseg(
        "postprocess", "--run", tmp_path / "run", "--output", tmp_path / "out", "--min_speck", 20, "--workers", 0
    )
    assert ran.code == 0
    assert "15 shards computed" in ran.out
    run = Run.open(tmp_path / "out")
    for name in parent.run.names():
        before = np.asarray(MaskStore.open(parent.run.store_path(name)).mask[:])
        after = np.asarray(MaskStore.open(run.store_path(name)).mask[:])
        np.testing.assert_array_equal(after, whole(before, Steps(min_speck=20)))
    with pytest.raises(RunMismatchError, match="postprocess"):
        segment(SegmentSettings(**chosen, output=str(tmp_path / "out")))
    assert microseg("report", "--run", tmp_path / "out").code == 0
    assert microseg("postprocess", "--run", tmp_path / "run", "--output", tmp_path / "no").code == 2


@pytest.mark.ray
def test_ray_gives_the_same_bytes(source, derived, tree_of, tmp_path, ray_session, microseg):
    options = ("--min_speck", 12, "--min_hole", 30, "--majority", 2, "--workers", 2)
    ran = microseg("postprocess", "--run", source[0].folder, "--output", tmp_path / "run", *options)
    assert ran.code == 0, ran.err
    assert "34 shards computed" in ran.out
    assert tree_of(tmp_path / "run/masks") == tree_of(derived.run.folder / "masks")


def test_neither_ray_nor_torch_is_needed():
    import subprocess
    import sys

    code = "import sys, microseg_ray.runs.derived; sys.exit(any(name in sys.modules for name in ('ray', 'torch')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
