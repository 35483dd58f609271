"""Pages and channels: a choice gives exactly that image, no choice is only made where nothing is ambiguous."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from astropy.io import fits
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.settings import SourceSettings
from microseg_ray.sources import open_micrograph
from tests.format_files import write_emd_velox
from tests.source_files import COLOR, DEEP, GRAY, RNG, H, W, ome_zarr

PLANES = RNG.integers(0, 60_000, (2, 3, 4, H, W), dtype=np.uint16)  # t, z, c, y, x
FLAT = PLANES.reshape(-1, H, W)


def ome_tiff(folder):
    tifffile.imwrite(
        folder / "a.ome.tif", PLANES, ome=True, metadata={"axes": "TZCYX", "Channel": {"Name": list("abcd")}}
    )
    return folder / "a.ome.tif"


def imagej(folder):
    tifffile.imwrite(folder / "a.tif", PLANES, imagej=True, metadata={"axes": "TZCYX"}, compression="zlib")
    return folder / "a.tif"


def imagej_plain(folder):
    tifffile.imwrite(folder / "a.tif", PLANES, imagej=True, metadata={"axes": "TZCYX"})
    return folder / "a.tif"


def imagej_one_directory(folder):
    tifffile.imwrite(folder / "a.tif", PLANES, imagej=True, truncate=True, metadata={"axes": "TZCYX"})
    return folder / "a.tif"


def zarr_czyx(folder):
    return ome_zarr("0.5", "tzcyx", PLANES, None, labels=list("abcd"))(folder)[0]


@pytest.mark.parametrize("page", range(6))
@pytest.mark.parametrize("write", [ome_tiff, imagej, imagej_plain, imagej_one_directory, zarr_czyx])
def test_every_page_and_channel_of_a_stack(tmp_path, write, page):
    path = write(tmp_path)
    time, depth = divmod(page, 3)
    for channel in range(4):
        with open_micrograph(path, SourceSettings(page=page, channel=channel)) as micrograph:
            info = micrograph.info
            assert (info.channels, info.parts.page, info.parts.pages, info.parts.channel) == (1, page, 6, channel)
            assert len(info.parts.channel_names) == 4
            np.testing.assert_array_equal(
                micrograph.read(Box(3, 5, 70, 90))[0], PLANES[time, depth, channel, 3:70, 5:90]
            )
    with pytest.raises(InputError, match=r"4 channels \(.*neither gray nor RGB; set source.channel to one of 0 to 3"):
        open_micrograph(path, SourceSettings(page=page))


@pytest.mark.parametrize("write", [ome_tiff, imagej_one_directory, zarr_czyx])
def test_a_page_or_channel_that_is_not_there_is_named(tmp_path, write):
    path = write(tmp_path)
    with pytest.raises(InputError, match=r"there is no page 6, the file has 6 \(0 to 5\); set source.page"):
        open_micrograph(path, SourceSettings(page=6, channel=0))
    with pytest.raises(InputError, match="there is no channel 4, the image has 4"):
        open_micrograph(path, SourceSettings(channel=4))
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        SourceSettings(channel=-1)


def test_named_channels_are_named_in_the_message(tmp_path):
    for path in (ome_tiff(tmp_path), zarr_czyx(tmp_path)):
        with pytest.raises(InputError, match=r"\(0: a, 1: b, 2: c, 3: d\)"):
            open_micrograph(path)


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"tile": (32, 32), "compression": "lzw"}])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_samples_of_a_multispectral_tiff(tmp_path, planar, options):
    stored = PLANES[0, 0] if planar == "separate" else np.moveaxis(PLANES[0, 0], 0, -1)
    tifffile.imwrite(
        tmp_path / "a.tif", stored, photometric="minisblack", planarconfig=planar, metadata=None, **options
    )
    for channel in range(4):
        with open_micrograph(tmp_path / "a.tif", SourceSettings(channel=channel)) as micrograph:
            np.testing.assert_array_equal(micrograph.read(Box(7, 8, 80, 99))[0], PLANES[0, 0, channel, 7:80, 8:99])


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "planar.tif"])
@pytest.mark.parametrize("channel", range(3))
def test_one_channel_of_rgb(tmp_path, name, channel):
    path = tmp_path / name
    if name == "planar.tif":
        tifffile.imwrite(path, np.moveaxis(COLOR, -1, 0), photometric="rgb", planarconfig="separate")
    elif name == "a.tif":
        tifffile.imwrite(path, COLOR, photometric="rgb", compression="zlib", tile=(32, 32))
    else:
        Image.fromarray(COLOR).save(path)
    with open_micrograph(path, SourceSettings(channel=channel)) as micrograph:
        assert (micrograph.info.channels, micrograph.info.parts.channel) == (1, channel)
        assert micrograph.info.parts.channel_names == ("red", "green", "blue")
        np.testing.assert_array_equal(micrograph.read(Box(0, 9, 50, 60))[0], COLOR[:50, 9:60, channel])


def test_gray_has_one_channel_and_images_one_page(tmp_path):
    Image.fromarray(GRAY).save(tmp_path / "a.png")
    with open_micrograph(tmp_path / "a.png", SourceSettings(channel=0)) as micrograph:
        np.testing.assert_array_equal(micrograph.read(Box.of_shape(GRAY.shape))[0], GRAY)
    with pytest.raises(InputError, match=r"no channel 1, the image has 1 \(0: gray\)"):
        open_micrograph(tmp_path / "a.png", SourceSettings(channel=1))
    with pytest.raises(InputError, match=r"no page 1, the file has one \(0\)"):
        open_micrograph(tmp_path / "a.png", SourceSettings(page=1))


@pytest.mark.parametrize("ome", [False, True])
def test_pyramid_levels_and_thumbnails_are_no_pages(tmp_path, ome):
    path = tmp_path / ("a.ome.tif" if ome else "a.tif")
    with tifffile.TiffWriter(path) as file:
        for image in (DEEP, 65_535 - DEEP):
            file.write(image, subifds=2, tile=(32, 32), compression="zlib", metadata={"axes": "YX"} if ome else None)
            file.write(image[::2, ::2], subfiletype=1, tile=(32, 32))
            file.write(image[::4, ::4], subfiletype=1, tile=(32, 32))
        if not ome:
            file.write(DEEP[::8, ::8], subfiletype=1, metadata=None)
    for page, expected in enumerate((DEEP, 65_535 - DEEP)):
        with open_micrograph(path, SourceSettings(page=page)) as micrograph:
            assert (micrograph.info.shape, micrograph.info.parts.pages) == ((H, W), 2)
            np.testing.assert_array_equal(micrograph.read(Box(1, 2, 83, 100))[0], expected[1:83, 2:100])


def test_images_of_an_ome_file_have_sizes_of_their_own(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True) as file:
        for size in (0.5, 0.25):
            file.write(DEEP, metadata={"axes": "YX", "PhysicalSizeX": size, "PhysicalSizeY": size})
    for page, size in enumerate((0.5, 0.25)):
        with open_micrograph(tmp_path / "a.ome.tif", SourceSettings(page=page)) as micrograph:
            assert micrograph.info.pixel_size_um == (size, size)


def test_pages_of_microscope_formats(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(FLAT[:3])
    write_emd_velox(tmp_path / "a.emd", *FLAT[:3])
    units = [fits.PrimaryHDU(), *(fits.ImageHDU(plane) for plane in FLAT[:3])]
    fits.HDUList(units).writeto(tmp_path / "a.fits")
    for name in ("a.mrc", "a.emd", "a.fits"):
        for page in range(3):
            with open_micrograph(tmp_path / name, SourceSettings(page=page)) as micrograph:
                assert micrograph.info.parts.pages == 3
                np.testing.assert_array_equal(micrograph.read(Box(2, 3, 60, 61))[0], FLAT[page, 2:60, 3:61])
        with pytest.raises(InputError, match="no page 3"):
            open_micrograph(tmp_path / name, SourceSettings(page=3))


def test_planes_of_a_fits_cube_are_channels(tmp_path):
    fits.PrimaryHDU(FLAT[:4]).writeto(tmp_path / "a.fits")
    with open_micrograph(tmp_path / "a.fits", SourceSettings(channel=2)) as micrograph:
        np.testing.assert_array_equal(micrograph.read(Box(2, 3, 60, 61))[0], FLAT[2, 2:60, 3:61])
    with pytest.raises(InputError, match="4 channels"):
        open_micrograph(tmp_path / "a.fits")


def test_only_a_length_is_a_pixel_size_in_fits(tmp_path):
    for number, (unit, expected) in enumerate((("um", 0.5), ("deg", None), (None, None))):
        image = fits.PrimaryHDU(DEEP)
        for axis in (1, 2):
            image.header[f"CDELT{axis}"] = -0.5
            if unit:
                image.header[f"CUNIT{axis}"] = unit
        image.writeto(tmp_path / f"{number}.fits")
        with open_micrograph(tmp_path / f"{number}.fits") as micrograph:
            assert micrograph.info.pixel_size_um == (None if expected is None else (expected, expected))


def test_an_mrc_without_a_cell_states_no_size(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(DEEP)
    with open_micrograph(tmp_path / "a.mrc") as micrograph:
        assert micrograph.info.pixel_size_um is None


def test_fits_scale_and_zero_are_applied(tmp_path):
    image = fits.PrimaryHDU((DEEP // 4).astype(np.int16))
    image.header["BSCALE"], image.header["BZERO"] = 0.5, 10.0
    image.writeto(tmp_path / "a.fits")
    with open_micrograph(tmp_path / "a.fits") as micrograph:
        np.testing.assert_array_equal(micrograph.read(Box(0, 0, H, W))[0], (DEEP // 4).astype(np.float32) * 0.5 + 10)


def test_unnamed_axes_of_a_zarr_array(tmp_path):
    zarr.create_array(tmp_path / "a.zarr", data=PLANES, chunks=(1, 1, 1, 32, 32), dimension_names=list("tzcyx"))
    with open_micrograph(tmp_path / "a.zarr", SourceSettings(page=4, channel=1)) as micrograph:
        np.testing.assert_array_equal(micrograph.read(Box(0, 0, H, W))[0], PLANES[1, 1, 1])
