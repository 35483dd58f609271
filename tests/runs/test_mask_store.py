"""The mask store: whole or absent, resumable, self-checking, and readable by other people's software."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from microseg_ray.errors import StoreError
from microseg_ray.geometry import Box
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import EXTRAS, MaskSpec
from microseg_ray.statistics.counts import count_classes
from tests.runs.mask_stores import CLASSES, filled, mask_file, random_mask, spoil


def counts_file(store: MaskStore, shard: tuple[int, int]) -> Path:
    return mask_file(store, shard, "counts") / "0"


# --- counts ---------------------------------------------------------------------------------------------------------
@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2), elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_counts_equal_a_loop_over_pixels(mask: np.ndarray) -> None:
    expected = [sum(1 for value in mask.ravel() if value == index) for index in range(4)]
    counts = count_classes(mask, 4)
    assert counts.tolist() == expected
    assert counts.dtype == np.int64


def test_a_value_that_is_no_class_is_named() -> None:
    with pytest.raises(StoreError, match=r"mask value 7 is no class: there are 3 classes, 0 to 2"):
        count_classes(np.array([[0, 7]], np.uint8), 3)


# --- shards ---------------------------------------------------------------------------------------------------------
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([1, 16, 37, 64, 512, 1024]))
def test_shards_partition_the_micrograph(height: int, width: int, shard: int) -> None:
    spec = MaskSpec((height, width), CLASSES, shard)
    hits = np.zeros(spec.shape, int)
    for index in [(0, 0), tuple(side - 1 for side in spec.shards)]:
        assert spec.shard_of(spec.box(index)) == index
    if spec.shards[0] * spec.shards[1] < 500:
        for index in np.ndindex(*spec.shards):
            hits[spec.box(index).slices] += 1
        assert (hits == 1).all()


@pytest.mark.parametrize("index", [(-1, 0), (0, -1), (2, 0), (0, 3)])
def test_a_shard_that_does_not_exist_is_refused(index: tuple[int, int], tmp_path: Path) -> None:
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((100, 150), CLASSES, 64), {})
    with pytest.raises(StoreError, match="there are 2 x 3 shards"):
        store.commit(index, np.zeros((64, 64), np.uint8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": (0, 4)}, "1 x 1"),
        ({"shape": (4, 4), "shard": 0}, "shard 0"),
        ({"shape": (4, 4), "shard": 600}, "multiple of 512"),
        ({"shape": (4, 4), "extra": "logits"}, "margin, entropy, probabilities"),
    ],
)
def test_impossible_specs_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        MaskSpec(classes=CLASSES, **arguments)


@pytest.mark.parametrize(
    ("box", "instead"),
    [
        (Box(0, 0, 32, 64), "Box(y0=0, x0=0, y1=64, x1=64)"),
        (Box(0, 0, 128, 64), "Box(y0=0, x0=0, y1=64, x1=64)"),
        (Box(64, 64, 128, 128), "Box(y0=64, x0=64, y1=100, x1=128)"),
        (Box(640, 0, 650, 64), "Box(y0=64, x0=0, y1=100, x1=64)"),
        (Box(-64, 0, 0, 64), "Box(y0=0, x0=0, y1=64, x1=64)"),
    ],
)
def test_a_partial_write_is_refused_and_says_what_to_write(box: Box, instead: str, tmp_path: Path) -> None:
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((100, 150), CLASSES, 64), {})
    with pytest.raises(StoreError, match="not one whole shard") as caught:
        store.write(box, np.zeros(box.shape, np.uint8))
    assert str(caught.value).endswith(f"stitch the shard first, then write {instead}")
    assert len(store.missing()) == 6


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((64, 63), np.uint8), "shard"),
        (np.zeros((64, 64), np.int64), "shard"),
        (np.zeros((1, 64, 64), np.uint8), "shard"),
        (np.full((64, 64), 3, np.uint8), "no class"),
    ],
)
def test_a_refused_commit_changes_nothing(mask: np.ndarray, message: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((100, 150)))
    before = {path: path.read_bytes() for path in sorted(Path(store.path).rglob("*")) if path.is_file()}
    with pytest.raises(StoreError, match=message):
        store.commit((0, 0), mask)
    assert {path: path.read_bytes() for path in sorted(Path(store.path).rglob("*")) if path.is_file()} == before


# --- commit, resume -------------------------------------------------------------------------------------------------
@settings(max_examples=15)
@given(
    st.integers(1, 90), st.integers(1, 90), st.sampled_from([16, 32, 40, 64, 512]), st.randoms(use_true_random=False)
)
def test_what_is_committed_in_any_order_is_what_is_read(tmp_path_factory, height, width, shard, random) -> None:
    mask = random_mask((height, width), seed=height, ignored=True)
    path = tmp_path_factory.mktemp("store") / "a.zarr"
    MaskStore.create(path, MaskSpec(mask.shape, CLASSES, shard), {"model": "abc"})
    order = MaskStore.open(path).missing()
    random.shuffle(order)
    for done, index in enumerate(order):
        store = MaskStore.open(path)  # as another worker would
        assert len(store.missing()) == len(order) - done
        returned = store.write(store.spec.box(index), mask[store.spec.box(index).slices])
        assert (returned == store.counts[index]).all()
    store = MaskStore.open(path)
    assert store.missing() == []
    assert (np.asarray(store.mask[:]) == mask).all()
    assert store.counts.sum(axis=(0, 1)).tolist() == [int((mask == index).sum()) for index in range(3)]
    assert all(store.recount(index) for index in order)
    assert store.identity == {"model": "abc"}


def test_what_is_not_measured_reads_as_ignored_never_as_class_0(tmp_path: Path) -> None:
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((100, 150), CLASSES, 64), {})
    store.commit((0, 1), np.zeros((64, 64), np.uint8))
    expected = np.full((100, 150), 255, np.uint8)
    expected[:64, 64:128] = 0
    assert (np.asarray(MaskStore.open(store.path).mask[:]) == expected).all()
    assert (store.counts[0, 0] == -1).all()


@pytest.mark.parametrize("value", [0, 1, 255])
def test_a_shard_of_one_value_is_still_stored(value: int, tmp_path: Path) -> None:
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((64, 64), CLASSES, 64), {})
    MaskStore.open(store.path).commit((0, 0), np.full((64, 64), value, np.uint8))
    assert mask_file(store, (0, 0)).stat().st_size > 0
    assert store.missing() == []
    assert store.counts[0, 0].sum() == (0 if value == 255 else 64 * 64)


@pytest.mark.parametrize("lost", ["counts", "mask"])
def test_a_deleted_part_is_missing_and_can_be_computed_again(lost: str, tmp_path: Path) -> None:
    mask = random_mask((100, 150))
    store = filled(tmp_path / "a.zarr", mask)
    reference = {
        path.relative_to(store.path): path.read_bytes() for path in Path(store.path).rglob("*") if path.is_file()
    }
    (counts_file if lost == "counts" else mask_file)(store, (1, 2)).unlink()
    store = MaskStore.open(store.path)
    assert store.missing() == [(1, 2)]
    with pytest.raises(StoreError, match=r"1 shards are not done yet, the first is \(1, 2\)"):
        store.finish(None, {})
    store.commit((1, 2), mask[store.spec.box((1, 2)).slices])
    assert store.missing() == []
    after = {path.relative_to(store.path): path.read_bytes() for path in Path(store.path).rglob("*") if path.is_file()}
    assert after == reference


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "zeros", "long"])
def test_a_corrupt_counts_chunk_counts_as_missing(damage: str, tmp_path: Path) -> None:
    mask = random_mask((100, 150))
    store = filled(tmp_path / "a.zarr", mask)
    good = store.counts
    spoil(counts_file(store, (0, 1)), damage, at=0)
    store = MaskStore.open(store.path)
    assert store.missing() == [(0, 1)]
    assert (store.counts[0, 1] == -1).all()
    store.commit((0, 1), mask[store.spec.box((0, 1)).slices])
    assert (store.counts == good).all()


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "zeros", "long"])
@pytest.mark.parametrize("at", [0, -1])
def test_a_corrupt_mask_shard_is_found_and_can_be_overwritten(damage: str, at: int, tmp_path: Path) -> None:
    mask = random_mask((100, 150))
    store = filled(tmp_path / "a.zarr", mask)
    spoil(mask_file(store, (0, 1)), damage, at=at)  # -1 hits the shard's index, which lies at the end
    store = MaskStore.open(store.path)
    assert not store.recount((0, 1))
    assert store.recount((0, 0))
    store.commit((0, 1), mask[store.spec.box((0, 1)).slices])
    assert store.recount((0, 1))
    assert (np.asarray(store.mask[:]) == mask).all()


def test_recount_finds_a_flipped_pixel(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((100, 150)))
    pixels = np.asarray(store.mask[:64, :64])
    pixels[5, 5] = (pixels[5, 5] + 1) % 3
    store.mask[:64, :64] = pixels
    assert not store.recount((0, 0))
    store.mask[64:, 128:] = np.full((36, 22), 9, np.uint8)  # a value that is no class
    assert not store.recount((1, 2))


def test_forget_makes_a_shard_missing(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((100, 150)))
    store.forget((1, 0))
    assert store.missing() == [(1, 0)]
    store.forget((1, 0))  # twice is fine
    assert store.missing() == [(1, 0)]


def test_a_crash_between_mask_and_counts_leaves_the_shard_missing(tmp_path: Path, monkeypatch) -> None:
    mask = random_mask((100, 150))
    store = filled(tmp_path / "a.zarr", mask)  # an older result stands there
    monkeypatch.setattr(MaskStore, "_flush", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        store.commit((0, 0), np.zeros((64, 64), np.uint8))
    monkeypatch.undo()
    store = MaskStore.open(store.path)
    assert store.missing() == [(0, 0)]
    assert mask_file(store, (0, 0)).is_file()


def test_a_crash_while_the_mask_is_written_leaves_the_shard_missing(tmp_path: Path, monkeypatch) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((100, 150)))
    monkeypatch.setattr(
        zarr.Array, "__setitem__", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    with pytest.raises(OSError, match="No space"):
        store.commit((0, 0), np.zeros((64, 64), np.uint8))
    monkeypatch.undo()
    assert MaskStore.open(store.path).missing() == [(0, 0)]


def test_counts_come_after_the_pixels_are_on_disk(tmp_path: Path, monkeypatch) -> None:
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((64, 64), CLASSES, 64, extra="margin"), {})
    synced: list[str] = []

    def watch(self: MaskStore, array: zarr.Array, shard: tuple[int, int]) -> None:
        assert mask_file(store, shard, array.basename).is_file()
        assert not counts_file(store, shard).exists()
        synced.append(array.basename)
        flush(self, array, shard)

    flush = MaskStore._flush
    monkeypatch.setattr(MaskStore, "_flush", watch)
    store.commit((0, 0), np.zeros((64, 64), np.uint8), np.zeros((64, 64), np.uint8))
    assert synced == ["0", "margin"]
    assert counts_file(store, (0, 0)).is_file()


# --- extra outputs --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("extra", EXTRAS)
def test_extra_outputs_are_kept_beside_the_mask(extra: str, tmp_path: Path) -> None:
    mask = random_mask((70, 90))
    shape, dtype = ((3, 70, 90), np.float16) if extra == "probabilities" else ((70, 90), np.uint8)
    values = (np.random.default_rng(1).random(shape) * 200).astype(dtype)
    path = MaskStore.create(tmp_path / "a.zarr", MaskSpec(mask.shape, CLASSES, 64, extra=extra), {}).path
    store = MaskStore.open(path)
    assert store.spec.extra == extra
    for index in store.missing():
        cut = store.spec.box(index).slices
        with pytest.raises(StoreError, match=f"extra='{extra}'"):
            store.commit(index, mask[cut])
        with pytest.raises(StoreError, match=f"'{extra}' takes"):
            store.commit(index, mask[cut], values[(..., *cut)][..., :1])
        with pytest.raises(StoreError, match=f"'{extra}' takes"):
            store.commit(index, mask[cut], values[(..., *cut)].astype(np.float64))
        store.commit(index, mask[cut], values[(..., *cut)])
    assert (np.asarray(zarr.open_array(f"{path}/{extra}")[:]) == values).all()
    file = Path(path) / extra / "c" / ("0/1/1" if extra == "probabilities" else "1/1")
    file.unlink()
    assert store.missing() == [(1, 1)]
    unwritten = np.asarray(zarr.open_array(f"{path}/{extra}")[..., 69, 89])
    assert np.isnan(unwritten).all() if extra == "probabilities" else (unwritten == 255).all()


def test_an_extra_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((8, 8), CLASSES, 64), {})
    with pytest.raises(StoreError, match="extra='none'"):
        store.commit((0, 0), np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8))


# --- opening --------------------------------------------------------------------------------------------------------
def test_opening_what_is_no_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no mask store is here; run the segment job"):
        MaskStore.open(tmp_path / "nothing.zarr")
    zarr.create_group(tmp_path / "other.zarr")
    with pytest.raises(StoreError, match="not a mask store"):
        MaskStore.open(tmp_path / "other.zarr")
    broken = Path(filled(tmp_path / "broken.zarr", random_mask((8, 8))).path)
    (broken / "zarr.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match="damaged"):
        MaskStore.open(broken)


@pytest.mark.parametrize("array", ["0", "counts"])
def test_a_store_with_lost_or_foreign_arrays_is_refused(array: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((100, 150)))
    metadata = Path(store.path) / array / "zarr.json"
    document = json.loads(metadata.read_text())
    document["shape"][0] += 1
    metadata.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="delete it and run segment again"):
        MaskStore.open(store.path)
    shutil.rmtree(metadata.parent)
    with pytest.raises(StoreError, match="delete it and run segment again"):
        MaskStore.open(store.path)


def test_a_store_whose_making_was_cut_short_is_no_store(tmp_path: Path, monkeypatch) -> None:
    create = zarr.Group.create_array

    def fail(self: zarr.Group, name: str, **options: object) -> zarr.Array:
        if name == "counts":
            raise KeyboardInterrupt
        return create(self, name, **options)

    monkeypatch.setattr(zarr.Group, "create_array", fail)
    with pytest.raises(KeyboardInterrupt):
        MaskStore.create(tmp_path / "a.zarr", MaskSpec((8, 8), CLASSES, 64), {})
    monkeypatch.undo()
    with pytest.raises(StoreError, match="not a mask store"):
        MaskStore.open(tmp_path / "a.zarr")


def test_create_takes_the_place_of_an_older_store(tmp_path: Path) -> None:
    filled(tmp_path / "a.zarr", random_mask((100, 150)))
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((10, 10), CLASSES, 64), {"model": "new"})
    assert store.missing() == [(0, 0)]
    assert MaskStore.open(store.path).identity == {"model": "new"}


@pytest.mark.parametrize("damage", ["", "{", '{"zarr_format": 3}'])
def test_finish_takes_the_place_of_a_damaged_level(damage: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((600, 600)), 512)
    store.finish(None, {})
    file = tmp_path / "a.zarr/1/zarr.json"
    sound = file.read_bytes()
    file.write_text(damage)
    again = MaskStore.open(store.path)
    assert again.stale_levels() == [1]
    again.finish(None, {})
    assert file.read_bytes() == sound
    assert again.stale_levels() == []


def test_counts_by_each_prediction_are_kept_and_their_loss_makes_a_shard_undone(tmp_path: Path) -> None:
    mask = random_mask((100, 70), ignored=True)
    spec = MaskSpec(mask.shape, CLASSES, 64, spreads=(("ensemble", 2), ("tta", 8)))
    store = MaskStore.create(tmp_path / "a.zarr", spec, {"model": "abc"})
    generator, given = np.random.default_rng(0), {}
    for index in store.missing():
        part = mask[spec.box(index).slices]
        known = int((part != 255).sum())
        given[index] = {kind: generator.multinomial(known, [0.5, 0.3, 0.2], count) for kind, count in spec.spreads}
        store.commit(index, part, spreads=given[index])
    store = MaskStore.open(store.path)
    assert (store.spec, store.missing()) == (spec, [])
    for index, own in given.items():
        for kind, rows in own.items():
            assert store.spreads[kind][index].tolist() == rows.tolist()
    wrong = {**given[0, 0], "tta": given[0, 0]["tta"] + 1}
    for spreads in (wrong, {"ensemble": given[0, 0]["ensemble"]}):
        with pytest.raises(StoreError, match="tta takes counts of"):
            store.commit((0, 0), mask[:64, :64], spreads=spreads)
    assert store.missing() == []
    # An empty shard is known to hold none.
    store.commit((0, 0), np.full((64, 64), 255, np.uint8))
    assert store.spreads["tta"][0, 0].sum() == 0
    spoil(mask_file(store, (1, 0), "ensemble") / "0" / "0", "truncate", at=3)
    (mask_file(store, (1, 1), "tta") / "0" / "0").unlink()
    assert MaskStore.open(store.path).missing() == [(1, 0), (1, 1)]
