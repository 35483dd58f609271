"""A mask as a file of class indices: BigTIFF with its pyramid, and PNG with the classes as its palette; written in bands."""

from __future__ import annotations

import struct
import uuid
import zlib
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np
import zarr

from microseg_ray.errors import InputError
from microseg_ray.figures.pictures import class_palette
from microseg_ray.files.arrays import zarr_place
from microseg_ray.names import text
from microseg_ray.runs.store.pyramid import level_shapes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.statistics.areas import Measured

__all__ = ["require_png", "write_png", "write_tiff"]

TILE = 512
_BAND = 512
_MAX_PNG_SIDE = (1 << 31) - 1


def write_tiff(path: Path, store: MaskStore, measured: Measured) -> None:
    """Write a tiled BigTIFF of class indices; coarser levels are SubIFDs.

    The pixel size is in the resolution tags (per centimetre) and, with its unit, in the OME metadata, from which Bio-Formats
    takes it in Fiji and QuPath; both are (y, x), so that pixels need not be square. The colour map holds the classes.

    Args:
        path: Target.
        store: A finished mask; a row of tiles is in memory at a time.
        measured: Its name and pixel size.

    Raises:
        ValueError: A shard is damaged.
    """
    import tifffile

    size = measured.pixel_size_um
    name = text(measured.micrograph)
    colormap = class_palette(store.spec.classes).T.astype(np.uint16) * 257
    group = zarr.open_group(zarr_place(store.path), mode="r")
    shapes = level_shapes(store.spec.shape)
    metadata: dict[str, Any] = {
        "axes": "YX",
        "Name": name,
        "Description": ", ".join(f"{index} {spec.name}" for index, spec in enumerate(store.spec.classes)),
        "Creator": "microseg_ray",
        # Equal masks give equal bytes.
        "UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, f"microseg_ray:{measured.model_digest}:{name}")),
    }
    if size is not None:
        metadata |= {"PhysicalSizeY": size[0], "PhysicalSizeYUnit": "µm"}
        metadata |= {"PhysicalSizeX": size[1], "PhysicalSizeXUnit": "µm"}
    with tifffile.TiffWriter(path, bigtiff=True, ome=True) as file:
        for number, shape in enumerate(shapes):
            level = cast("zarr.Array[Any]", group[str(number)])
            file.write(
                _tiles(level),
                shape=shape,
                dtype=np.uint8,
                tile=(TILE, TILE),
                compression="zlib",
                photometric="palette",
                colormap=colormap,
                software="microseg_ray",
                maxworkers=1,
                resolution=None if size is None else tuple(1e4 / side / 2**number for side in size[::-1]),
                resolutionunit=None if size is None else "CENTIMETER",
                **({"subifds": len(shapes) - 1, "metadata": metadata} if not number else {"subfiletype": 1}),
            )


def _tiles(level: zarr.Array[Any]) -> Iterator[NDArray[np.uint8]]:
    height, width = level.shape
    for y0 in range(0, height, TILE):
        rows = np.asarray(level[y0 : min(y0 + TILE, height), :])
        for x0 in range(0, width, TILE):
            tile = np.zeros((TILE, TILE), np.uint8)
            part = rows[:, x0 : x0 + TILE]
            tile[: part.shape[0], : part.shape[1]] = part
            yield tile


def require_png(path: Path, shape: tuple[int, int], most: int) -> None:
    """Refuse a mask that readers of PNG do not open.

    Args:
        path: The PNG.
        shape: (height, width).
        most: Pixels that are allowed.

    Raises:
        InputError: There are more.
    """
    if shape[0] * shape[1] > most or max(shape) > _MAX_PNG_SIDE:
        reason = f"{shape[0]} x {shape[1]} px are more than the {most} px of png_pixels, and Pillow would not open them"
        raise InputError(path, reason, "take the format tiff, or set --png_pixels")


def write_png(path: Path, store: MaskStore, measured: Measured) -> None:
    """Write class indices as an 8-bit PNG whose palette are the classes (W3C PNG, third edition); no library writes it in parts.

    Args:
        path: Target.
        store: A finished mask; some rows are in memory at a time.
        measured: Its pixel size, which goes into the `pHYs` chunk in pixels per metre.

    Raises:
        ValueError: A shard is damaged.
    """
    height, width = store.spec.shape
    size = measured.pixel_size_um
    with path.open("wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n")
        _chunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0))
        per_metre = [0, 0] if size is None else [round(1e6 / side) for side in size[::-1]]
        if min(per_metre) > 0 and max(per_metre) < 1 << 31:
            _chunk(file, b"pHYs", struct.pack(">IIB", *per_metre, 1))
        _chunk(file, b"PLTE", class_palette(store.spec.classes).tobytes())
        packer = zlib.compressobj(6)
        for y0 in range(0, height, _BAND):
            rows = np.asarray(store.mask[y0 : min(y0 + _BAND, height), :])
            # Each row begins with its filter: 0, none.
            _chunk(file, b"IDAT", packer.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes()))
        _chunk(file, b"IDAT", packer.flush())
        _chunk(file, b"IEND", b"")


def _chunk(file: BinaryIO, kind: bytes, content: bytes) -> None:
    """A chunk of a PNG; an empty part of the pixels is left out."""
    if content or kind == b"IEND":
        file.write(struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content)))
