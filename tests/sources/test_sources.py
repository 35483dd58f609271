"""Sources: reading a region equals cutting it out of the whole; nothing is guessed."""

from __future__ import annotations

import gc
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.settings import Scaling, SourceSettings
from microseg_ray.sources import base, intensity_limits, open_micrograph, read_mask
from tests.format_files import (
    write_dm,
    write_emd_ncem,
    write_emd_velox,
    write_fits,
    write_mrc,
    write_ser,
)
from tests.source_files import (
    ALPHA,
    COLOR,
    DEEP,
    GRAY,
    PALETTE,
    REAL,
    SMOOTH,
    H,
    W,
    cyx,
    deep_png,
    jpeg,
    jpeg_tiff,
    ome_zarr,
    palette_image,
    palette_tiff,
    png,
    raw,
    tiff,
    write,
    zarr_array,
)


def at(name, writer, pixels, expected=None, **options):
    def make(folder: Path):
        return writer(folder / name, pixels, **options), cyx(pixels if expected is None else expected)

    return make


def save_image(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


LAYOUTS = {
    "tiff plain": tiff(GRAY),
    "tiff uint16": tiff(DEEP),
    "tiff float32": tiff(REAL),
    "tiff int16": tiff(DEEP.astype(np.int16), tile=(32, 48)),
    "tiff uint32": tiff(DEEP.astype(np.uint32) * 60_000, compression="zlib", rowsperstrip=9),
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
    "bmp gray": at("a.bmp", save_image, GRAY),
    "bmp rgb": at("a.bmp", save_image, COLOR),
    "dm3": at("a.dm3", write_dm, DEEP, version=3),
    "dm4 float": at("a.dm4", write_dm, REAL, version=4),
    "emd velox": at("a.emd", write_emd_velox, DEEP),
    "emd ncem": at("a.emd", write_emd_ncem, GRAY),
    "ser": at("a.ser", write_ser, DEEP),
    "mrc": at("a.mrc", write_mrc, DEEP),
    "mrc big-endian": at("a.mrc", write_mrc, DEEP.astype(">u2"), DEEP),
    "fits": at("a.fits", write_fits, DEEP),
    "fits uint32": at("a.fits", write_fits, DEEP.astype(np.uint32) * 60_000),
    "fits compressed": at("a.fits", write_fits, DEEP.astype(np.int16), compressed=True),
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
    held = {
        name
        for name in LAYOUTS
        if name.startswith(("png", "jpeg", "bmp", "ser")) or "one" in name or name == "tiff pages lzw"
    }
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


@pytest.mark.parametrize(
    "name", ["tiff deflate tiles", "dm3", "emd velox", "emd ncem", "mrc", "fits", "fits compressed"]
)
def test_opening_and_closing_leaves_no_handle(tmp_path, name):
    path, _ = LAYOUTS[name](tmp_path)
    with open_micrograph(path) as micrograph:  # libraries keep what they load
        micrograph.read(Box(0, 0, 9, 9))
    gc.collect()
    gc.disable()  # a collection would close what was forgotten
    try:
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            micrograph = open_micrograph(path)
            micrograph.read(Box(0, 0, 9, 9))
            micrograph.close()
            micrograph.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    finally:
        gc.enable()


@pytest.mark.parametrize("name", ["emd velox", "emd ncem", "dm3"])
def test_closing_one_leaves_another_of_the_same_file_open(tmp_path, name):
    path, _ = LAYOUTS[name](tmp_path)
    first, second = open_micrograph(path), open_micrograph(path)
    pixels = second.read(Box(0, 0, 9, 9))
    first.close()
    assert np.array_equal(second.read(Box(0, 0, 9, 9)), pixels)
    second.close()


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


def test_a_compressed_strip_above_the_bound_is_refused(tmp_path):
    path, _ = LAYOUTS["tiff lzw one strip"](tmp_path)
    source = SourceSettings(max_decoded_gib=(DEEP.nbytes - 1) / 2**30)
    with pytest.raises(InputError, match=r"one strip can only be decoded whole.*tiled TIFF or OME-Zarr"):
        open_micrograph(path, source)


def test_errors_survive_pickling(tmp_path):
    with pytest.raises(InputError) as caught:
        open_micrograph(tmp_path / "no.tif")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- intensities ---------------------------------------------------------------------------------------------------


def test_limits_of_dtype_and_fixed(layouts):
    expected = {"tiff plain": (0, 255), "tiff uint16": (0, 65535), "tiff float32": (0, 1)}
    expected |= {"tiff int16": (-32768, 32767), "tiff uint32": (0, 2**32 - 1)}
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
