"""FITS by region through astropy, compressed images too."""

from __future__ import annotations

import contextlib
import threading
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.sources.bounds import bound_chunk, bound_shape
from microseg_ray.sources.choices import Parts, Wanted, pick_channels, pick_page
from microseg_ray.sources.extras import required
from microseg_ray.sources.remote import byte_size, is_url, open_binary
from microseg_ray.sources.scale.pixel_size import PixelSize, believable, micrometres

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.info import Format

__all__ = ["FitsPixels"]

_ADVICE = "the file is damaged; copy it again"


class FitsPixels:
    """An image of a FITS file, in the order of the file: the first row is y = 0.

    Every header unit that is a 2D image or a 3D cube is a page; the planes of a cube are channels. BSCALE and BZERO are
    applied (FITS standard 4.0, section 4.4.2.5), so that unsigned integers come out as such.

    Args:
        path: The file; a path or a URL.
        wanted: Page and channel.

    Raises:
        InputError: Damaged, truncated, without an image, or astropy is not installed.
    """

    format: Format = "fits"
    lazy = True

    def __init__(self, path: str, wanted: Wanted) -> None:
        fits: Any = required(path, "FITS", "astropy.io.fits", "fits")
        self._path, self._lock = path, threading.Lock()
        with contextlib.ExitStack() as stack:
            source = stack.enter_context(contextlib.closing(open_binary(path))) if is_url(path) else path
            # Regions are read with seeks: a mapping's pages would count as this process's memory.
            with _strict():
                units = stack.enter_context(fits.open(source, memmap=False, mode="readonly"))
                images = [
                    unit for unit in units if getattr(unit, "is_image", False) and unit.header.get("NAXIS", 0) >= 2
                ]
            if not images:
                raise InputError(path, "the FITS file holds no image", "tables and spectra cannot be segmented")
            page = pick_page(path, wanted, len(images))
            self._unit = images[page]
            self._read_header(page, len(images), wanted)
            self._stack = stack.pop_all()

    def read(self, box: Box) -> NDArray[Any]:
        """A fresh array (channels, y, x)."""
        with self._lock, _strict():
            pixels = np.asarray(self._unit.section[(*self._lead, *box.slices)])
        return pixels.reshape(self.channels, *box.shape)

    def close(self) -> None:
        """Close the file."""
        self._stack.close()

    def _read_header(self, page: int, pages: int, wanted: Wanted) -> None:
        header, shape = self._unit.header, tuple(int(size) for size in self._unit.shape)
        self.shape = (shape[-2], shape[-1])
        bound_shape(self._path, self.shape)
        lead = shape[:-2]
        if sum(size != 1 for size in lead) > 1:
            raise InputError(self._path, f"the image has {len(shape)} axes, {shape}", "export one image or one cube")
        count = int(np.prod(lead, dtype=object)) if lead else 1
        names = ("gray",) if count == 1 else tuple(str(index) for index in range(count))
        chosen, channel = pick_channels(self._path, wanted, names)
        self.channels = chosen.stop - chosen.start
        self._lead = [slice(0, 1) if size == 1 else chosen for size in lead]
        self.parts = Parts(page, pages, channel, names)
        if hasattr(self._unit, "tile_shape"):
            tile = int(np.prod(self._unit.tile_shape, dtype=object)) * abs(int(header["BITPIX"])) // 8
            bound_chunk(self._path, tile, "one tile", "save it with smaller tiles")
            self.decoded_bytes = tile
        else:
            self._check_length(count * abs(int(header["BITPIX"])) // 8)
            self.decoded_bytes = 0
        with _strict():
            self.dtype = np.dtype(self._unit.section[(*(slice(0, 1) for _ in lead), slice(0, 1), slice(0, 1))].dtype)
        self.pixel_size = _pixel_size(header)

    def _check_length(self, bytes_a_pixel: int) -> None:
        start = int(self._unit.fileinfo()["datLoc"])
        end, size = start + self.shape[0] * self.shape[1] * bytes_a_pixel, byte_size(self._path)
        if end > size:
            reason = f"the file is truncated: the pixels end at byte {end}, the file at {size}"
            raise InputError(self._path, reason, "copy it again from the camera")


@contextlib.contextmanager
def _strict() -> Any:
    """What astropy warns of is checked here, or does not touch the pixels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _pixel_size(header: Any) -> PixelSize | None:
    """CDELT, where CUNIT is a length: on the sky it is an angle, and without a unit it says nothing."""
    sizes = []
    for axis in (2, 1):
        try:
            size = micrometres(abs(float(header[f"CDELT{axis}"])), str(header[f"CUNIT{axis}"]))
        except (KeyError, TypeError, ValueError):
            return None
        sizes.append(size)
    return believable(sizes[0], sizes[1], "FITS CDELT1")
