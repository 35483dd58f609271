"""Sources: reading a region equals cutting it out of the whole; bad files say what is wrong; nothing is guessed."""

from __future__ import annotations

import json
import pickle
import re
import struct
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.settings import Scaling
from microseg_ray.sources import (
    base,
    fingerprint,
    intensity_limits,
    list_files,
    listing_root,
    open_micrograph,
    read_mask,
)

H, W = 83, 131
RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (H, W), dtype=np.uint8)
DEEP = RNG.integers(0, 65536, (H, W), dtype=np.uint16)
REAL = RNG.normal(size=(H, W)).astype(np.float32)
COLOR = RNG.integers(0, 256, (H, W, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (H, W, 1), dtype=np.uint8)
SMOOTH = np.add.outer(np.arange(H), np.arange(W)).astype(np.uint8)
PALETTE = RNG.integers(0, 256, (256, 3), dtype=np.uint8)


def cyx(pixels: np.ndarray) -> np.ndarray:
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)


def tiff(data, expected=None, **options):
    def make(folder: Path):
        path = folder / "a.tif"
        tifffile.imwrite(path, data, **options)
        return path, cyx(data if expected is None else expected)

    return make


def jpeg_tiff(folder: Path):
    path = folder / "a.tif"
    tifffile.imwrite(path, COLOR, tile=(64, 48), compression="jpeg", photometric="rgb")
    return path, cyx(tifffile.imread(path))


def palette_tiff(folder: Path):
    path = folder / "a.tif"
    colormap = (PALETTE.T.astype(np.uint16)) * 257
    tifffile.imwrite(path, GRAY, photometric="palette", colormap=colormap, tile=(32, 32), compression="lzw")
    return path, cyx(PALETTE[GRAY])


def png(image, expected):
    def make(folder: Path):
        path = folder / "a.png"
        image().save(path)
        return path, cyx(expected)

    return make


def palette_image(transparency=None):
    image = Image.fromarray(GRAY).copy()
    image.putpalette(PALETTE.tobytes())
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def deep_png(folder: Path):
    path = folder / "a.png"
    data = RNG.integers(0, 65536, (H, W, 4), dtype=np.uint16)
    path.write_bytes(imagecodecs.png_encode(data))
    return path, cyx(data[..., :3])


def two_bit_png(path: Path, labels: np.ndarray) -> None:
    """A gray PNG of 2 bits a sample, which Pillow does not write."""
    padded = np.pad(labels, ((0, 0), (0, -labels.shape[1] % 4))).reshape(labels.shape[0], -1, 4)
    packed = (padded << np.array([6, 4, 2, 0], np.uint8)).sum(axis=2, dtype=np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in packed)
    path.write_bytes(png_bytes(labels.shape, 2, 0, zlib.compress(raw)))


def png_bytes(shape, depth, color, data):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", shape[1], shape[0], depth, color, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def jpeg(data):
    def make(folder: Path):
        path = folder / "a.jpg"
        Image.fromarray(data).save(path, quality=90)
        return path, cyx(np.asarray(Image.open(path)))

    return make


def zarr_array(data, expected=None, **options):
    def make(folder: Path):
        path = folder / "a.zarr"
        array = zarr.create_array(path, shape=data.shape, dtype=data.dtype, **options)
        array[...] = data
        return path, data[None] if expected is None else expected

    return make


def ome_zarr(version: str, axes: str, data: np.ndarray, expected: np.ndarray, unit: str | None = "nanometer"):
    def make(folder: Path):
        path = folder / "a.ome.zarr"
        form = 3 if version == "0.5" else 2
        group = zarr.create_group(path, zarr_format=form)
        array = group.create_array("0", shape=data.shape, dtype=data.dtype, chunks=(1,) * (data.ndim - 2) + (32, 32))
        array[...] = data
        scale = [1.0] * (len(axes) - 2) + [500.0, 250.0]
        entry = {
            "version": version,
            "axes": [{"name": name, **({"unit": unit} if name in "yx" and unit else {})} for name in axes],
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
        }
        group.attrs.update(
            {"ome": {"version": version, "multiscales": [entry]}} if form == 3 else {"multiscales": [entry]}
        )
        return path, expected

    return make


LAYOUTS = {
    "tiff plain": tiff(GRAY),
    "tiff uint16": tiff(DEEP),
    "tiff float32": tiff(REAL),
    "tiff big-endian": tiff(DEEP, byteorder=">"),
    "tiff bigtiff": tiff(GRAY, bigtiff=True),
    "tiff strips": tiff(DEEP, rowsperstrip=7),
    "tiff lzw strips": tiff(GRAY, rowsperstrip=10, compression="lzw", predictor=True),
    "tiff lzw strips big-endian": tiff(DEEP, rowsperstrip=10, compression="lzw", byteorder=">"),
    "tiff lzw one strip": tiff(DEEP, rowsperstrip=H, compression="lzw"),
    "tiff packbits": tiff(GRAY, rowsperstrip=16, compression="packbits"),
    "tiff tiles": tiff(GRAY, tile=(32, 48)),
    "tiff deflate tiles": tiff(DEEP, tile=(16, 64), compression="zlib", predictor=True),
    "tiff zstd tiles float": tiff(REAL, tile=(32, 32), compression="zstd", predictor=True),
    "tiff one tile": tiff(GRAY, tile=(96, 144), compression="lzw"),
    "tiff rgb": tiff(COLOR, photometric="rgb"),
    "tiff rgb deflate": tiff(COLOR, photometric="rgb", tile=(32, 32), compression="zlib", predictor=True),
    "tiff rgb one strip": tiff(COLOR, photometric="rgb", rowsperstrip=H, compression="lzw"),
    "tiff rgb planar": tiff(cyx(COLOR), COLOR, photometric="rgb", planarconfig="separate"),
    "tiff rgb planar tiles": tiff(
        cyx(COLOR), COLOR, photometric="rgb", planarconfig="separate", tile=(32, 32), compression="lzw"
    ),
    "tiff rgba": tiff(np.dstack([COLOR, ALPHA]), COLOR, photometric="rgb", extrasamples=["unassalpha"]),
    "tiff gray + alpha": tiff(np.dstack([GRAY, ALPHA]), GRAY, photometric="minisblack", extrasamples=["unassalpha"]),
    "tiff rgb of gray": tiff(np.dstack([GRAY] * 3), GRAY, photometric="rgb"),
    "tiff rgb of gray one strip": tiff(
        np.dstack([DEEP] * 3), DEEP, photometric="rgb", rowsperstrip=H, compression="lzw"
    ),
    "tiff rgb of gray tiles": tiff(np.dstack([GRAY] * 3), GRAY, photometric="rgb", tile=(32, 32), compression="lzw"),
    "tiff white is zero": tiff(GRAY, 255 - GRAY, photometric="miniswhite"),
    "tiff pages": tiff(np.stack([GRAY, 255 - GRAY]), GRAY, photometric="minisblack"),
    "tiff pages lzw": tiff(np.stack([GRAY, 255 - GRAY]), GRAY, photometric="minisblack", compression="lzw"),
    "tiff jpeg": jpeg_tiff,
    "tiff palette": palette_tiff,
    "png gray": png(lambda: Image.fromarray(GRAY), GRAY),
    "png uint16": png(lambda: Image.fromarray(DEEP), DEEP),
    "png uint16 rgba": deep_png,
    "png rgb": png(lambda: Image.fromarray(COLOR), COLOR),
    "png rgba": png(lambda: Image.fromarray(np.dstack([COLOR, ALPHA])), COLOR),
    "png rgba of gray": png(lambda: Image.fromarray(np.dstack([GRAY] * 3 + [ALPHA])), GRAY),
    "png gray + alpha": png(lambda: Image.fromarray(np.dstack([GRAY, ALPHA])), GRAY),
    "png palette": png(palette_image, PALETTE[GRAY]),
    "png palette transparent": png(lambda: palette_image(bytes(range(256))), PALETTE[GRAY]),
    "png 1 bit": png(lambda: Image.fromarray(GRAY > 100), (GRAY > 100) * np.uint8(255)),
    "jpeg gray": jpeg(SMOOTH),
    "jpeg rgb": jpeg(np.dstack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]])),
    "zarr": zarr_array(DEEP, chunks=(32, 40)),
    "zarr v2": zarr_array(DEEP, chunks=(32, 40), zarr_format=2),
    "zarr float": zarr_array(REAL, chunks=(32, 40)),
    "zarr sharded": zarr_array(GRAY, chunks=(16, 16), shards=(64, 64)),
    "zarr cyx": zarr_array(cyx(COLOR), cyx(COLOR), chunks=(3, 32, 32)),
    "zarr yxc": zarr_array(COLOR, cyx(COLOR), chunks=(32, 32, 3)),
    "zarr named axes": zarr_array(
        np.moveaxis(COLOR, 0, 1), cyx(COLOR), chunks=(32, 32, 3), dimension_names=["x", "y", "c"]
    ),
    "ome-zarr 0.5": ome_zarr("0.5", "yx", GRAY, GRAY[None]),
    "ome-zarr 0.4 tczyx": ome_zarr("0.4", "tczyx", GRAY[None, None, None], GRAY[None]),
    "ome-zarr 0.5 czyx": ome_zarr("0.5", "czyx", cyx(COLOR)[:, None], cyx(COLOR)),
}


@pytest.fixture(scope="module")
def layouts(tmp_path_factory):
    opened = {}
    for name, make in LAYOUTS.items():
        path, expected = make(tmp_path_factory.mktemp("layout"))
        opened[name] = (open_micrograph(path), expected)
    yield opened
    for micrograph, _ in opened.values():
        micrograph.close()


@pytest.mark.parametrize("name", LAYOUTS)
def test_whole_read_and_info(layouts, name):
    micrograph, expected = layouts[name]
    info = micrograph.info
    assert (info.channels, *info.shape) == expected.shape
    assert info.dtype == expected.dtype.name
    whole = micrograph.read(Box.of_shape(info.shape))
    assert whole.dtype == expected.dtype
    assert whole.dtype.isnative
    assert whole.flags.c_contiguous
    np.testing.assert_array_equal(whole, expected)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(LAYOUTS)), data=st.data())
def test_a_region_is_the_slice_of_the_whole(layouts, name, data):
    micrograph, expected = layouts[name]
    height, width = micrograph.info.shape
    y0, y1 = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    x0, x1 = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    region = micrograph.read(Box(y0, x0, y1, x1))
    np.testing.assert_array_equal(region, expected[:, y0:y1, x0:x1])
    region.fill(0)  # what a caller does to its array must not reach the next read
    np.testing.assert_array_equal(micrograph.read(Box(y0, x0, y1, x1)), expected[:, y0:y1, x0:x1])


def test_lazy_formats_say_so(layouts):
    lazy = {name for name, (micrograph, _) in layouts.items() if micrograph.info.lazy}
    held = {name for name in LAYOUTS if name.startswith(("png", "jpeg")) or "one" in name or name == "tiff pages lzw"}
    assert lazy == set(LAYOUTS) - held
    assert layouts["tiff lzw one strip"][0].info.decoded_bytes == DEEP.nbytes
    assert layouts["tiff rgb of gray one strip"][0].info.decoded_bytes == DEEP.nbytes
    assert layouts["tiff deflate tiles"][0].info.decoded_bytes == 16 * 64 * 2
    assert layouts["tiff plain"][0].info.decoded_bytes == 0


def test_the_suffix_does_not_matter(tmp_path):
    path = tmp_path / "really a png.tif"
    Image.fromarray(GRAY).save(path, format="png")
    with open_micrograph(path) as micrograph:
        assert micrograph.info.format == "png"
        assert micrograph.info.path == str(path)


def test_a_box_outside_is_the_callers_error(layouts):
    with pytest.raises(ValueError, match=r"leaves the micrograph of \(83, 131\)"):
        layouts["tiff plain"][0].read(Box(0, 0, H + 1, 4))


def test_opening_and_closing_leaves_no_handle(tmp_path):
    path, _ = LAYOUTS["tiff deflate tiles"](tmp_path)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        micrograph = open_micrograph(path)
        micrograph.close()
        micrograph.close()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- bad files -----------------------------------------------------------------------------------------------------


def overwrite(path: Path, **tags) -> Path:
    with tifffile.TiffFile(path, mode="r+b") as file:
        for name, value in tags.items():
            file.pages.first.tags[name].overwrite(value)
    return path


def write(path: Path, data=GRAY, **options) -> Path:
    tifffile.imwrite(path, data, **options)
    return path


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def cut(path: Path, keep: float) -> Path:
    return raw(path, path.read_bytes()[: int(path.stat().st_size * keep)])


def damage(path: Path, where: float, length: int = 40) -> Path:
    content = bytearray(path.read_bytes())
    start = int(len(content) * where)
    content[start : start + length] = b"\xaa" * length
    return raw(path, bytes(content))


def without_data(path: Path) -> Path:
    write(path, tile=(32, 32), compression="lzw")
    with tifffile.TiffFile(path) as file:
        counts = list(file.pages.first.databytecounts)
    return overwrite(path, TileByteCounts=[0, *counts[1:]])


def strip_bomb(path: Path) -> Path:
    write(path, compression="zlib", rowsperstrip=H)
    return overwrite(path, ImageWidth=60_000, ImageLength=60_000, RowsPerStrip=60_000)


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path


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
    "bmp": (lambda f: saved(f / "a.bmp", Image.fromarray(GRAY)), "this is a BMP"),
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
    "tiff int16": (lambda f: write(f / "a.tif", DEEP.astype(np.int16)), "int16; .* save it as 16-bit unsigned"),
    "tiff uint32": (lambda f: write(f / "a.tif", DEEP.astype(np.uint32)), "uint32; .* save it as 16-bit gray"),
    "tiff float64": (lambda f: write(f / "a.tif", REAL.astype(float)), "float64; .* save it as 32-bit float"),
    "tiff cmyk": (
        lambda f: write(f / "a.tif", np.dstack([COLOR, ALPHA]), photometric="separated"),
        "4 samples a pixel of kind SEPARATED",
    ),
    "tiff channels": (
        lambda f: write(f / "a.tif", np.dstack([COLOR, COLOR]), photometric="minisblack", planarconfig="contig"),
        "6 samples a pixel",
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
        "one chunk of .* takes 16.0 GiB; rechunk it",
    ),
    "zarr dtype": (lambda f: zarr_of(f, (8, 8), "c8"), "complex64, not numbers"),
    "zarr int64": (lambda f: zarr_of(f, (8, 8), "i8"), "int64; micrographs are"),
    "zarr stack": (lambda f: zarr_of(f, (5, 1, 8, 8)), "axis z has 5 entries|has 5 entries"),
    "zarr channels": (lambda f: zarr_of(f, (2, 8, 8)), "2 channels; micrographs have 1 or 3"),
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
    "zarr chunk damaged": lambda f: cut(LAYOUTS["zarr"](f)[0] / "c" / "0" / "0", 0.5).parents[2],
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


@settings(max_examples=120, deadline=None)
@given(
    name=st.sampled_from(
        ["tiff lzw strips", "tiff deflate tiles", "tiff rgb planar tiles", "png rgb", "jpeg rgb", "tiff jpeg"]
    ),
    edits=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=6),
    header=st.booleans(),
)
def test_flipped_bytes_give_pixels_or_an_input_error(layouts, tmp_path_factory, name, edits, header):
    content = bytearray(Path(layouts[name][0].info.path).read_bytes())
    span = min(len(content), 400) if header else len(content)
    for where, value in edits:
        content[int(where * span)] = value
    path = raw(tmp_path_factory.mktemp("flipped") / "a", bytes(content))
    try:
        with open_micrograph(path) as micrograph:
            height, width = micrograph.info.shape
            box = Box(0, 0, min(height, 64), min(width, 64))
            assert micrograph.read(box).shape == (micrograph.info.channels, *box.shape)
    except InputError as error:
        advice = error.advice
        assert advice


def test_nan_and_infinity_say_where(tmp_path):
    data = REAL.copy()
    data[70, 20], data[71, 3] = np.nan, np.inf
    path = write(tmp_path / "a.tif", data)
    with open_micrograph(path) as micrograph:
        assert micrograph.read(Box(0, 0, 70, W)).shape == (1, 70, W)
        with pytest.raises(InputError, match=r"at \(y, x\) = \(70, 20\) is nan"):
            micrograph.read(Box(60, 10, 80, 40))
        with pytest.raises(InputError, match=r"at \(y, x\) = \(71, 3\) is inf"):
            micrograph.read(Box(71, 0, 72, 5))


def test_nan_in_gray_rgb_is_no_colour(tmp_path):
    data = np.dstack([REAL] * 3)
    data[5, 6] = np.nan
    with open_micrograph(write(tmp_path / "a.tif", data, photometric="rgb")) as micrograph:
        assert micrograph.info.channels == 1
        with pytest.raises(InputError, match=r"\(5, 6\) is nan"):
            micrograph.read(Box(0, 0, 9, 9))


def test_an_rgb_that_only_looked_gray_says_where(tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_GRAY_CHECK_BYTES", 0)
    data = np.zeros((500, 600, 3), np.uint8)
    data[150, 200] = (255, 0, 0)  # between the windows that are looked at
    path = write(tmp_path / "a.tif", data, photometric="rgb", tile=(64, 64), compression="lzw")
    with open_micrograph(path) as micrograph:
        assert micrograph.info.channels == 1
        assert not micrograph.read(Box(200, 0, 500, 600)).any()
        with pytest.raises(InputError, match=r"coloured at \(y, x\) = \(150, 200\) in Box\(y0=100"):
            micrograph.read(Box(100, 100, 300, 300))


def test_a_compressed_strip_above_the_bound_is_refused(tmp_path, monkeypatch):
    path, _ = LAYOUTS["tiff lzw one strip"](tmp_path)
    monkeypatch.setattr(base, "MAX_DECODED_BYTES", DEEP.nbytes - 1)
    with pytest.raises(InputError, match=r"one strip can only be decoded whole.*tiled TIFF or OME-Zarr"):
        open_micrograph(path)


def test_errors_survive_pickling(tmp_path):
    with pytest.raises(InputError) as caught:
        open_micrograph(tmp_path / "no.tif")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- pixel size ----------------------------------------------------------------------------------------------------


def ome(x, unit=None, y=None):
    metadata = {"axes": "YX", "PhysicalSizeX": x, "PhysicalSizeY": x if y is None else y}
    if unit:
        metadata |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    return {"ome": True, "metadata": metadata}


def ascii_tag(code: int, text: str) -> dict:
    # FEI and Zeiss tags are bytes that tifffile parses itself.
    return {"extratags": [(code, 2, 0, text, True)], "metadata": None}


FEI = "[User]\r\nDate=1\r\n[Scan]\r\nPixelWidth=2.5e-009\r\nPixelHeight=5e-009\r\n"
ZEISS = "0\r\n0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 12.5 nm\r\nAP_PIXEL_SIZE\r\nPixel Size = 25.0 nm\r\n"

SIZES = {
    "ome": (ome(0.5, y=0.25), (0.25, 0.5), "OME PhysicalSizeX"),
    "ome unit": (ome(4, "nm"), (0.004, 0.004), "OME PhysicalSizeX"),
    "ome strange unit": (ome(4, "reference frame"), None, ""),
    "ome negative": (ome(-4), None, ""),
    "imagej": ({"imagej": True, "resolution": (2, 4), "metadata": {"unit": "um"}}, (0.25, 0.5), "ImageJ unit um"),
    "imagej micron": ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "micron"}}, (0.5, 0.5), "ImageJ unit micron"),
    "imagej escaped": (
        {"imagej": True, "resolution": (2, 2), "metadata": {"unit": "\\u00B5m"}}, (0.5, 0.5), "ImageJ unit \\u00B5m"),
    "imagej pixel": ({"imagej": True, "resolution": (2, 2), "metadata": {"unit": "pixel"}}, None, ""),
    "imagej inch": ({"imagej": True, "resolution": (300, 300), "metadata": {"unit": "inch"}}, None, ""),
    "fei": (ascii_tag(34682, FEI), (0.005, 0.0025), "FEI Scan.PixelWidth"),
    "zeiss": (ascii_tag(34118, ZEISS), (0.0125, 0.0125), "Zeiss ap_image_pixel_size"),
    "cm": ({"resolution": (20_000, 10_000), "resolutionunit": 3}, (1.0, 0.5), "TIFF XResolution per cm"),
    "inch": ({"resolution": (25_400, 25_400), "resolutionunit": 2}, (1.0, 1.0), "TIFF XResolution per inch"),
    "no unit": ({"resolution": (25_400, 25_400), "resolutionunit": 1}, None, ""),
    "nothing": ({}, None, ""),
    **{
        f"{dpi} dpi": ({"resolution": (dpi, dpi), "resolutionunit": 2}, None, "")
        for dpi in (72, 96, 146, 150, 300, 314, 600, 2400, 4800)
    },
    "118 per cm": ({"resolution": (118.11, 118.11), "resolutionunit": 3}, None, ""),
    "945 per cm": ({"resolution": (944.88, 944.88), "resolutionunit": 3}, None, ""),
    "zero": ({"resolution": ((0, 1), (0, 1)), "resolutionunit": 2}, None, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", SIZES)
def test_tiff_pixel_size(tmp_path, name):
    options, size, source = SIZES[name]
    path = tmp_path / ("a.ome.tif" if "ome" in options else "a.tif")
    with open_micrograph(write(path, **options)) as micrograph:
        found = micrograph.info.pixel_size_um
        assert found == (None if size is None else pytest.approx(size, rel=1e-6))
        assert micrograph.info.pixel_size_source == source


def test_an_xml_bomb_states_nothing(tmp_path):
    text = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "1">]><OME><Image><Pixels PhysicalSizeX="&a;"/></Image></OME>'
    with open_micrograph(write(tmp_path / "a.ome.tif", description=text, metadata=None)) as micrograph:
        assert micrograph.info.pixel_size_um is None


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_pixel_size(tmp_path, version):
    path, _ = ome_zarr(version, "yx", GRAY, GRAY[None])(tmp_path)
    with open_micrograph(path) as micrograph:
        assert micrograph.info.pixel_size_um == (0.5, 0.25)
        assert micrograph.info.pixel_size_source == "OME-Zarr scale"


def test_ome_zarr_without_unit_states_nothing(tmp_path):
    path, _ = ome_zarr("0.5", "yx", GRAY, GRAY[None], unit=None)(tmp_path)
    with open_micrograph(path) as micrograph:
        assert micrograph.info.pixel_size_um is None


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_dpi_of_png_and_jpeg_is_never_a_scale(tmp_path, suffix):
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(GRAY), dpi=(25_400, 25_400))
    with open_micrograph(path) as micrograph:
        assert micrograph.info.pixel_size_um is None
        assert micrograph.info.pixel_size_source == ""


# --- intensities ---------------------------------------------------------------------------------------------------


def test_limits_of_dtype_and_fixed(layouts):
    expected = {"tiff plain": (0, 255), "tiff uint16": (0, 65535), "tiff float32": (0, 1)}
    for name, limits in expected.items():
        assert intensity_limits(layouts[name][0], Scaling()) == limits
    assert intensity_limits(layouts["tiff plain"][0], Scaling(kind="fixed", low=3, high=7)) == (3.0, 7.0)


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(["tiff plain", "tiff rgb", "png uint16", "zarr float"]),
    bounds=st.tuples(st.floats(0, 49), st.floats(51, 100)),
)
def test_percentiles_of_a_small_micrograph_are_exact(layouts, name, bounds):
    micrograph, expected = layouts[name]
    limits = intensity_limits(micrograph, Scaling(kind="percentile", low=bounds[0], high=bounds[1]))
    assert limits == pytest.approx(tuple(np.percentile(expected, bounds)))


@pytest.mark.parametrize("shape", [(3000, 2500), (300, 20_000), (20_000, 300), (40, 120_000)])
def test_percentiles_of_a_large_micrograph_see_all_of_it(tmp_path, shape):
    data = np.broadcast_to(np.linspace(0, 60_000, max(shape)).astype(np.uint16), (min(shape), max(shape)))
    data = data if shape[0] < shape[1] else data.T
    with open_micrograph(write(tmp_path / "a.tif", data)) as micrograph:
        scaling = Scaling(kind="percentile", low=5, high=95)
        limits = intensity_limits(micrograph, scaling)
        assert limits == pytest.approx((3000, 57_000), abs=1200)
        assert limits == intensity_limits(micrograph, scaling)


def test_percentiles_of_one_intensity_do_not_divide_by_zero(tmp_path):
    with open_micrograph(write(tmp_path / "a.tif", np.full((9, 9), 7, np.uint8))) as micrograph:
        assert intensity_limits(micrograph, Scaling(kind="percentile", low=1, high=99)) == (7.0, 8.0)


# --- masks ---------------------------------------------------------------------------------------------------------

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


# --- listing and fingerprints --------------------------------------------------------------------------------------


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folders_are_searched_and_stores_are_one_entry(tmp_path):
    tree(
        tmp_path,
        "b/ä (1)#2.TIF",
        "a.png",
        ".hidden.png",
        ".git/c.png",
        "s.zarr/0/x.png",
        "s.zarr/zarr.json",
        "notes.txt",
    )
    found = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)]
    assert found == ["a.png", "b/ä (1)#2.TIF", "s.zarr"]
    assert list_files(tmp_path / "s.zarr") == [tmp_path / "s.zarr"]
    assert [path.name for path in list_files(tmp_path, suffixes=(".png",))] == ["a.png"]


def test_globs_and_names_that_look_like_globs(tmp_path):
    tree(tmp_path, "x/a[1].tif", "x/b.tif", "y/c.tif", "y/d.txt", "y/.e.tif", "y/s.zarr/f.tif")
    assert [path.name for path in list_files(f"{tmp_path}/*/*.tif")] == ["a[1].tif", "b.tif", "c.tif"]
    assert [path.name for path in list_files(f"{tmp_path}/**")] == ["a[1].tif", "b.tif", "c.tif", "s.zarr"]
    assert list_files(tmp_path / "x" / "a[1].tif") == [tmp_path / "x" / "a[1].tif"]
    assert listing_root(f"{tmp_path}/*/*.tif") == tmp_path
    assert listing_root(tmp_path / "x") == tmp_path / "x"
    assert listing_root(tmp_path / "x" / "a[1].tif") == tmp_path / "x"
    assert listing_root(tmp_path / "y" / "s.zarr") == tmp_path / "y"


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    tree(tmp_path, "x/a.tif")
    monkeypatch.chdir(tmp_path)
    assert list_files("x") == list_files("x/*.tif") == list_files("x/a.tif") == [tmp_path / "x" / "a.tif"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no", "no such file or folder"),
        ("x", r"no images found; supported are \.tif, \.tiff"),
        ("x/*.tif", r"no images found; supported"),
        ("s3://bucket/x", "remote URLs are not supported yet"),
    ],
)
def test_nothing_to_list_is_an_error(tmp_path, monkeypatch, where, message):
    monkeypatch.chdir(tree(tmp_path, "x/notes.txt"))
    with pytest.raises(InputError, match=message):
        list_files(where)


@pytest.mark.parametrize("kind", ["stat", "content"])
def test_fingerprints_notice_changes(tmp_path, kind):
    path, _ = LAYOUTS["zarr"](tmp_path)
    chunk = path / "c" / "0" / "0"
    before = fingerprint(path, kind), fingerprint(chunk, kind)
    assert before == (fingerprint(path, kind), fingerprint(chunk, kind))
    damage(chunk, 0.5)
    after = fingerprint(path, kind), fingerprint(chunk, kind)
    assert before[0] != after[0]
    assert before[1] != after[1]
    pattern = r"stat:\d+:\w+" if kind == "stat" else r"sha256:[0-9a-f]{64}"
    assert all(re.fullmatch(pattern, text) for text in before)


def test_a_content_fingerprint_does_not_depend_on_time_or_place(tmp_path):
    one, two = raw(tmp_path / "a.bin", b"same"), raw(tmp_path / "b.bin", b"same")
    assert fingerprint(one, "content") == fingerprint(two, "content")
    with pytest.raises(InputError, match="cannot be read"):
        fingerprint(tmp_path / "no", "stat")


# --- real micrographs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "shape", "lazy"),
    [
        ("mudrock/images/11_1_a.png", (343, 400), False),
        ("mudrock/mosaics/11_images.png", (1715, 2000), False),
        ("coating/train/010417#4_S2480009.tif", (1024, 1024), True),
        ("coating/test/040617#2_S127(2)0015.tif", (1024, 1024), True),
        ("superalloy/train/spot3_0d_3.tif", (512, 512), True),
        ("fracture/s4_1.jpg", (640, 640), False),
    ],
)
def test_real_micrographs(real_data, name, shape, lazy):
    with open_micrograph(real_data / name) as micrograph:
        info = micrograph.info
        assert (info.shape, info.channels, info.dtype, info.lazy) == (shape, 1, "uint8", lazy)
        assert info.pixel_size_um is None
        oracle = np.asarray(Image.open(real_data / name))
        oracle = oracle if oracle.ndim == 2 else oracle[..., 0]
        np.testing.assert_array_equal(micrograph.read(Box(30, 40, 290, 333))[0], oracle[30:290, 40:333])


def test_real_colour(real_data):
    with open_micrograph(real_data / "ccd/v0/train/1.png") as micrograph:
        assert micrograph.info.channels == 3


def test_real_masks(real_data):
    assert set(np.unique(read_mask(real_data / "mudrock/labels/11_1_a.png"))) <= {0, 1, 2}
    assert set(np.unique(read_mask(real_data / "coating/train_annot/010417#4_S2480009.tif"))) <= {0, 1, 2}
    with pytest.raises(InputError, match="the mask is a colour image"):
        read_mask(real_data / "superalloy/train_annot/spot3_0d_3_mask.tif")
