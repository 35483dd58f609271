"""Coarser levels: the same as halving the whole image again and again, whichever way they come about."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microseg_ray.geometry import Box
from microseg_ray.report.viewer import levels as module
from microseg_ray.report.viewer.levels import Levels
from microseg_ray.runs.store.pyramid import halved, mode_downsample

KINDS = ("uint8", "uint16", "int16", "uint32", "float32")


def naive_half(pixels):
    """Each square by itself."""
    height, width = -(-pixels.shape[1] // 2), -(-pixels.shape[2] // 2)
    found = np.zeros((len(pixels), height, width), pixels.dtype)
    for y, x in np.ndindex(height, width):
        rows, columns = (
            [min(2 * at, side - 1), min(2 * at + 1, side - 1)]
            for at, side in zip((y, x), pixels.shape[1:], strict=True)
        )
        square = pixels[:, rows][:, :, columns].reshape(len(pixels), 4)
        mean = square.mean(axis=1, dtype=np.float64)
        found[:, y, x] = mean if pixels.dtype.kind == "f" else np.floor(mean + 0.5)
    return found


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from(KINDS), st.integers(0, 10))
def test_a_half_is_the_mean_of_squares(height, width, kind, seed):
    pixels = (np.random.default_rng(seed).random((2, height, width)) * 30000).astype(kind)
    np.testing.assert_array_equal(halved(pixels), naive_half(pixels))


@pytest.fixture
def small_tiles(monkeypatch):
    """Tiles of 16 px, so that a small image has many levels and rows of chunks."""
    monkeypatch.setattr(module, "TILE", 16)
    monkeypatch.setattr(module, "_COLUMNS", 32)
    monkeypatch.setattr(module, "level_shapes", lambda shape: shapes_to(shape, 16))


def shapes_to(shape, least):
    found = [shape]
    while max(found[-1]) > least:
        found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
    return found


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.parametrize("shape", [(97, 131), (64, 64), (10, 300), (1, 1), (33, 16)])
def test_every_level_is_that_of_the_whole_image(tmp_path, small_tiles, shape, labels):
    pixels = np.random.default_rng(1).integers(0, 4, (1, *shape)).astype(np.uint8)
    expected = [pixels]
    for _ in shapes_to(shape, 16)[1:]:
        expected.append(mode_downsample(expected[-1][0])[None] if labels else halved(expected[-1]))
    for _ in range(2):  # made, then read from the folder
        found = Levels(
            lambda box: pixels[(slice(None), *box.slices)], shape, (1, pixels.dtype), tmp_path, "a", labels=labels
        )
        for level, whole in enumerate(expected):
            np.testing.assert_array_equal(found.tile(level, Box.of_shape(whole.shape[1:])), whole)
        assert found.share == 1
        found.close()
    assert [each.name for each in tmp_path.iterdir() if "." in each.name] == []


def test_of_a_huge_image_fine_tiles_come_at_once_and_coarse_ones_as_they_are_made(tmp_path, small_tiles, monkeypatch):
    import threading

    monkeypatch.setattr(module, "_AT_ONCE", 0)
    pixels = np.random.default_rng(2).integers(0, 255, (1, 200, 200)).astype(np.uint8)
    go = threading.Event()

    def read(box):
        assert threading.current_thread() is threading.main_thread() or go.wait(10)
        return pixels[(slice(None), *box.slices)]

    monkeypatch.setattr(Levels, "region", lambda _self, box: read(box))
    found = Levels(read, (200, 200), (1, pixels.dtype), tmp_path, "a")
    two = halved(halved(pixels))
    np.testing.assert_array_equal(found.tile(2, Box(0, 0, 16, 16)), two[:, :16, :16])
    assert found.tile(3, Box(0, 0, 16, 16)) is None
    assert found.share == 0
    go.set()
    found._thread.join()
    np.testing.assert_array_equal(found.tile(3, Box(0, 0, 16, 16)), halved(two)[:, :16, :16])


def test_an_image_that_cannot_be_read_says_so_and_leaves_nothing(tmp_path, small_tiles):
    def read(box):
        raise OSError("the disk is gone")

    found = Levels(read, (64, 64), (1, np.dtype(np.uint8)), tmp_path, "a")
    assert "the disk is gone" in found.error
    assert list(tmp_path.iterdir()) == []
