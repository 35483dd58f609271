"""Masks keep their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.sources import read_mask
from tests.source_files import (
    COLOR,
    GRAY,
    PALETTE,
    RNG,
    H,
    W,
    cut,
    ome_zarr,
    raw,
    saved,
    two_bit_png,
    write,
    zarr_array,
)

if TYPE_CHECKING:
    from pathlib import Path

LABELS = RNG.integers(0, 4, (H, W), dtype=np.uint8)


def palette_labels(path: Path) -> Path:
    image = Image.fromarray(LABELS).copy()
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    return saved(path, image, bits=2)


def two_bit(path: Path) -> Path:
    two_bit_png(path, LABELS)
    return path


MASKS = {
    "png": lambda f: saved(f / "a.png", Image.fromarray(LABELS)),
    "png palette": lambda f: palette_labels(f / "a.png"),
    "png 2 bit": lambda f: two_bit(f / "a.png"),
    "png 16 bit": lambda f: saved(f / "a.png", Image.fromarray(LABELS.astype(np.uint16))),
    "png rgb of gray": lambda f: saved(f / "a.png", Image.fromarray(np.dstack([LABELS] * 3))),
    "tiff": lambda f: write(f / "a.tif", LABELS),
    "tiff lzw": lambda f: write(f / "a.tif", LABELS, compression="lzw"),
    "tiff int32": lambda f: write(f / "a.tif", LABELS.astype(np.int32)),
    "tiff float": lambda f: write(f / "a.tif", LABELS.astype(np.float32)),
    "tiff white is zero": lambda f: write(f / "a.tif", LABELS, photometric="miniswhite"),
    "tiff palette": lambda f: write(
        f / "a.tif", LABELS, photometric="palette", colormap=PALETTE.T.astype(np.uint16) * 257
    ),
    "zarr": lambda f: zarr_array(LABELS, chunks=(16, 16), shards=(64, 64))(f)[0],
    "zarr int64": lambda f: zarr_array(LABELS.astype(np.int64), chunks=(16, 16))(f)[0],
    "ome-zarr": lambda f: ome_zarr("0.5", "yx", LABELS, LABELS[None])(f)[0],
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_keep_their_numbers(tmp_path, name):
    mask = read_mask(MASKS[name](tmp_path))
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, LABELS)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_one_bit_masks_are_0_and_1(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        Image.fromarray(LABELS > 1).save(path)
    else:
        tifffile.imwrite(path, LABELS > 1)
    np.testing.assert_array_equal(read_mask(path), LABELS > 1)


def test_a_mask_group_that_is_not_finished_is_read(tmp_path):
    group = zarr.create_group(tmp_path / "a.zarr")
    array = group.create_array("0", shape=(H, W), chunks=(32, 32), dtype="u1", fill_value=255)
    array[:32, :32] = LABELS[:32, :32]
    mask = read_mask(tmp_path / "a.zarr")
    np.testing.assert_array_equal(mask[:32, :32], LABELS[:32, :32])
    assert (mask[32:] == 255).all()


BAD_MASKS = {
    "jpeg": (lambda f: saved(f / "a.jpg", Image.fromarray(LABELS)), "JPEG cannot hold a mask"),
    "colour": (lambda f: saved(f / "a.png", Image.fromarray(COLOR)), r"colour image, with \(\d+, \d+, \d+\) at .* \(0, 0\)"),
    "fractions": (lambda f: write(f / "a.tif", LABELS + np.float32(0.5)), r"\(0, 0\) is \d.5, not a whole number"),
    "nan": (lambda f: write(f / "a.tif", np.full((4, 4), np.nan, np.float32)), "is nan, not a whole number"),
    "instances": (lambda f: write(f / "a.tif", np.array([[0, 7], [256, 1]], np.uint16)), r"\(1, 0\) is 256, not"),
    "negative": (lambda f: write(f / "a.tif", np.array([[0, -1]], np.int16)), r"\(0, 1\) is -1, not"),
    "truncated": (lambda f: cut(saved(f / "a.png", Image.fromarray(GRAY)), 0.5), "cannot be decoded"),
    "empty": (lambda f: raw(f / "a.png", b""), "empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_MASKS)
def test_bad_masks_are_refused(tmp_path, name):
    make, message = BAD_MASKS[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        read_mask(path)
    assert caught.value.where == str(path)
