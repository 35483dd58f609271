"""Sizes and info bars that tags state for another grid than the file's: corrected, kept, or not used with a note."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from microseg_ray.settings import SourceSettings
from microseg_ray.sources import open_micrograph

UM = 0.5
FEI = (
    "[User]\r\nDate=1\r\n[Scan]\r\nPixelWidth=5e-07\r\nPixelHeight=5e-07\r\n"
    "[Image]\r\nResolutionX=200\r\nResolutionY=150\r\n[PrivateFei]\r\nDatabarHeight=12\r\n"
)
ZEISS = (
    "0\r\n0\r\nDP_IMAGE_STORE\r\nStore resolution = 200 * 150\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 500 nm\r\n"
    "AP_WIDTH\r\nWidth = 100 µm\r\nAP_HEIGHT\r\nHeight = 75 µm\r\n"
)
SCREEN = (
    "0\r\n0\r\nAP_PIXEL_SIZE\r\nPixel Size = 5 nm\r\nAP_WIDTH\r\nWidth = 5.12 µm\r\nAP_HEIGHT\r\nHeight = 3.84 µm\r\n"
)
OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
    '<Pixels ID="Pixels:0" DimensionOrder="XYCZT" Type="uint8" SizeX="200" SizeY="150" SizeC="1" SizeZ="1" SizeT="1" '
    'PhysicalSizeX="0.5" PhysicalSizeY="0.5"><Channel ID="Channel:0:0" SamplesPerPixel="1"/><TiffData/></Pixels>'
    "</Image></OME>"
)
HITACHI = "[SemImageFile]\nPixelSize=500\nDataSize=200x150\n"
JEOL = "$CM_FULL_SIZE 200 150\n$$SM_MICRON_BAR 20\n$$SM_MICRON_MARKER 10um\n"


def stated(folder, kind, shape):
    path = folder / "a.tif"
    pixels = np.zeros(shape, np.uint8)
    match kind:
        case "fei" | "zeiss" | "screen":
            code, text = {"fei": (34682, FEI), "zeiss": (34118, ZEISS), "screen": (34118, SCREEN)}[kind]
            value = text.encode("cp1252")
            tifffile.imwrite(path, pixels, extratags=[(code, "B", len(value), value, True)], metadata=None)
        case "ome":
            tifffile.imwrite(path, pixels, description=OME, metadata=None)
        case _:
            tifffile.imwrite(path, pixels)
            path.with_suffix(".txt").write_text({"hitachi": HITACHI, "jeol": JEOL}[kind])
    with open_micrograph(path, SourceSettings()) as micrograph:
        return micrograph.info


@pytest.mark.parametrize("kind", ["fei", "zeiss", "ome", "hitachi", "jeol"])
@pytest.mark.parametrize(
    ("shape", "factor"),
    [
        ((150, 200), 1),  # as it was written
        ((75, 100), 2),  # halved
        ((300, 400), 0.5),  # doubled
        ((110, 147), 200 / 147),  # resized to another width
        ((120, 200), 1),  # rows cut off
        ((150, 170), 1),  # columns cut off
        ((100, 100), None),  # cropped, or cropped and resized
        ((150, 400), None),  # stretched
    ],
)
def test_a_stated_size_is_for_the_stated_grid(tmp_path, kind, shape, factor):
    info = stated(tmp_path, kind, shape)
    assert info.pixel_size_um == (None if factor is None else pytest.approx((UM * factor,) * 2, rel=1e-6))
    (note,) = info.pixel_size_notes or ("",)
    said = {None: "not used", 1: "cropped" if shape != (150, 200) else ""}.get(factor, "resampled")
    assert said in note
    assert bool(said) == bool(note)


@pytest.mark.parametrize(
    ("shape", "rows", "factor"),
    [
        ((162, 200), 12, 1),
        ((150, 200), 0, 1),
        ((81, 100), 6, 2),
        ((75, 100), 0, 2),
        ((324, 400), 24, 0.5),
        ((162, 180), 12, 1),
    ],
)
def test_a_stated_bar_is_for_the_stated_grid(tmp_path, shape, rows, factor):
    info = stated(tmp_path, "fei", shape)
    assert (info.info_bar_rows, info.info_bar_source) == (rows, "FEI Image.ResolutionY")
    assert info.pixel_size_um == pytest.approx((UM * factor,) * 2)


@pytest.mark.parametrize("shape", [(140, 200), (120, 120)])
def test_a_bar_of_a_file_with_fewer_rows_than_were_scanned_is_not_stated(tmp_path, shape):
    info = stated(tmp_path, "fei", shape)
    assert (info.info_bar_rows, info.info_bar_source) == (0, "")


@pytest.mark.parametrize(("shape", "size"), [((768, 1024), 0.005), ((384, 512), 0.01), ((1536, 2048), 0.0025)])
def test_the_pixel_of_zeiss_screens_counts_for_1024_columns(tmp_path, shape, size):
    info = stated(tmp_path, "screen", shape)
    assert info.pixel_size_um == pytest.approx((size, size))
    assert (info.pixel_size_source, info.pixel_size_notes) == ("Zeiss ap_width / columns", ())


def test_rows_that_were_cut_off_a_zeiss_leave_its_size(tmp_path):
    info = stated(tmp_path, "screen", (691, 1024))
    assert info.pixel_size_um == pytest.approx((0.005, 0.005))
    assert info.pixel_size_source == "Zeiss ap_pixel_size"


def test_half_of_a_square_image_may_be_a_part_of_it(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((100, 100), np.uint8))
    path.with_suffix(".txt").write_text("[SemImageFile]\nPixelSize=500\nDataSize=200x200\n")
    with open_micrograph(path) as micrograph:
        assert micrograph.info.pixel_size_um is None
        assert "cannot be told apart; give pixel_size_um" in micrograph.info.pixel_size_notes[0]


@pytest.mark.parametrize(
    "options",
    [
        {"resolution": ((10_000_000, 1000), (10_000_000, 1000)), "resolutionunit": 3},
        {"resolution": (10_000, 10_000), "resolutionunit": 3},
        {"imagej": True, "resolution": (1, 1), "metadata": {"unit": "um"}},
        {"resolution": (1, 1), "resolutionunit": 3},
        {"resolution": (72, 72), "resolutionunit": 2},
    ],
)
def test_the_resolution_that_a_writer_puts_where_none_is_known_is_no_size(tmp_path, options):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, np.zeros((9, 9), np.uint8), **options)
    with open_micrograph(path) as micrograph:
        assert micrograph.info.pixel_size_um is None
