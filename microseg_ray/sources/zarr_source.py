"""Zarr arrays and OME-Zarr images (0.4 and 0.5), version 2 and 3, chunked or sharded."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from microseg_ray.errors import InputError
from microseg_ray.sources.base import MAX_CHUNK_BYTES, Format, bound_shape
from microseg_ray.sources.pixel_size import of_ome_zarr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box

__all__ = ["ZarrPixels"]

_MAX_METADATA_BYTES = 16 << 20
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_ADVICE = "store one image as (y, x), (c, y, x) with 1 or 3 channels, or as OME-Zarr"


class ZarrPixels:
    """A zarr array, or the full-resolution level of an OME-Zarr image.

    A chunk that is missing on disk reads as the array's fill value: zarr does not tell it from an empty one.

    Args:
        path: Folder of the array or of the group.

    Raises:
        InputError: It is no zarr, no image, of a dtype that is no number, or its metadata claim absurd sizes.
    """

    format: Format = "zarr"
    lazy = True

    def __init__(self, path: str) -> None:
        folder, multiscale = _find_array(path)
        _bound_metadata(path, folder)
        array = zarr.open_array(store=folder, mode="r")
        self._array = array
        self.dtype = np.dtype(array.dtype)
        if self.dtype.kind not in "buif":
            raise InputError(path, f"the array holds {self.dtype}, not numbers", "save it as uint8 or uint16")
        axes = _axes(path, array, multiscale)
        self._axes = axes
        sizes = dict(zip(axes, array.shape, strict=True))
        self.shape = (sizes["y"], sizes["x"])
        bound_shape(path, self.shape)
        for axis in axes:
            if axis not in {"y", "x", "c"} and sizes[axis] != 1:
                raise InputError(path, f"axis {axis} has {sizes[axis]} entries; micrographs have one", _ADVICE)
        self.channels = sizes.get("c", 1)
        if self.channels not in {1, 3}:
            raise InputError(path, f"the array has {self.channels} channels; micrographs have 1 or 3", _ADVICE)
        self.decoded_bytes = int(np.prod(array.chunks, dtype=object)) * self.dtype.itemsize
        if self.decoded_bytes > MAX_CHUNK_BYTES:
            raise InputError(
                path,
                f"one chunk of {array.chunks} takes {self.decoded_bytes / 2**30:.1f} GiB",
                f"rechunk it; a chunk may take {MAX_CHUNK_BYTES >> 30} GiB",
            )
        self.pixel_size = None if multiscale is None else of_ome_zarr(multiscale)

    def read(self, box: Box) -> NDArray[Any]:
        """A fresh array (channels, y, x)."""
        ys, xs = box.slices
        index = tuple({"y": ys, "x": xs, "c": slice(None)}.get(axis, 0) for axis in self._axes)
        pixels = np.asarray(self._array[index])
        kept = [axis for axis in self._axes if axis in {"y", "x", "c"}]
        if "c" not in kept:
            return pixels[None]
        return pixels.transpose([kept.index(axis) for axis in "cyx"])

    def close(self) -> None:
        """Nothing is held open."""


def _find_array(path: str) -> tuple[Path, dict[str, Any] | None]:
    """Folder of the array to read, and the OME `multiscales` entry that leads to it."""
    root = Path(path)
    present = [name for name in _METADATA if (root / name).is_file()]
    if not present:
        raise InputError(path, "the folder is no zarr (no zarr.json, .zarray or .zgroup in it)", "name an image in it")
    _bound_metadata(path, root)
    if ".zarray" in present or _json(path, root / "zarr.json").get("node_type") == "array":
        return root, None
    attributes = _json(path, root / "zarr.json").get("attributes") or _json(path, root / ".zattrs")
    multiscales = (attributes.get("ome") or attributes).get("multiscales")
    if not multiscales:
        if _is_array(root / "0"):
            return root / "0", None
        raise InputError(
            path, "the zarr group is no OME-Zarr image (no multiscales)", "name the array inside the group"
        )
    level = str(multiscales[0]["datasets"][0]["path"])
    if PurePosixPath(level).is_absolute() or ".." in PurePosixPath(level).parts or not _is_array(root / level):
        raise InputError(
            path, f"multiscales names the level {level!r}, which is no array in the group", "write it again"
        )
    return root / level, multiscales[0]


def _is_array(folder: Path) -> bool:
    return (folder / "zarr.json").is_file() or (folder / ".zarray").is_file()


def _json(path: str, file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(
            path, f"{file.name} is not valid JSON ({error})", "the store is damaged; write it again"
        ) from error
    if not isinstance(content, dict):
        raise InputError(path, f"{file.name} holds no JSON object", "the store is damaged; write it again")
    return content


def _bound_metadata(path: str, folder: Path) -> None:
    for name in _METADATA:
        file = folder / name
        if not file.is_file():
            continue
        if file.stat().st_size > _MAX_METADATA_BYTES:
            raise InputError(path, f"{name} is larger than {_MAX_METADATA_BYTES} bytes", "the store is damaged")
        # numcodecs' pickle codec runs whatever code a chunk contains.
        if name in {"zarr.json", ".zarray"} and "pickle" in _codecs(_json(path, file)):
            raise InputError(path, f"{name} names the pickle codec, which can run code", "write it with zstd or gzip")


def _codecs(metadata: dict[str, Any]) -> str:
    return json.dumps([metadata.get(key) for key in ("codecs", "compressor", "filters")]).casefold()


def _axes(path: str, array: zarr.Array[Any], multiscale: dict[str, Any] | None) -> tuple[str, ...]:
    """The name of each axis of the array: of t, c, z, y, x."""
    shape = array.shape
    named: list[Any] | None = None
    if multiscale is not None:
        named = [axis["name"] for axis in multiscale.get("axes", [])]
    elif dimensions := getattr(array.metadata, "dimension_names", None):
        named = [str(name).casefold() for name in dimensions]
    if named is not None and len(named) == len(shape) and {"y", "x"} <= set(named) and len(set(named)) == len(named):
        return tuple(named)
    if multiscale is not None:
        raise InputError(
            path, f"axes {named} do not fit an array of shape {shape}", "the OME-Zarr metadata are damaged"
        )
    if len(shape) == 3 and shape[-1] == 3 and shape[0] not in {1, 3}:
        return ("y", "x", "c")
    if 2 <= len(shape) <= 5:
        return ("t", "z", "c", "y", "x")[5 - len(shape) :]
    raise InputError(path, f"the array has {len(shape)} axes, shape {shape}", _ADVICE)
