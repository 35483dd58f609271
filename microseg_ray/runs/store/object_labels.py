"""The label image of objects as OME-Zarr 0.5: the number of the object of each pixel, 0 where there is none."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from microseg_ray.files import delete_folder
from microseg_ray.files.arrays import zarr_place
from microseg_ray.geometry import Box, ceil_to
from microseg_ray.outputs import require_store
from microseg_ray.runs.store.pyramid import label_axes, level_shapes
from microseg_ray.runs.store.spec import CHUNK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from microseg_ray.files import Place

__all__ = ["write_labels"]


def write_labels(
    path: Place,
    shape: tuple[int, int],
    blocks: Iterable[tuple[Box, NDArray[np.uint32]]],
    pixel_size_um: tuple[float, float] | None,
    note: Mapping[str, Any],
) -> None:
    """Write a label image with a pyramid; one block is in memory at a time.

    A coarser level keeps every second pixel, because labels have no mean.

    Args:
        path: Folder, its name ending in `.zarr`; an older store is replaced.
        shape: (height, width).
        blocks: Boxes, and their (y, x) uint32 labels, which partition the image.
        pixel_size_um: (y, x) of the full resolution, or None.
        note: Goes into the `microseg` attribute.
    """
    if path.exists():
        require_store(path)
        delete_folder(path)
    group = zarr.create_group(zarr_place(path))
    group.attrs.put({"microseg": dict(note)})
    shapes = level_shapes(shape)
    levels = [_level(group, str(index), each) for index, each in enumerate(shapes)]
    for box, labels in blocks:
        levels[0][box.slices] = labels
    for finer, level in pairwise(levels):
        side = level.shards[0] if level.shards else CHUNK
        for y0 in range(0, level.shape[0], side):
            for x0 in range(0, level.shape[1], side):
                box = Box(y0, x0, min(y0 + side, level.shape[0]), min(x0 + side, level.shape[1]))
                fine = finer[2 * box.y0 : 2 * box.y1, 2 * box.x0 : 2 * box.x1]
                level[box.slices] = np.asarray(fine)[::2, ::2]
    document = label_axes(path.stem, len(shapes), pixel_size_um)
    document["image-label"] = {"version": "0.5"}
    group.attrs.put({"microseg": dict(note), "ome": document})


def _level(group: zarr.Group, name: str, shape: tuple[int, int]) -> zarr.Array[Any]:
    sides = tuple(min(4 * CHUNK, ceil_to(side, CHUNK)) for side in shape)
    return group.create_array(
        name,
        shape=shape,
        shards=sides,
        chunks=(CHUNK, CHUNK),
        dtype="uint32",
        fill_value=0,
        compressors=[ZstdCodec(level=1, checksum=True)],
        dimension_names=("y", "x"),
    )
