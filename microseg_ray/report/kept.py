"""What a run kept of one micrograph, read part by part: its mask and its map of doubt, with as little opening as can be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import UNREADABLE, StoreError
from microseg_ray.files import place
from microseg_ray.files.arrays import zarr_place
from microseg_ray.runs.store.glance import glance
from microseg_ray.runs.store.one_shard import read_array
from microseg_ray.runs.store.spec import MaskSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from microseg_ray.files import Where
    from microseg_ray.geometry import Box

__all__ = ["Kept", "kept_of", "reader"]

_AT_ONCE = 1 << 22
"""Pixels of an array that is read as a whole."""


def reader(array: Where, shape: tuple[int, int]) -> Callable[[Box], NDArray[np.uint8]]:
    """Reads the boxes of a (y, x) uint8 array of a mask store.

    Opening takes most of the time of small ones: they are read at once, and without zarr where they are one shard.

    Args:
        array: Its folder.
        shape: (height, width).

    Raises:
        OSError: It cannot be read.
        ValueError: It is damaged, or has another shape.
    """
    path = place(array)
    if shape[0] * shape[1] > _AT_ONCE:
        import zarr

        opened = zarr.open_array(zarr_place(path), mode="r")
        return lambda box: np.asarray(opened[box.slices])
    values = read_array(path)
    if values.shape != shape:
        raise ValueError(f"{path}: has {values.shape} pixels (height, width), its mask {shape}")
    return lambda box: values[box.slices]


@dataclass(frozen=True)
class Kept:
    """A mask and what was kept beside it.

    Attributes:
        path: Folder of the mask store.
        spec: Shape, shards and what was kept; without classes.
        record: What the store says of itself.
    """

    path: str
    spec: MaskSpec
    record: Mapping[str, Any]
    _mask: Callable[[Box], NDArray[np.uint8]]

    @property
    def identity(self) -> dict[str, Any]:
        """What the pixels are bound to."""
        return dict(self.record["identity"])

    @property
    def pixel_size_um(self) -> tuple[float, float] | None:
        """(y, x), or None."""
        size = self.record.get("note", {}).get("pixel_size_um")
        return None if size is None else (float(size[0]), float(size[1]))

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Classes (y, x) of a box; 255 where nothing is committed.

        Raises:
            StoreError: A shard is damaged.
        """
        try:
            return self._mask(box)
        except UNREADABLE as error:
            raise StoreError(
                f"{self.path}: the mask cannot be read at {box} ({error}); run `microseg verify`"
            ) from error


def kept_of(path: Where) -> Kept:
    """What is kept in a mask store.

    Args:
        path: Its folder.

    Raises:
        StoreError: Nothing is there, or it is damaged.

    Example:
        >>> kept_of("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.StoreError: /nowhere: no mask store is here, or it is damaged (...); `verify` says more
    """
    found = glance(path)
    try:
        spec = MaskSpec(found.shape, (), int(found.record["shard"]), found.record["extra"])
        return Kept(str(path), spec, found.record, reader(place(path) / "0", found.shape))
    except (OSError, *UNREADABLE) as error:
        raise StoreError(f"{path}: the mask cannot be read ({error}); `microseg verify` says more") from error
