"""Arrays of one shard read without zarr: equal to what zarr reads, damage included."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from microseg_ray.runs.store import one_shard
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.one_shard import read_array
from microseg_ray.runs.store.spec import MaskSpec, create_pixels
from microseg_ray.settings import ClassSpec

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="pore"))


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 1300), st.integers(1, 1300)),
    st.sampled_from((64, 512, 1024, 2048)),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_it_is_what_zarr_reads(shape, shard, seed, partly):
    pixels = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    with TemporaryDirectory() as folder:
        group = zarr.create_group(folder)
        array = create_pixels(group, "0", shape, MaskSpec(shape, CLASSES, shard))
        # Of a part that nobody wrote there is no chunk, or no shard at all.
        array[: shape[0] // 2 if partly else shape[0]] = pixels[: shape[0] // 2 if partly else shape[0]]
        np.testing.assert_array_equal(read_array(Path(folder) / "0"), zarr.open_array(f"{folder}/0", mode="r")[:])


def test_the_arrays_of_a_mask_are_read_without_zarr(tmp_path, monkeypatch):
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((700, 900), CLASSES, 1024, "margin"), {})
    mask, margin = (np.random.default_rng(n).integers(0, 2, (700, 900)).astype(np.uint8) for n in (1, 2))
    store.commit((0, 0), mask, margin)
    store.finish(None, {})
    monkeypatch.setattr(one_shard.zarr, "open_array", None)
    np.testing.assert_array_equal(read_array(tmp_path / "a.zarr/0"), mask)
    np.testing.assert_array_equal(read_array(tmp_path / "a.zarr/margin"), margin)
    assert read_array(tmp_path / "a.zarr/1").shape == (350, 450)


@pytest.mark.parametrize("place", [0, 40, -30, -2], ids=["first byte", "in a chunk", "in the index", "checksum"])
def test_a_flipped_byte_is_found(place, tmp_path):
    store = MaskStore.create(tmp_path / "a.zarr", MaskSpec((600, 600), CLASSES, 1024), {})
    store.commit((0, 0), np.random.default_rng(0).integers(0, 2, (600, 600)).astype(np.uint8))
    file = tmp_path / "a.zarr/0/c/0/0"
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        read_array(tmp_path / "a.zarr/0")
    file.write_bytes(content[:10])
    with pytest.raises(ValueError, match="is damaged"):
        read_array(tmp_path / "a.zarr/0")
