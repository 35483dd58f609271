"""Zeiss CZI through czifile: one plane at a time, put together from its tiles."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.sources.bounds import bound_decoded, bound_shape
from microseg_ray.sources.choices import RGB, Parts, Wanted, pick_channels, pick_page
from microseg_ray.sources.extras import required
from microseg_ray.sources.remote import is_url, scratch_copy
from microseg_ray.sources.scale.pixel_size import PixelSize, believable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.info import Format

__all__ = ["CziPixels"]

_MAX_XML = 64 << 20


class CziPixels:
    """A plane of a CZI.

    Every combination of scene, time, depth and further axes is a page; the C axis or the samples of a pixel are channels.
    The plane is decoded at its first read, and held.

    Args:
        path: The file; a URL is copied first.
        wanted: Page and channel.

    Raises:
        InputError: Damaged, without an image, or czifile is not installed.
    """

    format: Format = "czi"
    lazy = False

    def __init__(self, path: str, wanted: Wanted) -> None:
        library: Any = required(path, "CZI", "czifile", "formats")
        self._path = path
        self._held: NDArray[Any] | None = None
        self.notes: tuple[str, ...] = ()
        with contextlib.ExitStack() as stack:
            local = stack.enter_context(scratch_copy(path, ".czi")) if is_url(path) else path
            self._file = stack.enter_context(library.CziFile(local))
            sizes = dict(zip(self._file.axes, self._file.shape, strict=True))
            if not {"Y", "X"} <= set(sizes):
                raise InputError(path, f"the CZI has the axes {self._file.axes}, and no image", "export one as TIFF")
            self.shape = (int(sizes["Y"]), int(sizes["X"]))
            bound_shape(path, self.shape)
            others = {axis: int(size) for axis, size in sizes.items() if axis not in {"Y", "X", "0", "C"}}
            page = pick_page(path, wanted, math.prod(others.values()))
            place = next(itertools.islice(itertools.product(*(range(size) for size in others.values())), page, None))
            self._place = dict(zip(others, place, strict=True))
            self._choose(path, wanted, int(sizes.get("0", 1)), int(sizes.get("C", 1)))
            self.parts = Parts(page, math.prod(others.values()), self._channel, self._names)
            self.dtype = np.dtype(self._file.dtype)
            self.decoded_bytes = math.prod(self.shape) * len(self._names) * self.dtype.itemsize
            bound_decoded(path, self.decoded_bytes, "a CZI")
            text = str(self._file.metadata() or "")[:_MAX_XML]
            self.pixel_size = _pixel_size(text)
            found = re.search(r"<ComponentBitCount>\s*(\d+)\s*<", text)
            depth = None if found is None else int(found[1])
            self.bits = depth if depth is not None and 0 < depth < 8 * self.dtype.itemsize else None
            self._stack = stack.pop_all()

    def read(self, box: Box) -> NDArray[Any]:
        """A view (channels, y, x) of the plane."""
        if self._held is None:
            self._held = self._plane()
        return self._held[(self._chosen, *box.slices)]

    def close(self) -> None:
        """Close the file and let go of the plane."""
        self._held = None
        self._stack.close()

    def _choose(self, path: str, wanted: Wanted, samples: int, channels: int) -> None:
        if samples > 1 and channels > 1:
            raise InputError(path, f"the CZI has {channels} channels of {samples} samples", "export one as TIFF")
        if samples in {3, 4}:
            self._names: tuple[str, ...] = RGB
        else:
            self._names = ("gray",) if channels == 1 else tuple(str(index) for index in range(channels))
        self._chosen, self._channel = pick_channels(path, wanted, self._names)
        self.channels = self._chosen.stop - self._chosen.start

    def _plane(self) -> NDArray[Any]:
        """The plane from its tiles, in the order of the file: later ones lie above."""
        axes, start = self._file.axes, self._file.start
        out = np.zeros((len(self._names), *self.shape), self.dtype)
        covered = np.zeros(self.shape, bool)
        for entry in self._file.filtered_subblock_directory:
            at = {axis: int(i - j) for axis, i, j in zip(axes, entry.start, start, strict=True)}
            if any(at[axis] != index for axis, index in self._place.items()):
                continue
            tile: NDArray[Any] = np.asarray(entry.data_segment().data(resize=True, order=0))
            order = [axes.index(axis) for axis in ("Y", "X", "0") if axis in axes]
            tile = tile.transpose([*(i for i in range(tile.ndim) if i not in order), *order])
            tile = tile.reshape([tile.shape[place - len(order)] for place in range(len(order))])
            tile = (
                np.moveaxis(tile, -1, 0)[:3] if "0" in axes and tile.shape[-1] > 1 else tile.reshape(1, *tile.shape[:2])
            )
            height, width = tile.shape[1:]
            part = (slice(at["Y"], at["Y"] + height), slice(at["X"], at["X"] + width))
            first = at.get("C", 0)
            out[(slice(first, first + len(tile)), *part)] = tile
            covered[part] = True
        if not covered.all():
            y, x = (int(value) for value in np.argwhere(~covered)[0])
            reason = f"no tile covers the pixel at (y, x) = ({y}, {x}) of this scene"
            raise InputError(self._path, reason, "export the scene as TIFF, cropped to its tiles")
        return out


def _pixel_size(text: str) -> PixelSize | None:
    """`Scaling` of the metadata, in metres."""
    sizes = {}
    for axis in "YX":
        found = re.search(rf'<Distance Id="{axis}"[^<>]*>\s*<Value>\s*([\d.eE+-]+)\s*</Value>', text)
        sizes[axis] = None if found is None else float(found[1]) * 1e6
    return believable(sizes["Y"], sizes["X"], "CZI Scaling Distance")
