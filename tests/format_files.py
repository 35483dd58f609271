"""Micrographs written by each format's own library, or byte for byte after its description where there is no writer."""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING

import h5py
import mrcfile
import numpy as np
import yaozarrs
import zarr
from astropy.io import fits
from yaozarrs import v05

if TYPE_CHECKING:
    from pathlib import Path

UM = 0.5
"""Micrometres a pixel of every file that states a size."""


def write_dm(path: Path, pixels: np.ndarray, version: int) -> Path:
    """Gatan DM3 or DM4, by Nion's library."""
    from nion.data import Calibration, DataAndMetadata
    from nionswift_plugin.DM_IO import dm3_image_utils

    sizes = [Calibration.Calibration(0, UM * 1000, "nm")] * 2
    data = DataAndMetadata.new_data_and_metadata(pixels, dimensional_calibrations=sizes)
    with path.open("wb") as file:
        dm3_image_utils.save_image(data, file, version)
    return path


def write_emd_ncem(path: Path, pixels: np.ndarray) -> Path:
    """EMD of NCEM, by rosettasciio."""
    from rsciio.emd import file_writer

    axes = [
        {
            "name": name,
            "scale": UM * 1000,
            "offset": 0,
            "units": "nm",
            "size": size,
            "navigate": False,
            "index_in_array": place,
        }
        for place, (name, size) in enumerate(zip("yx", pixels.shape, strict=True))
    ]
    metadata = {"General": {"title": "a"}, "Signal": {}}
    file_writer(str(path), {"data": pixels, "axes": axes, "metadata": metadata, "original_metadata": {}})
    return path


def write_emd_velox(path: Path, *frames: np.ndarray) -> Path:
    """EMD of Velox, laid out as the program does: (y, x, frame) and JSON in columns of bytes."""
    size = {"height": str(UM * 1e-6), "width": str(UM * 1e-6)}
    metadata = {
        "BinaryResult": {"PixelSize": size, "Offset": {"x": "0", "y": "0"}, "PixelUnitX": "m", "PixelUnitY": "m"},
        "Core": {"MetadataDefinitionVersion": "7"}, "Scan": {"FrameTime": "1"}, "CustomProperties": {},
        "Instrument": {"InstrumentClass": "Talos", "InstrumentId": "1", "InstrumentModel": "T"},
        "Acquisition": {"AcquisitionStartDatetime": {"DateTime": "1500000000"}, "SourceType": "X"},
        "Optics": {"AccelerationVoltage": "200000", "LastMeasuredScreenCurrent": "1", "CameraLength": "1"},
        "Stage": {"Position": {"x": "0", "y": "0", "z": "0"}, "AlphaTilt": "0", "BetaTilt": "0"},
        "Detectors": {"Detector-0": {"DetectorName": "HAADF", "DetectorType": "ScanningDetector"}},
    }  # fmt: skip
    text = np.frombuffer(json.dumps(metadata).encode().ljust(60_000, b"\0"), np.uint8)
    with h5py.File(path, "w") as file:
        kind = json.dumps({"format": "Velox", "version": "1.0"}).encode()
        file.create_dataset("Version", data=np.array([kind], dtype=object), dtype=h5py.special_dtype(vlen=bytes))
        group = file.create_group("Data/Image/0123456789abcdef")
        group.create_dataset("Data", data=np.stack(frames, axis=-1), chunks=(32, 32, 1))
        group.create_dataset("Metadata", data=np.stack([text] * len(frames), axis=1))
    return path


def write_ser(path: Path, pixels: np.ndarray) -> Path:
    """One 2D image of TIA, after Boothroyd's description; rows are stored bottom up."""
    kinds = {"uint8": 1, "uint16": 2, "uint32": 3, "int16": 5, "float32": 7}
    element = struct.pack("<ddiddi", 0, UM * 1e-6, 0, 0, UM * 1e-6, 0)
    element += struct.pack("<hii", kinds[pixels.dtype.name], pixels.shape[1], pixels.shape[0]) + pixels[::-1].tobytes()
    head = struct.pack("<hhhiiiiii", 0x4949, 0x0197, 0x0210, 0x4122, 0x4152, 1, 1, 62, 1)
    dimension = struct.pack("<iddiii", 1, 0, 1, 0, 0, 0)
    offsets = struct.pack("<ii", 70, 70 + len(element))
    path.write_bytes(head + dimension + offsets + element + struct.pack("<hhi", 0x4152, 0, 0))
    return path


def write_mrc(path: Path, pixels: np.ndarray, *, sized: bool = True) -> Path:
    """MRC, by mrcfile; the voxel size is in angstroms."""
    with mrcfile.new(path) as file:
        file.set_data(pixels)
        if sized:
            file.voxel_size = UM * 1e4
    return path


def write_fits(path: Path, pixels: np.ndarray, *, compressed: bool = False) -> Path:
    """FITS, by astropy."""
    unit = fits.CompImageHDU(pixels) if compressed else fits.PrimaryHDU(pixels)
    for axis in (1, 2):
        unit.header[f"CDELT{axis}"], unit.header[f"CUNIT{axis}"] = UM, "um"
    fits.HDUList([fits.PrimaryHDU(), unit] if compressed else [unit]).writeto(path)
    return path


def write_ome_zarr(path: Path, pixels: np.ndarray) -> Path:
    """OME-Zarr 0.5, by yaozarrs."""
    axes = [v05.SpaceAxis(name=name, unit="micrometer") for name in "yx"]
    scale = v05.Dataset(path="0", coordinateTransformations=[v05.ScaleTransformation(scale=[UM, UM])])
    image = v05.Image(multiscales=[v05.Multiscale(axes=axes, datasets=[scale])])
    group = zarr.create_group(path, attributes={"ome": json.loads(image.model_dump_json(exclude_none=True))})
    group.create_array("0", data=pixels, chunks=(32, 32), dimension_names=["y", "x"])
    yaozarrs.validate_zarr_store(path)
    return path
