"""MRC and CCP4 maps through mrcfile, permissive: sections by region, with the axes in the order that the header names."""

from __future__ import annotations

import contextlib
import struct
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.sources.bounds import bound_shape
from microseg_ray.sources.choices import Parts, Wanted, pick_channels, pick_page
from microseg_ray.sources.extras import required
from microseg_ray.sources.remote import byte_size, is_url, open_binary, scratch_copy
from microseg_ray.sources.scale.pixel_size import PixelSize, believable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.info import Format

__all__ = ["MrcPixels"]

_HEADER = 1024
_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}
_AXES = (1, 2, 3)
_FEI_EXTENDED, _FEI_PIXEL_SIZE = 128 << 10, 44  # bytes of FEI's extended header, and where its pixel size lies
_PLACEHOLDER = 1.0  # angstroms a pixel: what writers put where they know none
_DAMAGED = "the file is damaged; copy it again"


class MrcPixels:
    """A section of an MRC file; every section along the z axis is a page.

    The header says which axis columns, rows and sections run along (`mapc`, `mapr`, `maps`): x is read as columns and y as
    rows. The first row is y = 0.

    Args:
        path: The file; a URL is copied first.
        wanted: Page and channel.

    Raises:
        InputError: Damaged, truncated, of complex numbers, or mrcfile is not installed.
    """

    format: Format = "mrc"
    lazy = True
    decoded_bytes = 0

    def __init__(self, path: str, wanted: Wanted) -> None:
        self._lock = threading.Lock()
        _check(path)
        library: Any = required(path, "MRC", "mrcfile", "em")
        with contextlib.ExitStack() as stack:
            local = stack.enter_context(scratch_copy(path, ".mrc")) if is_url(path) else path
            with warnings.catch_warnings():
                # A permissive reader warns of what it forgives; what matters here is checked above.
                warnings.simplefilter("ignore")
                file = stack.enter_context(library.mmap(local, mode="r", permissive=True))
            header = file.header
            data = file.data
            if data is None or data.ndim not in {2, 3}:
                raise InputError(path, "the MRC file holds no image and no stack of images", _DAMAGED)
            stored = data[None] if data.ndim == 2 else data
            if _unsigned(header, stored):
                stored = stored.view(np.uint8)
            order = tuple(int(header[name]) for name in ("maps", "mapr", "mapc"))
            order = order if tuple(sorted(order)) == _AXES else (3, 2, 1)
            # Axes of the array by the direction that they run along.
            self._data = stored.transpose([order.index(axis) for axis in (3, 2, 1)])
            self.shape, self.dtype = (int(self._data.shape[1]), int(self._data.shape[2])), np.dtype(self._data.dtype)
            bound_shape(path, self.shape)
            pages = int(self._data.shape[0])
            self._page = pick_page(path, wanted, pages)
            _, channel = pick_channels(path, wanted, ("gray",))
            self.channels, self.parts = 1, Parts(self._page, pages, channel)
            self.pixel_size, self.size_notes = _pixel_size(header, file.extended_header)
            self.notes = () if order == (3, 2, 1) else (f"stored with maps, mapr, mapc = {order}, and read as z, y, x",)
            self._stack = stack.pop_all()

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels (1, y, x)."""
        with self._lock:
            return np.array(self._data[self._page][box.slices])[None]

    def close(self) -> None:
        """Close the file."""
        self._data = np.empty((0, 0, 0))
        self._stack.close()


def _check(path: str) -> None:
    """Refuse a header that claims more than the file holds."""
    with open_binary(path) as file:
        head = file.read(_HEADER)
    if len(head) < _HEADER:
        reason = f"the file is truncated: it ends after {len(head)} bytes, inside the header"
        raise InputError(path, reason, "copy it again from the microscope")
    order = "<" if struct.unpack_from("<i", head, 12)[0] in range(256) else ">"
    columns, rows, sections, mode = struct.unpack_from(f"{order}4i", head)
    (extended,) = struct.unpack_from(f"{order}i", head, 92)
    bound_shape(path, (rows, columns))
    if mode not in _BYTES or mode in {3, 4}:
        raise InputError(path, f"MRC mode {mode} is not supported", "save it as mode 0, 1, 2 or 6")
    end, size = _HEADER + extended + columns * rows * sections * _BYTES[mode], byte_size(path)
    if sections < 1 or extended < 0 or end > size:
        raise InputError(path, f"the file is truncated: the pixels end at byte {end}, the file at {size}", _DAMAGED)


def _unsigned(header: Any, stored: NDArray[Any]) -> bool:
    """Whether bytes are unsigned: IMOD's stamp, with its flag for signed bytes not set."""
    extra = bytes(header["extra2"])
    stamp, flags = struct.unpack_from("<2i", extra, 152 - 112) if len(extra) >= 48 else (0, 0)
    return stored.dtype == np.int8 and stamp == 1146047817 and not flags & 1


def _pixel_size(header: Any, extended: Any) -> tuple[PixelSize | None, tuple[str, ...]]:
    """The cell over its intervals along y and x, in angstroms; or FEI's extended header, in metres."""
    content = bytes(np.asarray(extended).tobytes())
    if len(content) == _FEI_EXTENDED:
        (size,) = struct.unpack_from("<f", content, _FEI_PIXEL_SIZE)
        if found := believable(size * 1e6, size * 1e6, "MRC FEI pixel size"):
            return found, ()
    lengths = [(float(header["cella"][axis]), int(header[f"m{axis}"])) for axis in "yx"]
    if any(length <= 0 or intervals <= 0 for length, intervals in lengths):
        return None, ()
    sizes = [length / intervals for length, intervals in lengths]
    if all(abs(size - _PLACEHOLDER) < 1e-6 for size in sizes):
        return None, ("MRC cell says 1 angstrom a pixel, which writers put where they know none: not used",)
    return believable(sizes[0] * 1e-4, sizes[1] * 1e-4, "MRC axis scale"), ()
