"""Images and their sidecars that `python -m benchmarks fuzz` damages."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.sources import open_micrograph
from microseg_ray.sources.masks import read_mask
from microseg_ray.sources.scale.sidecars import read_sidecar

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

from benchmarks.fuzz_parser import GRAY, Parser, texts

__all__ = ["IMAGES"]

_SIDECARS = (
    (
        "a.txt",
        "$CM_FORMAT 1\n$CM_FULL_SIZE 64 60\n$$SM_MICRON_BAR 180\n$$SM_MICRON_MARKER 10um\n$CM_PIXEL_SIZE 1.2nm\n",
    ),
    ("a.tif.txt", "[SemImageFile]\nDataSize=64x60\nPixelSize=12.5\n"),
    ("a.hdr", "[MAIN]\nImageStripSize=4\n[SEM]\nPixelSizeX=2e-08\nPixelSizeY=2e-08\n"),
)


_OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="P" '
    'DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeC="1" SizeZ="1" SizeT="1" PhysicalSizeX="0.5" '
    'PhysicalSizeY="500" PhysicalSizeYUnit="nm"><TiffData/></Pixels></Image></OME>'
)


_ZEISS = (
    "0\r\n\r\n\r\n0.5\r\nAP_PIXEL_SIZE\r\nPixel Size = 5.825 nm\r\nAP_WIDTH\r\nWidth = 5.965 um\r\n"
    "AP_HEIGHT\r\nHeight = 4.474 um\r\nDP_IMAGE_STORE\r\nStore resolution = 64 * 60\r\n"
)


_FEI = (
    "[Scan]\r\nPixelWidth=1e-08\r\nPixelHeight=1e-08\r\nHorFieldsize=6.4e-07\r\n[Image]\r\nResolutionX=64\r\n"
    "ResolutionY=60\r\n"
)


_TESCAN = "ImageStripSize=4\r\nPixelSizeX=2e-08\r\nPixelSizeY=2e-08\r\n"


_SEM = ((34118, _ZEISS), (34682, _FEI), (50431, _TESCAN))


def _sidecar(path: Path) -> None:
    for shape in ((64, 64), (60, 64)):
        read_sidecar(str(path.parent / "a.tif"), shape)


def _tiffs(folder: Path) -> Sequence[Path]:
    import tifffile

    tifffile.imwrite(folder / "strips.tif", GRAY, rowsperstrip=16)
    tifffile.imwrite(folder / "tiles.tif", GRAY, tile=(32, 32), compression="zlib", predictor=True)
    tifffile.imwrite(folder / "lzw.tif", GRAY.astype(np.uint16), compression="lzw", resolution=(100, 100))
    tifffile.imwrite(folder / "ome.tif", GRAY, description=_OME, metadata=None)
    tifffile.imwrite(folder / "imagej.tif", GRAY, imagej=True, metadata={"unit": "um"}, resolution=(2, 2))
    tifffile.imwrite(folder / "rgb.tif", np.dstack([GRAY, GRAY, GRAY]), photometric="rgb", bigtiff=True)
    return sorted(folder.glob("*.tif"))


def _sem_tiffs(folder: Path) -> Sequence[Path]:
    import tifffile

    for code, text in _SEM:
        tifffile.imwrite(folder / f"{code}.tif", GRAY, extratags=[(code, "s", 0, text, True)], metadata=None)
    return sorted(folder.glob("*.tif"))


def _pillow(folder: Path, suffixes: tuple[str, ...]) -> Sequence[Path]:
    from PIL import Image

    for suffix in suffixes:
        Image.fromarray(GRAY).save(folder / f"gray{suffix}")
        Image.fromarray(np.dstack([GRAY, GRAY, GRAY // 2])).save(folder / f"rgb{suffix}")
    return sorted(folder.iterdir())


def _mask(folder: Path) -> Sequence[Path]:
    from PIL import Image

    Image.fromarray(GRAY % 3).save(folder / "a.png")
    return [folder / "a.png"]


def _mrc(folder: Path) -> Sequence[Path]:
    import mrcfile

    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(GRAY.astype(np.int16))
        file.voxel_size = 5000
    return [folder / "a.mrc"]


def _fits(folder: Path) -> Sequence[Path]:
    from astropy.io import fits

    unit = fits.PrimaryHDU(GRAY)
    unit.header["CDELT1"], unit.header["CUNIT1"] = 0.5, "um"
    unit.writeto(folder / "a.fits")
    return [folder / "a.fits"]


def _zarr(folder: Path) -> Sequence[Path]:
    import zarr

    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    group = zarr.create_group(folder / "a.zarr", attributes={"ome": ome})
    group.create_array("0", data=GRAY, chunks=(32, 32))
    old = zarr.create_array(folder / "b.zarr", shape=GRAY.shape, chunks=(32, 32), dtype="u1", zarr_format=2)
    old[...] = GRAY
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _opened(path: Path) -> None:
    with open_micrograph(path) as micrograph:
        height, width = micrograph.info.shape
        micrograph.read(Box(0, 0, min(height, 256), min(width, 256)))


def _opened_zarr(path: Path) -> None:
    _opened(next(parent for parent in path.parents if parent.suffix == ".zarr"))


IMAGES: dict[str, Parser] = {
    "sidecars": Parser(texts(*_SIDECARS), _sidecar),
    "TIFF": Parser(_tiffs, _opened),
    "TIFF: SEM tags": Parser(_sem_tiffs, _opened),
    "PNG, BMP": Parser(partial(_pillow, suffixes=(".png", ".bmp")), _opened),
    "JPEG, WebP": Parser(partial(_pillow, suffixes=(".jpg", ".webp")), _opened),
    "mask PNG": Parser(_mask, read_mask),
    "MRC": Parser(_mrc, _opened),
    "FITS": Parser(_fits, _opened),
    "zarr": Parser(_zarr, _opened_zarr),
}  # fmt: skip
