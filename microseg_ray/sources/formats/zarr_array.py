"""Zarr arrays and OME-Zarr images (0.4 and 0.5), version 2 and 3, chunked or sharded."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr

from microseg_ray.errors import InputError
from microseg_ray.sources.bounds import bound_chunk, bound_ratio, bound_shape, limits
from microseg_ray.sources.choices import Parts, Wanted, pick_channels, pick_page
from microseg_ray.sources.formats.zarr_codecs import bounded
from microseg_ray.sources.remote import is_url, joined, read_small
from microseg_ray.sources.scale.pixel_size import of_ome_zarr

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.info import Format

__all__ = ["ZarrPixels", "is_zarr"]

_MAX_METADATA_BYTES = 16 << 20
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_MANY_CHUNKS = 1 << 16
_MAX_RATIO = 1e5  # of zstd; chunks of one value are stored as nothing, and a micrograph has others
_ADVICE = "store one image as (y, x), (c, y, x) with 1 or 3 channels, or as OME-Zarr"


class ZarrPixels:
    """A zarr array, or the full-resolution level of an OME-Zarr image.

    A chunk that is missing on disk reads as the array's fill value: zarr does not distinguish it from an empty one.

    Args:
        path: Folder of the array or of the group; a path or a URL.
        wanted: Channel, and page: every combination of the axes that are neither c, y nor x is one.

    Raises:
        InputError: It is no zarr, no image, of a dtype that is no number, or its metadata claim absurd sizes.
    """

    format: Format = "zarr"
    lazy = True

    def __init__(self, path: str, wanted: Wanted) -> None:
        folder, multiscale = _find_array(path)
        _metadata(path, folder)
        array = bounded(zarr.open_array(store=_store(folder), mode="r"))
        self._array = array
        self.dtype = np.dtype(array.dtype)
        if self.dtype.kind not in "buif":
            raise InputError(path, f"the array holds {self.dtype}, not numbers", "save it as uint8 or uint16")
        axes = _axes(path, array, multiscale)
        self._axes = axes
        sizes = dict(zip(axes, array.shape, strict=True))
        self.shape = (sizes["y"], sizes["x"])
        bound_shape(path, self.shape)
        names = _channel_names(path, multiscale, sizes.get("c", 1))
        self._chosen, channel = pick_channels(path, wanted, names)
        self.channels = self._chosen.stop - self._chosen.start
        others = {axis: sizes[axis] for axis in axes if axis not in {"y", "x", "c"}}
        page = pick_page(path, wanted, math.prod(others.values()))
        place = np.unravel_index(page, tuple(others.values())) if others else ()
        self._place = {axis: int(index) for axis, index in zip(others, place, strict=True)}
        self.parts = Parts(page, math.prod(others.values()), channel, names)
        self.decoded_bytes = int(np.prod(array.chunks, dtype=object)) * self.dtype.itemsize
        advice = "rechunk it; or raise source.max_chunk_gib"
        bound_chunk(path, self.decoded_bytes, f"one chunk of {array.chunks}", advice)
        _bound_count(path, self.shape, [array.chunks[axes.index(axis)] for axis in "yx"])
        _bound_stored(path, folder, math.prod(sizes.values()) * self.dtype.itemsize)
        self.pixel_size = None if multiscale is None else of_ome_zarr(multiscale)

    def read(self, box: Box) -> NDArray[Any]:
        """A fresh array (channels, y, x)."""
        ys, xs = box.slices
        places: dict[str, Any] = {"y": ys, "x": xs, "c": self._chosen, **self._place}
        index = tuple(places[axis] for axis in self._axes)
        pixels = np.asarray(self._array[index])
        kept = [axis for axis in self._axes if axis in {"y", "x", "c"}]
        if "c" not in kept:
            return pixels[None]
        return pixels.transpose([kept.index(axis) for axis in "cyx"])

    def close(self) -> None:
        """Nothing is held open."""


def _bound_count(path: str, shape: tuple[int, int], chunk: list[int]) -> None:
    """Refuse a plane of very many tiny chunks: each costs a file, and about a third of a millisecond."""
    count = math.prod(-(-side // step) for side, step in zip(shape, chunk, strict=True))
    least = limits().min_chunk_pixels
    if count > _MANY_CHUNKS and math.prod(chunk) < least:
        reason = f"the image is cut into {count} chunks of {chunk[0]} x {chunk[1]} px, fewer than {least} px each"
        raise InputError(path, reason, "rechunk it, to 512 x 512 px say; or lower source.min_chunk_pixels")


def _bound_stored(path: str, folder: str, claimed: int) -> None:
    """Refuse a folder with far too few bytes for what its metadata claim; the files are counted until it is enough."""
    if is_url(folder):
        return
    stored, least = 0, claimed / _MAX_RATIO
    for place, _, names in os.walk(folder):
        for name in names:
            stored += (Path(place) / name).lstat().st_size
            if stored > least:
                return
    bound_ratio(path, claimed, stored, _MAX_RATIO, "the zarr")


def is_zarr(folder: str) -> bool:
    """Whether a folder, given as a path or a URL, is a zarr array or group.

    Example:
        >>> is_zarr("/no/such/folder")
        False
    """
    return any(read_small(joined(folder, name), _MAX_METADATA_BYTES) is not None for name in _METADATA[:3])


def _store(folder: str) -> Any:
    # zarr's own stores: local files without fsspec, and everything else through it.
    return zarr.storage.FsspecStore.from_url(folder, read_only=True) if is_url(folder) else folder


def _find_array(path: str) -> tuple[str, dict[str, Any] | None]:
    """Folder of the array to read, and the OME `multiscales` entry that leads to it."""
    documents = _metadata(path, path)
    if not set(documents) & set(_METADATA[:3]):
        raise InputError(path, "the folder is no zarr (no zarr.json, .zarray or .zgroup in it)", "name an image in it")
    newer = documents.get("zarr.json", {})
    if ".zarray" in documents or newer.get("node_type") == "array":
        return path, None
    attributes = newer.get("attributes") or documents.get(".zattrs", {})
    entry = attributes.get("ome") or attributes
    multiscales = entry.get("multiscales")
    if not multiscales:
        if _is_array(joined(path, "0")):
            return joined(path, "0"), None
        raise InputError(
            path, "the zarr group is no OME-Zarr image (no multiscales)", "name the array inside the group"
        )
    level = str(multiscales[0]["datasets"][0]["path"])
    folder = joined(path, level)
    if PurePosixPath(level).is_absolute() or ".." in PurePosixPath(level).parts or not _is_array(folder):
        raise InputError(
            path, f"multiscales names the level {level!r}, which is no array in the group", "write it again"
        )
    return folder, {**multiscales[0], "omero": entry.get("omero")}


def _is_array(folder: str) -> bool:
    return any(read_small(joined(folder, name), _MAX_METADATA_BYTES) is not None for name in ("zarr.json", ".zarray"))


def _metadata(path: str, folder: str) -> dict[str, dict[str, Any]]:
    """The metadata documents of an array or group, by name; bounded and harmless."""
    documents = {}
    for name in _METADATA:
        try:
            content = read_small(joined(folder, name), _MAX_METADATA_BYTES)
        except InputError as error:
            raise InputError(path, f"{name} cannot be used: {error.reason}", error.advice) from error
        if content is not None:
            documents[name] = _json(path, name, content)
            # numcodecs' pickle codec runs whatever code a chunk contains.
            if name in {"zarr.json", ".zarray"} and "pickle" in _codecs(documents[name]):
                reason = f"{name} names the pickle codec, which can run code"
                raise InputError(path, reason, "write it with zstd or gzip")
    return documents


def _json(path: str, name: str, text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"{name} is not valid JSON ({error})", "the store is damaged; write it again") from error
    if not isinstance(content, dict):
        raise InputError(path, f"{name} holds no JSON object", "the store is damaged; write it again")
    return content


def _channel_names(path: str, multiscale: dict[str, Any] | None, count: int) -> tuple[str, ...]:
    """What the OME metadata call the channels, else their numbers."""
    if count < 1:
        raise InputError(path, "the array has no channel", _ADVICE)
    try:
        found = [str(channel["label"]) for channel in (multiscale or {})["omero"]["channels"]]
    except (KeyError, TypeError):
        found = []
    if len(found) == count:
        return tuple(found)
    return ("gray",) if count == 1 else tuple(str(index) for index in range(count))


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
