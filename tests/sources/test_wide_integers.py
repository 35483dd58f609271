"""int32 frames whose values fit 16 bits are uint16; bit depths that a file states."""

from __future__ import annotations

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources import narrowed, open_micrograph

FRAME = np.random.default_rng(0).integers(0, 65_536, (50, 40), dtype=np.int32)


@pytest.mark.parametrize("options", [{}, {"tile": (16, 16), "compression": "zlib"}])
def test_values_that_fit_are_read_without_loss(tmp_path, options):
    tifffile.imwrite(tmp_path / "a.tif", FRAME, **options)
    with open_micrograph(tmp_path / "a.tif") as micrograph:
        assert micrograph.info.dtype == "uint16"
        assert "int32 whose values all fit 16 bits" in micrograph.info.notes[0]
        np.testing.assert_array_equal(micrograph.read(Box(7, 3, 50, 40))[0], FRAME[7:50, 3:40])


@pytest.mark.parametrize("value", [-1, 65_536])
def test_one_value_that_does_not_fit_refuses_the_whole_frame(tmp_path, monkeypatch, value):
    monkeypatch.setattr(narrowed, "_BAND_BYTES", 1000)  # several bands
    pixels = FRAME.copy()
    pixels[44, 11] = value
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with pytest.raises(InputError, match=rf"pixels are int32, and rows .*{value}.*do not fit 16 bits"):
        open_micrograph(tmp_path / "a.tif")


def with_sbit(path, pixels, bits):
    Image.fromarray(pixels).save(path)
    content = path.read_bytes()
    chunk = b"sBIT" + bytes([bits])
    path.write_bytes(content[:33] + struct.pack(">I", 1) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:])


def test_stated_bits_are_known(tmp_path):
    deep = (FRAME >> 4).astype(np.uint16)
    tag = [(281, "H", 1, 4095, True)]
    tifffile.imwrite(tmp_path / "a.tif", deep, extratags=tag)
    tifffile.imwrite(tmp_path / "o.ome.tif", deep, ome=True, metadata={"axes": "YX", "SignificantBits": 12})
    tifffile.imwrite(tmp_path / "plain.tif", deep)
    with_sbit(tmp_path / "a.png", deep, 12)
    (tmp_path / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(deep, bitspersample=12, reversible=True, level=0))
    found = {}
    for path in sorted(tmp_path.iterdir()):
        with open_micrograph(path) as micrograph:
            found[path.name] = micrograph.info.bits
    assert found == {"a.jp2": 12, "a.png": 12, "a.tif": 12, "o.ome.tif": 12, "plain.tif": None}
