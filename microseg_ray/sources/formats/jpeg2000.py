"""JPEG 2000, decoded whole by imagecodecs: gray or RGB, up to 16 bits."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.sources.base import without_alpha
from microseg_ray.sources.bounds import bound_decoded, bound_ratio, bound_shape
from microseg_ray.sources.formats.raster import WholePixels
from microseg_ray.sources.remote import byte_size, open_binary

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.sources.choices import Wanted

__all__ = ["open_jpeg2000"]

_HEAD_BYTES = 1 << 20
_SIZ = b"\xff\x4f\xff\x51"  # start of the codestream, then the marker of its size
_MAX_RATIO = 1e5


def open_jpeg2000(path: str, wanted: Wanted) -> WholePixels:
    """A JP2 file or a bare codestream.

    Raises:
        InputError: Damaged, signed, deeper than 16 bits, or it is to be a mask.
    """
    if wanted.labels:
        raise InputError(path, "a JPEG 2000 may have changed labels by its compression", "save it as PNG or TIFF")
    with open_binary(path) as file:
        head = file.read(_HEAD_BYTES)
    start = head.find(_SIZ)
    if start < 0 or len(head) < start + 45:
        raise InputError(path, "the JPEG 2000 has no image header", "the file is damaged; copy it again")
    x1, y1, x0, y0 = struct.unpack_from(">4I", head, start + 8)
    (samples, depth) = struct.unpack_from(">HB", head, start + 40)
    shape, bits = (y1 - y0, x1 - x0), (depth & 0x7F) + 1
    bound_shape(path, shape)
    if depth & 0x80 or bits > 16:
        kind = f"{bits}-bit {'signed' if depth & 0x80 else 'unsigned'}"
        raise InputError(path, f"the JPEG 2000 holds {kind} samples", "save it as 8-bit or 16-bit TIFF")
    dtype = np.dtype(np.uint8 if bits <= 8 else np.uint16)
    nbytes = shape[0] * shape[1] * samples * dtype.itemsize
    bound_decoded(path, nbytes, "a JPEG 2000")
    bound_ratio(path, nbytes, byte_size(path), _MAX_RATIO, "the header")
    pixels = WholePixels(path, "jpeg2000", shape, without_alpha(samples), dtype, wanted, lambda: _decode(path))
    pixels.bits = bits if bits not in {8, 16} else None
    return pixels


def _decode(path: str) -> NDArray[Any]:
    import imagecodecs

    with open_binary(path) as file:
        content = file.read()
    decoded: NDArray[Any] = imagecodecs.jpeg2k_decode(content)
    return decoded
