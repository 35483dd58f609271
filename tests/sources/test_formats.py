"""docs/formats.md: every row of its table is a file that is written, opened and compared pixel by pixel.

`MICROSEG_WRITE_FORMATS=1 python -m pytest tests/sources/test_formats.py` writes the table anew.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from microseg_ray.geometry import Box
from microseg_ray.sources import open_micrograph
from tests.format_files import (
    UM,
    write_dm,
    write_emd_ncem,
    write_emd_velox,
    write_fits,
    write_mrc,
    write_ome_zarr,
    write_ser,
)
from tests.source_files import ome_zarr

if TYPE_CHECKING:
    from collections.abc import Callable

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
BEGIN, END = "<!-- table: tests/sources/test_formats.py -->", "<!-- end of table -->"
ALL = ("uint8", "int16", "uint16", "uint32", "float32")
METRES = f"{UM * 1e-6:g}"


@dataclass(frozen=True)
class Row:
    """A format: how it is known, which library reads it, what a file is written with, and how."""

    known_by: str
    library: str
    written_by: str
    dtypes: tuple[str, ...]
    write: Callable[[Path, np.ndarray], Path]


def tiff(name="a.tif", **options):
    def write(folder, pixels):
        tifffile.imwrite(folder / name, pixels, **options)
        return folder / name

    return write


def tagged(code, text):
    return tiff(extratags=[(code, 2, 0, text, True)], metadata=None)


def beside(suffix, text):
    def write(folder, pixels):
        path = tiff()(folder, pixels)
        (folder / f"a{suffix}").write_text(text)
        return path

    return write


def pyramid(folder, pixels):
    path = folder / "a.ome.tif"
    with tifffile.TiffWriter(path) as file:
        metadata = {"axes": "YX", "PhysicalSizeX": UM, "PhysicalSizeY": UM}
        file.write(pixels, tile=(32, 32), subifds=1, metadata=metadata)
        file.write(pixels[::2, ::2], tile=(32, 32), subfiletype=1)
    return path


def pillow(suffix):
    def write(folder, pixels):
        Image.fromarray(pixels).save(folder / f"a{suffix}", quality=95)
        return folder / f"a{suffix}"

    return write


def jpeg2000(folder, pixels):
    (folder / "a.jp2").write_bytes(imagecodecs.jpeg2k_encode(pixels, reversible=True, level=0))
    return folder / "a.jp2"


def webp(folder, pixels):
    Image.fromarray(np.dstack([pixels] * 3)).save(folder / "a.webp", lossless=True)
    return folder / "a.webp"


def at(name, writer, **options):
    return lambda folder, pixels: writer(folder / name, pixels, **options)


def plain_zarr(folder, pixels):
    zarr.create_array(folder / "a.zarr", data=pixels, chunks=(32, 32))
    return folder / "a.zarr"


def ome_zarr_04(folder, pixels):
    path, _ = ome_zarr("0.4", "tczyx", pixels[None, None, None], pixels[None], size_nm=(UM * 1000,) * 2)(folder)
    return path


TIFF = "`II*\\0`, `MM\\0*`"
FEI = f"[User]\r\nDate=1\r\n[Scan]\r\nPixelWidth={METRES}\r\nPixelHeight={METRES}\r\n"
ZEISS = f"0\r\n0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {UM * 1000} nm\r\n"
TESCAN = f"[MAIN]\nPixelSizeX={METRES}\nPixelSizeY={METRES}\n"
GATAN = [
    (65003, 2, 0, "um", True), (65004, 2, 0, "um", True), (65009, 12, 1, UM, True), (65010, 12, 1, UM, True)
]  # fmt: skip
SEEN = {
    "TIFF, plain", "OME-TIFF", "FEI, Thermo Fisher TIFF", "Zeiss TIFF", "Gatan TIFF", "PNG", "JPEG", "JPEG 2000", "DM3",
    "EMD (NCEM)", "EMD (Velox)", "SER", "MRC",
}  # fmt: skip
"""Formats of which a file that the instrument or program itself wrote was read (tests/real_files)."""
OME = {"axes": "YX", "PhysicalSizeX": UM, "PhysicalSizeY": UM}
ROWS = {
    "TIFF, plain": Row(TIFF, "tifffile", "tifffile", ALL, tiff()),
    "TIFF, tiled, deflate": Row(TIFF, "tifffile", "tifffile", ALL, tiff(tile=(32, 32), compression="zlib")),
    "TIFF, one compressed strip": Row(TIFF, "tifffile", "tifffile", ALL, tiff(compression="lzw", rowsperstrip=10**6)),
    "TIFF, px per cm": Row(TIFF, "tifffile", "tifffile", ALL, tiff(resolution=(1e4 / UM,) * 2, resolutionunit=3)),
    "BigTIFF": Row("`II+\\0`, `MM\\0+`", "tifffile", "tifffile", ALL, tiff(bigtiff=True, tile=(32, 32))),
    "OME-TIFF": Row(TIFF + ", OME-XML", "tifffile", "tifffile", ALL, tiff("a.ome.tif", ome=True, metadata=OME)),
    "OME-TIFF, pyramid": Row(TIFF + ", OME-XML", "tifffile", "tifffile", ALL, pyramid),
    "ImageJ TIFF": Row(
        TIFF + ", ImageJ's description", "tifffile", "tifffile", ("uint8", "uint16", "float32"),
        tiff(imagej=True, resolution=(1 / UM,) * 2, metadata={"unit": "um"}),
    ),
    "FEI, Thermo Fisher TIFF": Row(TIFF + ", tag 34682", "tifffile", "tifffile", ("uint8", "uint16"), tagged(34682, FEI)),
    "Zeiss TIFF": Row(TIFF + ", tag 34118", "tifffile", "tifffile", ("uint8", "uint16"), tagged(34118, ZEISS)),
    "TESCAN TIFF": Row(TIFF + ", tag 50431", "tifffile", "tifffile", ("uint8", "uint16"), tagged(50431, TESCAN)),
    "TESCAN TIFF with `.hdr`": Row(TIFF, "tifffile", "tifffile", ("uint8", "uint16"), beside("-tif.hdr", TESCAN)),
    "JEOL TIFF with `.txt`": Row(
        TIFF, "tifffile", "tifffile", ("uint8", "uint16"),
        beside(".txt", f"$$SM_MICRON_MARKER {UM * 100}um\r\n$$SM_MICRON_BAR 100\r\n"),
    ),
    "Hitachi TIFF with `.txt`": Row(
        TIFF, "tifffile", "tifffile", ("uint8", "uint16"), beside(".txt", f"[SemImageFile]\r\nPixelSize={UM * 1000}\r\n")
    ),
    "Gatan TIFF": Row(TIFF + ", tag 65009", "tifffile", "tifffile", ("uint8", "uint16"), tiff(extratags=GATAN, metadata=None)),
    "PNG": Row("`\\x89PNG`", "Pillow", "Pillow", ("uint8", "uint16"), pillow(".png")),
    "JPEG": Row("`\\xff\\xd8\\xff`", "Pillow", "Pillow", ("uint8",), pillow(".jpg")),
    "JPEG 2000": Row("`jP  `, `\\xff\\x4f\\xff\\x51`", "imagecodecs", "imagecodecs", ("uint8", "uint16"), jpeg2000),
    "WebP": Row("`RIFF`, `WEBP`", "Pillow", "Pillow", ("uint8",), webp),
    "BMP": Row("`BM`", "Pillow", "Pillow", ("uint8",), pillow(".bmp")),
    "OME-Zarr 0.5": Row("folder, `zarr.json`", "zarr", "yaozarrs, zarr", ALL, at("a.zarr", write_ome_zarr)),
    "OME-Zarr 0.4": Row("folder, `.zgroup`", "zarr", "zarr", ALL, ome_zarr_04),
    "zarr array": Row("folder, `zarr.json`, `.zarray`", "zarr", "zarr", ALL, plain_zarr),
    "DM3": Row("`\\0\\0\\0\\3`", "rosettasciio", "nionswift-io", ALL[1:], at("a.dm3", write_dm, version=3)),
    "DM4": Row("`\\0\\0\\0\\4`", "rosettasciio", "nionswift-io", ALL[1:], at("a.dm4", write_dm, version=4)),
    "EMD (NCEM)": Row("`\\x89HDF`", "rosettasciio", "rosettasciio", ALL, at("a.emd", write_emd_ncem)),
    "EMD (Velox)": Row("`\\x89HDF`", "rosettasciio", "h5py, as Velox does", ALL, at("a.emd", write_emd_velox)),
    "SER": Row("`II\\x97\\1`", "rosettasciio", "struct, as TIA does", ALL, at("a.ser", write_ser)),
    "MRC": Row("`MAP ` at byte 208, or numbers", "mrcfile", "mrcfile", ("int16", "uint16", "float32"), at("a.mrc", write_mrc)),
    "FITS": Row("`SIMPLE  =`", "astropy", "astropy", ALL, at("a.fits", write_fits)),
    "FITS, compressed": Row("`SIMPLE  =`", "astropy", "astropy", ALL[:3], at("a.fits", write_fits, compressed=True)),
}  # fmt: skip


def image(dtype: str) -> np.ndarray:
    """A smooth ramp with a few marks, over much of the type's range: what JPEG keeps and flipped rows do not."""
    ramp = np.add.outer(np.arange(83) * 2, np.arange(131)) / 300
    values = ramp if dtype == "float32" else ramp * min(np.iinfo(dtype).max, 2**31)
    if dtype == "int16":
        values -= 16_000
    return values.astype(dtype)


def exercised(row: Row, folder: Path) -> tuple[str, str]:
    """Whether files of a format are lazy, and where their pixel size comes from: the same for all dtypes."""
    found = set()
    for dtype in row.dtypes:
        place = folder / dtype
        place.mkdir()
        pixels = image(dtype)
        with open_micrograph(row.write(place, pixels)) as micrograph:
            info = micrograph.info
            assert (info.dtype, info.shape, info.channels) == (dtype, pixels.shape, 1)
            whole = micrograph.read(Box.of_shape(info.shape))[0]
            np.testing.assert_allclose(whole, pixels, rtol=0, atol=3 if info.format == "jpeg" else 0)
            np.testing.assert_array_equal(micrograph.read(Box(17, 30, 60, 101))[0], whole[17:60, 30:101])
            if info.pixel_size_um is not None:
                assert info.pixel_size_um == pytest.approx((UM, UM), rel=1e-4)
            found.add(("by region" if info.lazy else "whole", info.pixel_size_source or "none"))
    assert len(found) == 1
    return found.pop()


def line(name: str, row: Row, folder: Path) -> str:
    lazy, source = exercised(row, folder)
    cells = (
        name,
        row.known_by,
        row.library,
        row.written_by,
        lazy,
        source,
        ", ".join(row.dtypes),
        "yes" if name in SEEN else "no",
    )
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("name", ROWS)
def test_every_row_of_the_table_is_what_a_file_gives(tmp_path, name):
    found = line(name, ROWS[name], tmp_path)
    if os.environ.get("MICROSEG_WRITE_FORMATS"):
        lines = [row for row in table() if not row.startswith(f"| {name} |")]
        order = [f"| {known} |" for known in ROWS]
        rows = sorted(
            [*lines, found], key=lambda row: next(place for place, start in enumerate(order) if row.startswith(start))
        )
        text = DOCUMENT.read_text(encoding="utf-8")
        head = text[: text.index(BEGIN)] + "\n".join([BEGIN, *HEAD])
        DOCUMENT.write_text("\n".join([head, *rows, text[text.index(END) :]]), encoding="utf-8")
    assert found in table()


def test_the_table_has_no_row_that_is_not_exercised():
    assert [row.split(" | ")[0].removeprefix("| ") for row in table()] == list(ROWS)


HEAD = (
    "| format | known by | read by | test file written by | read | pixel size from | dtypes | seen on a real file |",
    "|---|---|---|---|---|---|---|---|",
)


def table() -> list[str]:
    text = DOCUMENT.read_text(encoding="utf-8")
    lines = text[text.index(BEGIN) : text.index(END)].splitlines()
    return [row for row in lines[1:] if row.startswith("|") and row not in HEAD]
