"""Nikon ND2 through the package nd2: one frame at a time."""

from __future__ import annotations

import contextlib
import math
import threading
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

__all__ = ["Nd2Pixels"]


class Nd2Pixels:
    """A frame of an ND2: positions, times and depths are pages, in the order of the file; optical channels are channels.

    Args:
        path: The file; a URL is copied first.
        wanted: Page and channel.

    Raises:
        InputError: Damaged, without an image, or nd2 is not installed.
    """

    format: Format = "nd2"
    lazy = False

    def __init__(self, path: str, wanted: Wanted) -> None:
        library: Any = required(path, "ND2", "nd2", "formats")
        self._path, self._lock = path, threading.Lock()
        self._held: NDArray[Any] | None = None
        with contextlib.ExitStack() as stack:
            local = stack.enter_context(scratch_copy(path, ".nd2")) if is_url(path) else path
            self._file = stack.enter_context(library.ND2File(local))
            sizes = {str(axis): int(size) for axis, size in self._file.sizes.items()}
            self.shape = (sizes.get("Y", 0), sizes.get("X", 0))
            bound_shape(path, self.shape)
            pages = math.prod(size for axis, size in sizes.items() if axis not in {"Y", "X", "C", "S"})
            page = pick_page(path, wanted, pages)
            self._samples, self._optical = sizes.get("S", 1), sizes.get("C", 1)
            self._choose(path, wanted)
            self.parts = Parts(page, pages, self._channel, self._names)
            self._page, self.dtype = page, np.dtype(self._file.dtype)
            self.decoded_bytes = math.prod(self.shape) * self._samples * self._optical * self.dtype.itemsize
            bound_decoded(path, self.decoded_bytes, "an ND2 frame")
            self.pixel_size = _pixel_size(self._file)
            depth = getattr(self._file.attributes, "bitsPerComponentSignificant", None)
            self.bits = int(depth) if depth and int(depth) < 8 * self.dtype.itemsize else None
            self._stack = stack.pop_all()

    def read(self, box: Box) -> NDArray[Any]:
        """A view (channels, y, x) of the frame."""
        with self._lock:
            if self._held is None:
                frame = np.asarray(self._file.read_frame(self._page))
                frame = frame.reshape(self._optical, *self.shape, self._samples)
                self._held = np.moveaxis(frame[0], -1, 0)[:3] if self._samples > 1 else frame[..., 0]
        return self._held[(self._chosen, *box.slices)]

    def close(self) -> None:
        """Close the file and let go of the frame."""
        self._held = None
        self._stack.close()

    def _choose(self, path: str, wanted: Wanted) -> None:
        if self._samples > 1 and self._optical > 1:
            reason = f"the ND2 has {self._optical} channels of {self._samples} samples"
            raise InputError(path, reason, "export one as TIFF")
        if self._samples in {3, 4}:
            self._names: tuple[str, ...] = RGB
        else:
            count = self._optical
            self._names = ("gray",) if count == 1 else tuple(str(index) for index in range(count))
        self._chosen, self._channel = pick_channels(path, wanted, self._names)
        self.channels = self._chosen.stop - self._chosen.start


def _pixel_size(file: Any) -> PixelSize | None:
    """The voxel size, where the file says that it was calibrated; without calibration it is 1.0."""
    try:
        calibrated = file.metadata.channels[0].volume.axesCalibrated[:2]
        voxel = file.voxel_size()
    except (AttributeError, IndexError, TypeError, ValueError, NotImplementedError):
        return None
    return believable(float(voxel.y), float(voxel.x), "ND2 voxel size") if all(calibrated) else None
