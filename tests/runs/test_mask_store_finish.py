"""Finishing a mask: its pyramid, its metadata and its note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import ome_zarr_models.v05 as ome
import pytest
import yaozarrs
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from microseg_ray.errors import StoreError
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.pyramid import mode_downsample
from microseg_ray.settings import default_color
from tests.runs.mask_stores import filled, mask_file, random_mask, spoil


def naive_mode(mask: np.ndarray) -> np.ndarray:
    height, width = -(-mask.shape[0] // 2), -(-mask.shape[1] // 2)
    result = np.full((height, width), 255, np.uint8)
    for y in range(height):
        for x in range(width):
            square = mask[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
            votes = np.bincount(square[square != 255], minlength=1)
            if votes.any():
                result[y, x] = votes.argmax()
    return result


# --- pyramid and metadata -------------------------------------------------------------------------------------------
@given(
    hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.sampled_from([0, 1, 2, 255]))
)
def test_mode_downsample_equals_a_loop_over_squares(mask: np.ndarray) -> None:
    assert mode_downsample(mask).tolist() == naive_mode(mask).tolist()


def test_mode_downsample_knows_all_255_classes() -> None:
    mask = np.arange(256, dtype=np.uint8).repeat(2).reshape(2, 256, order="F")
    assert mode_downsample(mask).tolist() == naive_mode(mask).tolist()


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (513, 511), (1300, 1025), (64, 64)])
@pytest.mark.parametrize("shard", [512, 1024])
def test_finish_writes_a_pyramid_of_majorities(shape: tuple[int, int], shard: int, tmp_path: Path) -> None:
    mask = random_mask(shape, ignored=True)
    store = filled(tmp_path / "a.zarr", mask, shard)
    assert not store.finished
    store.finish((0.5, 0.25), {"verdict": "exact"})
    assert MaskStore.open(store.path).finished
    group = zarr.open_group(store.path, mode="r")
    level, expected = 0, mask
    while max(expected.shape) > 512:
        level, expected = level + 1, naive_mode(expected) if expected.size < 3e5 else mode_downsample(expected)
        assert (np.asarray(group[str(level)][:]) == expected).all()
    assert str(level + 1) not in group
    assert {name for name, _ in group.arrays()} == {"counts", *(str(index) for index in range(level + 1))}


@pytest.mark.parametrize("shape", [(1, 1), (513, 511), (700, 1100)])
@pytest.mark.parametrize("size", [None, (0.5, 0.25)])
def test_metadata_is_valid_ome_zarr(shape: tuple[int, int], size: tuple[float, float] | None, tmp_path: Path) -> None:
    store = filled(tmp_path / "sample 1.zarr", random_mask(shape), 512)
    store.finish(size, {"verdict": "exact"})
    yaozarrs.validate_zarr_store(store.path)
    image = ome.ImageLabel.from_zarr(zarr.open_group(store.path, mode="r"))
    attributes = image.ome_attributes
    multiscale = attributes.multiscales[0]
    assert [axis.name for axis in multiscale.axes] == ["y", "x"]
    assert {axis.unit for axis in multiscale.axes} == {"micrometer" if size else None}
    assert [dataset.path for dataset in multiscale.datasets] == [str(i) for i in range(len(multiscale.datasets))]
    for level, dataset in enumerate(multiscale.datasets):
        assert dataset.coordinateTransformations[0].scale == [side * 2**level for side in size or (1, 1)]
    colors = {int(item.label_value): tuple(item.rgba) for item in attributes.image_label.colors}
    names = [item["class"] for item in zarr.open_group(store.path).attrs["ome"]["image-label"]["properties"]]
    assert names == ["matrix", "grain", "pore", "not measured"]
    assert colors == {
        0: (0x10, 0x20, 0x30, 255),
        1: (*bytes.fromhex(default_color(1)[1:]), 255),  # the user named no colour
        2: (255, 0, 0, 255),
        255: (0, 0, 0, 0),
    }


def test_the_note_is_kept_beside_the_identity(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((8, 8)))
    assert store.note == {}
    store.finish(None, {"verdict": "bounded"})
    assert MaskStore.open(store.path).note == {"verdict": "bounded"}
    assert MaskStore.open(store.path).identity == {"model": "abc"}


def test_finish_can_be_repeated_with_another_pixel_size(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((600, 600)), 512)
    store.finish(None, {})
    once = {path: path.read_bytes() for path in Path(store.path).rglob("*") if path.is_file() and "c" in path.parts}
    store = MaskStore.open(store.path)
    store.finish((2.0, 3.0), {})
    assert all(path.read_bytes() == raw for path, raw in once.items())
    scales = zarr.open_group(store.path).attrs["ome"]["multiscales"][0]["datasets"][1]["coordinateTransformations"]
    assert scales[0]["scale"] == [4.0, 6.0]


@pytest.mark.parametrize("change", ["commit", "forget"])
def test_a_pyramid_does_not_outlive_its_pixels(change: str, tmp_path: Path) -> None:
    mask = random_mask((600, 600))
    store = filled(tmp_path / "a.zarr", mask, 512)
    other = MaskStore.open(store.path)  # opened before the store was finished
    store.finish(None, {})
    if change == "commit":
        other.commit((1, 1), np.ones((88, 88), np.uint8))
    else:
        other.forget((1, 1))
    assert not MaskStore.open(store.path).finished
    assert not store.finished


def test_finish_finds_damaged_shards_and_leaves_them_to_the_next_run(tmp_path: Path) -> None:
    mask = random_mask((1100, 600))
    store = filled(tmp_path / "a.zarr", mask, 512)
    spoil(mask_file(store, (1, 0)), "truncate", at=0)
    with pytest.raises(StoreError, match=r"shards \[\(1, 0\)\] are damaged on disk .*run the same command again"):
        store.finish(None, {})
    store = MaskStore.open(store.path)
    assert not store.finished
    assert store.missing() == [(1, 0)]
    store.commit((1, 0), mask[store.spec.box((1, 0)).slices])
    store.finish(None, {})
    assert (np.asarray(zarr.open_array(f"{store.path}/1")[:]) == mode_downsample(mask)).all()


def test_finish_sweeps_up_after_killed_writers(tmp_path: Path) -> None:
    store = filled(tmp_path / "a.zarr", random_mask((8, 8)))
    litter = Path(store.path) / "0" / "c" / "0" / "0.1234.partial"
    litter.write_bytes(b"half")
    store.finish(None, {})
    assert not litter.exists()
