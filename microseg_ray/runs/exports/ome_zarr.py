"""A micrograph of a run as OME-Zarr 0.5 with its mask as labels under it: all of it copied, or linked to where it lies.

```
NAME.ome.zarr/
  zarr.json          the image: axes, scales, channels
  0/ 1/ ...          (y, x) or (c, y, x), halved by the mean
  labels/zarr.json   names `classes`
  labels/classes/    the mask with its levels, names and colours of its classes
```
"""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from microseg_ray.errors import UNREADABLE, InputError
from microseg_ray.files.arrays import zarr_place
from microseg_ray.files.objects import is_object_url
from microseg_ray.geometry import Box, ceil_to
from microseg_ray.names import text
from microseg_ray.runs.opening import open_of_run, require_unchanged
from microseg_ray.runs.store.pyramid import halved, label_axes, label_metadata, level_shapes
from microseg_ray.runs.store.spec import CHUNK, create_pixels
from microseg_ray.sources import member_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.sources import Micrograph
    from microseg_ray.statistics.areas import Measured

__all__ = ["LABELS", "copy_image", "link_image"]

LABELS = "classes"
"""Name of the label image."""
_SHARD = 4 * CHUNK
_COPY = "take --image copy"
_COLORS = ("FF0000", "00FF00", "0000FF")


def copy_image(folder: Path, run: Run, store: MaskStore, measured: Measured) -> None:
    """Copy a micrograph and its mask; a row of four shards is in memory at a time.

    The micrograph is what the model saw the mask on: the chosen page and channels, upright, on the mask's grid.

    Args:
        folder: Target, which does not exist yet.
        run: The run.
        store: The finished mask.
        measured: Name and pixel size.

    Raises:
        InputError: The file is missing, damaged, or another than the one that was segmented.
        ValueError: A shard of the mask is damaged.
    """
    require_unchanged(run, measured.micrograph, store)
    group = _group(folder, measured)
    with open_of_run(run, measured.micrograph, store) as micrograph:
        lead = () if micrograph.info.channels == 1 else (micrograph.info.channels,)
        shapes = level_shapes(store.spec.shape)
        levels = [_level(group, str(number), (*lead, *shape), micrograph) for number, shape in enumerate(shapes)]
        for box in _boxes(shapes[0]):
            levels[0][..., *box.slices] = micrograph.read(box).reshape(*lead, *box.shape)
        for finer, level in pairwise(levels):
            _halve(finer, level)
        document = label_axes(measured.micrograph, len(shapes), measured.pixel_size_um)
        if lead:
            _add_channels(document)
        document["omero"] = {"channels": _channels(np.asarray(levels[-1][...]))}
    group.attrs.put({**group.attrs.asdict(), "ome": document})
    labels = _label_group(group, store, measured, len(shapes))
    source = zarr.open_group(zarr_place(store.path), mode="r")
    for number, shape in enumerate(shapes):
        finer, level = _array(source, str(number)), create_pixels(labels, str(number), shape, store.spec)
        for box in _boxes(shape, store.spec.shard):
            level[box.slices] = np.asarray(finer[box.slices])


def link_image(folder: Path, place: Path, run: Run, store: MaskStore, measured: Measured) -> None:
    """Make an image of links to the arrays of a micrograph that is OME-Zarr 0.5 already, and of its mask.

    OME-Zarr 0.5 has no reference from one image to the pixels of another, so the links are those of the file system.

    Args:
        folder: Target, which does not exist yet.
        place: Where `folder` will lie: links are relative to it.
        run: The run.
        store: The finished mask.
        measured: Name and pixel size.

    Raises:
        InputError: The micrograph is no local OME-Zarr 0.5 image on the grid of its mask, or it has changed.
    """
    require_unchanged(run, measured.micrograph, store)
    path = member_path(str(run.document["archive"]), measured.micrograph)
    multiscale, omero, levels = _linkable(path, store)
    count = min(len(levels), len(level_shapes(store.spec.shape)))
    group = _group(folder, measured)
    document: dict[str, Any] = {"version": "0.5", "multiscales": [_scaled(multiscale, levels[:count], measured)]}
    group.attrs.put({**group.attrs.asdict(), "ome": {**document, **({"omero": omero} if omero else {})}})
    _label_group(group, store, measured, count)
    for number in range(count):
        _link(folder, place, str(number), Path(path) / levels[number]["path"])
        _link(folder, place, f"labels/{LABELS}/{number}", Path(store.path) / str(number))


def _linkable(path: str, store: MaskStore) -> tuple[dict[str, Any], Any, list[dict[str, Any]]]:
    """The first multiscale, `omero` and the levels of an image that can be linked."""
    if is_object_url(store.path):
        raise InputError(path, "its mask lies in an object store, and links are those of a file system", _COPY)
    if not Path(path).is_dir():
        reason = "is no OME-Zarr on a local disk, and an OME-Zarr cannot refer to pixels of another format"
        raise InputError(path, reason, _COPY)
    try:
        group = zarr.open_group(path, mode="r")
        ome = cast("dict[str, Any]", group.attrs["ome"]) if group.metadata.zarr_format == 3 else None
        if ome is None:
            raise InputError(path, "is OME-Zarr 0.4; its arrays cannot lie in an image of version 0.5", _COPY)
        multiscale = ome["multiscales"][0]
        levels = list(multiscale["datasets"])
        axes = [axis["name"] for axis in multiscale["axes"]]
        arrays = [_array(group, level["path"]) for level in levels]
        shape = tuple(dict(zip(axes, arrays[0].shape, strict=True))[axis] for axis in "yx")
    except (KeyError, OSError, *UNREADABLE) as error:
        raise InputError(path, f"is no OME-Zarr 0.5 image ({type(error).__name__}: {error})", _COPY) from error
    if shape != store.spec.shape:
        reason = f"has {shape[0]} x {shape[1]} px and its mask {store.spec.shape[0]} x {store.spec.shape[1]} px"
        raise InputError(path, f"{reason}: it was rescaled for the model", _COPY)
    return multiscale, ome.get("omero"), levels


def _scaled(multiscale: dict[str, Any], levels: list[dict[str, Any]], measured: Measured) -> dict[str, Any]:
    """The multiscale of links: levels named by number, y and x in the pixel size of the run, without translations.

    The mask's own pyramid has no translation; both begin at the outer corner of the first pixel.
    """
    size = measured.pixel_size_um
    axes: list[dict[str, Any]] = []
    scales = [list(_scale(level)) for level in levels]
    base = list(scales[0])
    for place, axis in enumerate(multiscale["axes"]):
        if axis["name"] not in {"y", "x"}:
            axes.append(axis)
            continue
        axes.append({"name": axis["name"], "type": "space", **({} if size is None else {"unit": "micrometer"})})
        side = 1.0 if size is None else size["yx".index(axis["name"])]
        for scale in scales:
            scale[place] = side * scale[place] / base[place]
    datasets = [
        {"path": str(number), "coordinateTransformations": [{"type": "scale", "scale": scale}]}
        for number, scale in enumerate(scales)
    ]
    return {"name": text(measured.micrograph), "axes": axes, "datasets": datasets}


def _scale(level: dict[str, Any]) -> Sequence[float]:
    return next(each["scale"] for each in level["coordinateTransformations"] if each["type"] == "scale")


def _link(folder: Path, place: Path, name: str, target: Path) -> None:
    at = (place / name).absolute().parent
    (folder / name).symlink_to(os.path.relpath(target.resolve(), at.resolve()), target_is_directory=True)


def _group(folder: Path, measured: Measured) -> zarr.Group:
    group = zarr.create_group(str(folder))
    group.attrs.put({"microseg": {"micrograph": text(measured.micrograph), "model_digest": measured.model_digest}})
    return group


def _label_group(group: zarr.Group, store: MaskStore, measured: Measured, levels: int) -> zarr.Group:
    """The group of the mask, with as many levels as the image has."""
    listed = group.create_group("labels", attributes={"ome": {"version": "0.5", "labels": [LABELS]}})
    shapes = level_shapes(store.spec.shape)[:levels]
    document = label_metadata(LABELS, store.spec, shapes, measured.pixel_size_um)
    document["image-label"]["source"] = {"image": "../../"}
    return listed.create_group(LABELS, attributes={"ome": document})


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    return cast("zarr.Array[Any]", group[name])


def _level(group: zarr.Group, name: str, shape: tuple[int, ...], micrograph: Micrograph) -> zarr.Array[Any]:
    lead = shape[:-2]
    return group.create_array(
        name,
        shape=shape,
        shards=(*lead, *(min(_SHARD, ceil_to(side, CHUNK)) for side in shape[-2:])),
        chunks=(*(1 for _ in lead), CHUNK, CHUNK),
        dtype=micrograph.info.dtype,
        compressors=[ZstdCodec(level=1, checksum=True)],
        dimension_names=("c", "y", "x")[-len(shape) :],
    )


def _boxes(shape: tuple[int, ...], side: int = _SHARD) -> Iterator[Box]:
    height, width = shape[-2:]
    for y0 in range(0, height, side):
        for x0 in range(0, width, side):
            yield Box(y0, x0, min(y0 + side, height), min(x0 + side, width))


def _halve(finer: zarr.Array[Any], level: zarr.Array[Any]) -> None:
    height, width = finer.shape[-2:]
    for box in _boxes(level.shape):
        fine = Box(2 * box.y0, 2 * box.x0, min(2 * box.y1, height), min(2 * box.x1, width))
        pixels: NDArray[Any] = np.asarray(finer[..., *fine.slices])
        level[..., *box.slices] = halved(pixels.reshape(-1, *fine.shape)).reshape(*level.shape[:-2], *box.shape)


def _add_channels(document: dict[str, Any]) -> None:
    """Give an image of y and x a first axis of channels."""
    multiscale = document["multiscales"][0]
    multiscale["axes"].insert(0, {"name": "c", "type": "channel"})
    for level in multiscale["datasets"]:
        level["coordinateTransformations"][0]["scale"].insert(0, 1.0)


def _channels(coarsest: NDArray[Any]) -> list[dict[str, Any]]:
    """How viewers show the channels: bytes as they are, other numbers between their 0.5 and 99.5 percentiles."""
    planes = coarsest.reshape(-1, *coarsest.shape[-2:])
    colored = len(planes) == len(_COLORS)
    made = []
    for number, plane in enumerate(planes):
        low, high = (0.0, 255.0) if plane.dtype == np.uint8 else (float(x) for x in np.percentile(plane, (0.5, 99.5)))
        whole = (
            (0.0, float(np.iinfo(plane.dtype).max))
            if plane.dtype.kind == "u"
            else (float(plane.min()), float(plane.max()))
        )
        made.append(
            {
                "label": ("red", "green", "blue")[number]
                if colored
                else f"channel {number}"
                if len(planes) > 1
                else "gray",
                "color": _COLORS[number] if colored else "FFFFFF",
                "window": {"min": whole[0], "max": whole[1], "start": low, "end": max(high, low + 1e-6)},
                "active": True,
            }
        )
    return made
