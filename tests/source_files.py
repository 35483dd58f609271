"""Image files of every kind that the source tests read: who writes them, and what must come out."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import tifffile
import zarr
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

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


def ome_zarr(version, axes, data, expected, unit="nanometer", size_nm=(500.0, 250.0), labels=()):
    def make(folder: Path):
        path = folder / "a.ome.zarr"
        form = 3 if version == "0.5" else 2
        group = zarr.create_group(path, zarr_format=form)
        array = group.create_array("0", shape=data.shape, dtype=data.dtype, chunks=(1,) * (data.ndim - 2) + (32, 32))
        array[...] = data
        scale = [1.0] * (len(axes) - 2) + list(size_nm)
        entry = {
            "version": version,
            "axes": [{"name": name, **({"unit": unit} if name in "yx" and unit else {})} for name in axes],
            "datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": scale}]}],
        }
        document = {"version": version, "multiscales": [entry]}
        if labels:
            document["omero"] = {"channels": [{"label": label} for label in labels]}
        group.attrs.update({"ome": document} if form == 3 else document)
        return path, expected

    return make


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


def saved(path: Path, image: Image.Image, **options) -> Path:
    image.save(path, **options)
    return path
