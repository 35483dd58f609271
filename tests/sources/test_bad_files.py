"""Bad files: each says what is wrong and what to do, and none takes the memory that it claims."""

from __future__ import annotations

import json
import pickle
import sys
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from astropy.io import fits
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources import open_micrograph
from tests.format_files import write_dm, write_emd_ncem, write_emd_velox, write_fits, write_mrc, write_ser
from tests.source_files import (
    ALPHA,
    COLOR,
    DEEP,
    GRAY,
    REAL,
    H,
    W,
    cut,
    damage,
    ome_zarr,
    overwrite,
    png_bytes,
    raw,
    saved,
    write,
    zarr_array,
)

if TYPE_CHECKING:
    from pathlib import Path


def without_data(path: Path) -> Path:
    write(path, tile=(32, 32), compression="lzw")
    with tifffile.TiffFile(path) as file:
        counts = list(file.pages.first.databytecounts)
    return overwrite(path, TileByteCounts=[0, *counts[1:]])


def strip_bomb(path: Path) -> Path:
    write(path, compression="zlib", rowsperstrip=H)
    return overwrite(path, ImageWidth=60_000, ImageLength=60_000, RowsPerStrip=60_000)


def zarr_json(folder: Path, **changes) -> Path:
    path = folder / "a.zarr"
    zarr.create_array(path, shape=(8, 8), chunks=(4, 4), dtype="u1")[...] = 1
    document = json.loads((path / "zarr.json").read_text())
    (path / "zarr.json").write_text(json.dumps(document | changes))
    return path


def pickle_zarr(folder: Path) -> Path:
    path = folder / "a.zarr"
    path.mkdir()
    (path / ".zarray").write_text(
        json.dumps({
            "zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": "|u1", "compressor": {"id": "pickle"},
            "fill_value": 0, "filters": None, "order": "C",
        })
    )  # fmt: skip
    (path / "0.0").write_bytes(pickle.dumps(b"x" * 16))
    return path


def ome_level(folder: Path, level: str) -> Path:
    path, _ = ome_zarr("0.5", "yx", GRAY, GRAY[None])(folder)
    attributes = dict(zarr.open_group(path, mode="r").attrs["ome"])
    attributes["multiscales"][0]["datasets"][0]["path"] = level
    zarr.open_group(path, mode="r+").attrs["ome"] = attributes
    return path


def bare_group(folder: Path) -> Path:
    zarr.create_group(folder / "g.zarr")
    return folder / "g.zarr"


def zarr_of(folder: Path, shape, dtype="u1") -> Path:
    zarr.create_array(folder / "a.zarr", shape=shape, chunks=((1,) * len(shape) + (4, 4))[-len(shape) :], dtype=dtype)
    return folder / "a.zarr"


REFUSED_AT_OPEN = {
    "missing": (lambda f: f / "no.tif", "no such file or folder"),
    "empty": (lambda f: raw(f / "a.tif", b""), r"empty \(0 bytes\); copy it again"),
    "text": (lambda f: raw(f / "a.tif", b"hello, world"), "no image: the content is text"),
    "noise": (lambda f: raw(f / "a.tif", bytes(range(200, 256))), "unknown format and begins with"),
    "gif": (lambda f: saved(f / "a.gif", Image.fromarray(GRAY)), "this is a GIF"),
    "folder": (lambda f: f, "the folder is no zarr"),
    "tiff header only": (lambda f: raw(f / "a.tif", b"II*\0\0\0\0\0"), "no image, only a header"),
    "tiff magic only": (lambda f: raw(f / "a.tif", b"II*\0"), "TIFF cannot be opened"),
    "tiff directory cut": (lambda f: raw(f / "a.tif", write(f / "b.tif").read_bytes()[:60]), "TIFF cannot be opened"),
    "tiff truncated plain": (lambda f: cut(write(f / "a.tif"), 0.5), "the file is truncated: strip 0 of 1 ends at"),
    "tiff truncated tiles": (
        lambda f: cut(write(f / "a.tif", tile=(32, 32), compression="zlib"), 0.8),
        "truncated: tile .* ends at byte",
    ),
    "tiff absurd": (
        lambda f: overwrite(write(f / "a.tif"), ImageWidth=1_000_000, ImageLength=1_000_000),
        "claims 1000000 x 1000000",
    ),
    "tiff too wide": (lambda f: overwrite(write(f / "a.tif"), ImageWidth=40_000, RowsPerStrip=H), "is truncated: the pixels end"),
    "tiff zero width": (lambda f: overwrite(write(f / "a.tif"), ImageWidth=0), r"83 x 0 \(height x width\)"),
    "tiff hole": (lambda f: without_data(f / "a.tif"), r"tile 0 of 15 holds no data \(byte count 0\)"),
    "tiff strip bomb": (lambda f: strip_bomb(f / "a.tif"), "no such compression exists"),
    "tiff few strips": (
        lambda f: overwrite(write(f / "a.tif", rowsperstrip=10, compression="lzw"), ImageLength=5000),
        "the header lists 9 of 500 strips",
    ),
    "tiff codec": (
        lambda f: overwrite(write(f / "a.tif", compression="lzw"), Compression=34676),
        "compression .* is not supported; save it as",
    ),
    "tiff bool": (lambda f: write(f / "a.tif", GRAY > 9), "1 bit a pixel; save it as 8-bit gray"),
    "tiff float64": (lambda f: write(f / "a.tif", REAL.astype(float)), "float64; .* save it as 32-bit float"),
    "tiff cmyk": (
        lambda f: write(f / "a.tif", np.dstack([COLOR, ALPHA]), photometric="separated"),
        "4 samples a pixel of kind SEPARATED",
    ),
    "tiff channels": (
        lambda f: write(f / "a.tif", np.dstack([COLOR, COLOR]), photometric="minisblack", planarconfig="contig"),
        r"6 channels .*neither gray nor RGB; set source.channel",
    ),
    "tiff rgb damaged": (
        lambda f: damage(write(f / "a.tif", COLOR, photometric="rgb", compression="zlib", rowsperstrip=H), 0.5),
        "cannot be|damaged",
    ),
    "png header only": (lambda f: raw(f / "a.png", b"\x89PNG\r\n\x1a\n"), "it ends after 8 bytes, inside the header"),
    "png absurd": (
        lambda f: raw(f / "a.png", png_bytes((1_000_000, 1_000_000), 8, 0, zlib.compress(bytes(100)))),
        "claims 1000000 x 1000000",
    ),
    "png bomb": (
        lambda f: raw(f / "a.png", png_bytes((60_000, 60_000), 8, 0, zlib.compress(bytes(100)))),
        "claims 3433 MiB of pixels",
    ),
    "png too large": (
        lambda f: raw(f / "a.png", png_bytes((300_000, 300_000), 8, 0, zlib.compress(bytes(100)))),
        r"can only be decoded whole, which takes 83.8 GiB .*save it as a tiled TIFF",
    ),
    "png zero": (lambda f: raw(f / "a.png", png_bytes((0, 7), 8, 0, zlib.compress(b""))), "0 x 7|PNG cannot"),
    "jpeg cmyk": (lambda f: saved(f / "a.jpg", Image.new("CMYK", (9, 9))), "CMYK, made for print; save it as gray"),
    "jpeg rgb truncated": (lambda f: cut(saved(f / "a.jpg", Image.fromarray(COLOR)), 0.5), "cannot be decoded"),
    "zarr absurd": (lambda f: zarr_json(f, shape=[1 << 40, 1 << 40]), "more than"),
    "zarr chunk bomb": (
        lambda f: zarr_json(
            f, shape=[1 << 18, 1 << 18],
            chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1 << 17, 1 << 17]}},
        ),
        r"one chunk of .* takes 16.0 GiB \(allowed: 1\); rechunk it",
    ),
    "zarr dtype": (lambda f: zarr_of(f, (8, 8), "c8"), "complex64, not numbers"),
    "zarr int64": (lambda f: zarr_of(f, (8, 8), "i8"), "int64; micrographs are"),
    "zarr channels": (lambda f: zarr_of(f, (2, 8, 8)), "2 channels .*set source.channel to one of 0 to 1"),
    "zarr empty axis": (lambda f: zarr_of(f, (0, 8)), "0 x 8"),
    "zarr one axis": (lambda f: zarr_of(f, (8,)), "has 1 axes"),
    "zarr json": (lambda f: raw(zarr_of(f, (8, 8)) / "zarr.json", b'{"zarr_fo').parent, "not valid JSON"),
    "zarr nesting": (lambda f: raw(zarr_of(f, (8, 8)) / "zarr.json", b"[" * 100_000).parent, "not valid JSON"),
    "zarr pickle": (pickle_zarr, "pickle codec, which can run code"),
    "zarr group": (bare_group, "no OME-Zarr image"),
    "ome-zarr escape": (lambda f: ome_level(f, "../../secret"), "names the level '../../secret'"),
    "ome-zarr missing level": (lambda f: ome_level(f, "7"), "names the level '7'"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED_AT_OPEN)
def test_refused_at_open(tmp_path, name, capfd):
    make, message = REFUSED_AT_OPEN[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_micrograph(path)
    assert caught.value.where == str(path)
    assert caught.value.advice
    assert capfd.readouterr() == ("", "")


REFUSED_AT_READ = {
    "tiff tile damaged": lambda f: damage(write(f / "a.tif", tile=(32, 32), compression="zlib"), 0.5),
    "tiff strip damaged": lambda f: damage(write(f / "a.tif", compression="zlib", rowsperstrip=H), 0.5),
    "tiff tile short": lambda f: overwrite(write(f / "a.tif", tile=(32, 32)), TileByteCounts=[500] * 15),
    "png truncated": lambda f: cut(saved(f / "a.png", Image.fromarray(GRAY)), 0.5),
    "png damaged": lambda f: damage(saved(f / "a.png", Image.fromarray(GRAY)), 0.5),
    "jpeg truncated": lambda f: cut(saved(f / "a.jpg", Image.fromarray(GRAY)), 0.5),
    "zarr chunk damaged": lambda f: cut(zarr_array(DEEP, chunks=(32, 40))(f)[0] / "c" / "0" / "0", 0.5).parents[2],
}


@pytest.mark.parametrize("name", REFUSED_AT_READ)
def test_damage_is_refused_at_read(tmp_path, name, capfd):
    path = REFUSED_AT_READ[name](tmp_path)
    with (
        open_micrograph(path) as micrograph,
        pytest.raises(InputError, match=r"cannot be (read|decoded)|decoded to") as caught,
    ):
        micrograph.read(Box.of_shape(micrograph.info.shape))
    assert caught.value.where == str(path)
    assert caught.value.advice
    assert capfd.readouterr() == ("", "")


# --- every format --------------------------------------------------------------------------------------------------

GOOD = {
    "tiff": lambda f: write(f / "a.tif", DEEP),
    "png": lambda f: saved(f / "a.png", Image.fromarray(GRAY)),
    "jpeg": lambda f: saved(f / "a.jpg", Image.fromarray(GRAY)),
    "bmp": lambda f: saved(f / "a.bmp", Image.fromarray(GRAY)),
    "fits": lambda f: write_fits(f / "a.fits", DEEP),
    "fits compressed": lambda f: write_fits(f / "a.fits", DEEP, compressed=True),
    "dm3": lambda f: write_dm(f / "a.dm3", DEEP, 3),
    "dm4": lambda f: write_dm(f / "a.dm4", DEEP, 4),
    "emd ncem": lambda f: write_emd_ncem(f / "a.emd", DEEP),
    "emd velox": lambda f: write_emd_velox(f / "a.emd", DEEP),
    "ser": lambda f: write_ser(f / "a.ser", DEEP),
    "mrc": lambda f: write_mrc(f / "a.mrc", DEEP),
}


@pytest.mark.parametrize("keep", [0, 1, 5, 40, 300, "half", "nearly all"])
@pytest.mark.parametrize("name", GOOD)
def test_a_truncated_file_of_any_format_is_refused(tmp_path, name, keep, capfd):
    path = GOOD[name](tmp_path)
    content = path.read_bytes()
    # FITS files end with up to 2880 bytes of padding, which nobody misses.
    count = {"half": len(content) // 2, "nearly all": len(content) - 3000}.get(keep, keep)
    raw(path, content[:count])
    with pytest.raises(InputError) as caught, open_micrograph(path) as micrograph:
        micrograph.read(Box.of_shape(micrograph.info.shape))
    assert caught.value.where == str(path)
    assert caught.value.advice
    assert "0 bytes" in str(caught.value) or keep != 0
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", GOOD)
def test_the_suffix_is_not_believed_and_awkward_names_are_fine(tmp_path, name):
    path = GOOD[name](tmp_path)
    with open_micrograph(path) as micrograph:
        form, expected = micrograph.info.format, micrograph.read(Box(3, 4, 30, 60))
    renamed = path.rename(tmp_path / "Übersicht #2 (links) 50%25 µm [a].jpeg")
    with open_micrograph(renamed) as micrograph:
        assert micrograph.info.format == form == name.split()[0]
        np.testing.assert_array_equal(micrograph.read(Box(3, 4, 30, 60)), expected)


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [("dm3", "rsciio.digitalmicrograph", "em"), ("mrc", "mrcfile", "em"), ("ser", "rsciio.tia._api", "em"),
     ("emd ncem", "h5py", "em"), ("emd velox", "rsciio.emd", "em"), ("fits", "astropy.io.fits", "fits")],
)  # fmt: skip
def test_a_missing_extra_is_named(tmp_path, monkeypatch, name, module, extra):
    path = GOOD[name](tmp_path)
    monkeypatch.setitem(sys.modules, module, None)
    package = module.partition(".")[0]
    with pytest.raises(
        InputError, match=rf"needs {package}, which is not installed; pip install 'microseg_ray\[{extra}\]'"
    ):
        open_micrograph(path)


def patched(path: Path, offset: int, content: bytes) -> Path:
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    return raw(path, bytes(whole))


def absurd_fits(path: Path) -> Path:
    text = write_fits(path, DEEP).read_bytes()
    for axis, side in ((1, W), (2, H)):
        old, new = f"NAXIS{axis}  = {side:>20}".encode(), f"NAXIS{axis}  = {1_000_000:>20}".encode()
        assert old in text
        text = text.replace(old, new)
    return raw(path, text)


SIDE = (1_000_000).to_bytes(4, "little")
ABSURD = {
    "bmp": lambda f: patched(GOOD["bmp"](f), 18, SIDE * 2),
    "mrc": lambda f: patched(GOOD["mrc"](f), 0, SIDE * 2),
    "fits": lambda f: absurd_fits(f / "a.fits"),
}


@pytest.mark.parametrize("name", ABSURD)
def test_a_million_squared_is_refused_before_allocating(tmp_path, name):
    path = ABSURD[name](tmp_path)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match="claims 1000000 x 1000000"):
            open_micrograph(path)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def hdf5(path: Path, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for name, data in datasets.items():
            file[name] = data
    return path


MICROSCOPES = {
    "hdf5 of another kind": (lambda f: hdf5(f / "a.emd", exported_data=DEEP), "not a supported EMD file"),
    "hdf5 damaged": (lambda f: damage(GOOD["emd ncem"](f), 0.01, 400), "the EMD cannot be opened"),
    "dm damaged": (lambda f: damage(GOOD["dm3"](f), 0.0013, 60), "the DM3 cannot be opened"),
    "mrc mode": (lambda f: patched(GOOD["mrc"](f), 12, b"\x63\0\0\0"), "MRC mode 99 is not supported"),
    "mrc more sections": (lambda f: patched(GOOD["mrc"](f), 8, b"\x09\0\0\0"), "truncated: the pixels end at byte"),
    "fits without image": (lambda f: table_fits(f / "a.fits"), "holds no image"),
    "fits float64": (lambda f: write_fits(f / "a.fits", DEEP.astype(float)), "float64; .* save it as 32-bit float"),
    "jpeg cmyk": (lambda f: saved(f / "a.jpg", Image.new("CMYK", (9, 9))), "made for print"),
}  # fmt: skip


def table_fits(path: Path) -> Path:
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(np.zeros(3, [("a", "f4")]))]).writeto(path)
    return path


@pytest.mark.parametrize("name", MICROSCOPES)
def test_microscope_files_that_cannot_be_used(tmp_path, name):
    make, message = MICROSCOPES[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        open_micrograph(path)
    assert caught.value.where == str(path)
