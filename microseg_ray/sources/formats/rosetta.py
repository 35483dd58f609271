"""Electron microscopes' own formats through rosettasciio: Gatan DM3 and DM4, EMD (Velox, NCEM), FEI SER, MRC."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import struct
import threading
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.sources.bounds import MAX_CHUNK_BYTES, bound_decoded, bound_shape
from microseg_ray.sources.choices import RGB, Parts, Wanted, pick_channels, pick_page
from microseg_ray.sources.extras import required
from microseg_ray.sources.remote import byte_size, is_url, open_binary, scratch_copy
from microseg_ray.sources.scale.pixel_size import PixelSize, believable, micrometres

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.info import Format

__all__ = ["RosettaPixels", "microscope_format"]

_MRC_HEADER = 1024
_MRC_BYTES = {0: 1, 1: 2, 2: 4, 3: 4, 4: 8, 6: 2, 12: 2}
_DAMAGED = "the file is damaged; copy it again"


def microscope_format(head: bytes) -> Format | None:
    r"""The format of a file by its first 256 bytes, None where it is none of these.

    Example:
        >>> microscope_format(b"\0\0\0\x03" + b"\0\0\x10\0" + b"\0\0\0\x01")
        'dm3'
    """
    if head[:4] == b"\0\0\0\x03" and head[8:12] in {b"\0\0\0\0", b"\0\0\0\x01"}:
        return "dm3"
    if head[:4] == b"\0\0\0\x04" and head[12:16] in {b"\0\0\0\0", b"\0\0\0\x01"}:
        return "dm4"
    if head[:4] == b"II\x97\x01":
        return "ser"
    if head[:8] == b"\x89HDF\r\n\x1a\n":
        return "emd"
    # The map format keeps its name behind the numbers.
    return "mrc" if head[208:212] in {b"MAP ", b"MAP\0"} else None


@dataclass(frozen=True)
class _Page:
    """One 2D image of a file: the array that holds it, its place in it, which axes are y and x, and their scales."""

    array: Any
    place: tuple[int, ...]
    yx: tuple[int, int]
    axes: tuple[Any, Any]


class RosettaPixels:
    """An image of an electron microscope's file.

    Every 2D image is a page: frames, tilts, scan positions and detectors each by itself; spectra are left out.

    Args:
        path: The file; a URL is copied first, because the library wants a path.
        wanted: Page and channel.
        kind: The format.

    Raises:
        InputError: Damaged, truncated, without an image, or rosettasciio is not installed.
    """

    def __init__(self, path: str, wanted: Wanted, kind: Format) -> None:
        self.format: Format = kind
        self._path, self._lock = path, threading.Lock()
        with contextlib.ExitStack() as stack:
            local = stack.enter_context(scratch_copy(path, f".{kind}")) if is_url(path) else path
            signals, self.lazy = _load(path, local, kind)
            pages = list(_pages(signals))
            if not pages:
                raise InputError(path, f"the {kind.upper()} file holds no image", "spectra cannot be segmented")
            index = pick_page(path, wanted, len(pages))
            self._page = pages[index]
            self._read_header(index, len(pages), wanted)
            self.pixel_size = _pixel_size(self._page, kind)
            self._stack = stack.pop_all()

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels (channels, y, x)."""
        page = self._page
        index: list[Any] = list(page.place)
        for axis, part in sorted(zip(page.yx, box.slices, strict=True)):
            index.insert(axis, part)
        with self._lock, _quiet():
            part = page.array[tuple(index)]
            pixels = np.asarray(part.compute(scheduler="synchronous") if hasattr(part, "compute") else part)
        if page.yx[0] > page.yx[1]:
            pixels = pixels.T
        if pixels.dtype.names is None:
            return pixels[None]
        return np.stack([pixels[name] for name in ("R", "G", "B")[self._chosen]])

    def close(self) -> None:
        """Let go of the file."""
        self._page = _Page(None, (), (0, 1), ({}, {}))
        # Lazy arrays hold the file in reference cycles.
        gc.collect()
        self._stack.close()

    def _read_header(self, index: int, pages: int, wanted: Wanted) -> None:
        array, yx = self._page.array, self._page.yx
        self.shape = (int(array.shape[yx[0]]), int(array.shape[yx[1]]))
        bound_shape(self._path, self.shape)
        colour = array.dtype.names is not None
        if colour and not {"R", "G", "B"} <= set(array.dtype.names):
            raise InputError(self._path, f"pixels are {array.dtype}", "export the image as TIFF")
        names = RGB if colour else ("gray",)
        self._chosen, channel = pick_channels(self._path, wanted, names)
        self.channels = self._chosen.stop - self._chosen.start
        self.dtype = np.dtype(np.uint8) if colour else np.dtype(array.dtype)
        self.parts = Parts(index, pages, channel, names)
        if not self.lazy:
            self.decoded_bytes = int(array.nbytes)
            bound_decoded(self._path, self.decoded_bytes, f"a {self.format.upper()}")
            return
        # Plain numbers are mapped; HDF5 is read by chunk.
        chunk = math.prod(max(sizes) for sizes in array.chunks) * self.dtype.itemsize if self.format == "emd" else 0
        self.decoded_bytes = chunk
        if chunk > MAX_CHUNK_BYTES:
            raise InputError(self._path, f"one chunk takes {chunk / 2**30:.1f} GiB", "export the image as tiled TIFF")


def _load(path: str, local: str, kind: Format) -> tuple[Sequence[dict[str, Any]], bool]:
    """What rosettasciio reads, and whether its arrays are lazy."""
    with _quiet():
        match kind:
            case "mrc":
                order = _check_mrc(path)
                reader = required(path, "MRC", "rsciio.mrc", "em")
                return _mended_mrc(reader.file_reader(local, lazy=True, **order), big=bool(order)), True
            case "ser":
                # The package's own entry point goes by the suffix.
                reader = required(path, "SER", "rsciio.tia._api", "em")
                return reader.ser_reader(local, lazy=False), False
            case "emd":
                required(path, "EMD", "h5py", "em")
                reader = required(path, "EMD", "rsciio.emd", "em")
                return reader.file_reader(local, lazy=True, select_type="images"), True
            case _:
                reader = required(path, kind.upper(), "rsciio.digitalmicrograph", "em")
                try:
                    return reader.file_reader(local, lazy=True), True
                except ValueError as error:
                    if "RGBA" not in str(error):
                        raise
                    return reader.file_reader(local, lazy=False), False


def _check_mrc(path: str) -> dict[str, str]:
    """Refuse a header that claims more than the file holds; the byte order as the library's option."""
    with open_binary(path) as file:
        head = file.read(_MRC_HEADER)
    if len(head) < _MRC_HEADER:
        reason = f"the file is truncated: it ends after {len(head)} bytes, inside the header"
        raise InputError(path, reason, "copy it again from the microscope")
    order = ">" if head[212:214] == b"\x11\x11" else "<"
    columns, rows, sections, mode = struct.unpack_from(f"{order}4i", head)
    (extended,) = struct.unpack_from(f"{order}i", head, 92)
    bound_shape(path, (rows, columns))
    if mode not in _MRC_BYTES:
        raise InputError(path, f"MRC mode {mode} is not supported", "save it as mode 0, 1, 2 or 6")
    end, size = _MRC_HEADER + extended + columns * rows * sections * _MRC_BYTES[mode], byte_size(path)
    if sections < 1 or extended < 0 or end > size:
        raise InputError(path, f"the file is truncated: the pixels end at byte {end}, the file at {size}", _DAMAGED)
    return {} if order == "<" else {"endianness": order}


def _mended_mrc(signals: Sequence[dict[str, Any]], *, big: bool) -> Sequence[dict[str, Any]]:
    """The library says 1 nm a pixel where there is no cell, which nobody measured, and reads all pixels as little-endian."""
    for signal in signals:
        if big:
            signal["data"] = signal["data"].view(signal["data"].dtype.newbyteorder(">"))
        header = signal["original_metadata"].get("std_header", {})
        known = all(float(np.ravel(header.get(key, 0))[0]) > 0 for key in ("MX", "MY", "Xlen", "Ylen"))
        for axis in signal["axes"] if not known and "fei_header" not in signal["original_metadata"] else ():
            axis["units"] = None
    return signals


def _pages(signals: Sequence[dict[str, Any]]) -> Any:
    """The 2D images of the signals, in the order of the file."""
    for signal in signals:
        array, axes = signal["data"], signal["axes"]
        spatial = [place for place, axis in enumerate(axes) if not axis.get("navigate", False)]
        if len(spatial) == 1 or array.ndim < 2 or array.ndim != len(axes):
            continue
        y, x = spatial if len(spatial) == 2 else (array.ndim - 2, array.ndim - 1)
        others = [range(size) for place, size in enumerate(array.shape) if place not in {y, x}]
        for place in itertools.product(*others):
            yield _Page(array, place, (y, x), (axes[y], axes[x]))


def _pixel_size(page: _Page, kind: Format) -> PixelSize | None:
    """The scale of the y and x axes where their unit is a length; diffraction patterns have none."""
    sizes = []
    for axis in page.axes:
        # NCEM's EMD writes [n_m] for nm.
        unit = str(axis.get("units") or "").strip("[]").replace("_", "")
        sizes.append(micrometres(abs(float(axis.get("scale") or 0)), unit))
    return believable(sizes[0], sizes[1], f"{kind.upper()} axis scale")


@contextlib.contextmanager
def _quiet() -> Any:
    """The library leaves handles to the garbage collector, and warns of what does not touch the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
