"""What files state about the size of their pixels."""

from __future__ import annotations

import pytest
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.sources import open_micrograph
from tests.source_files import GRAY, ome_zarr, saved, write

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


def test_ome_xml_with_entities_is_refused(tmp_path):
    text = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "1">]><OME><Image><Pixels PhysicalSizeX="&a;"/></Image></OME>'
    path = write(tmp_path / "a.ome.tif", description=text, metadata=None)
    with pytest.raises(InputError, match="OME-XML declares a document type or entities"), open_micrograph(path):
        pass


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
