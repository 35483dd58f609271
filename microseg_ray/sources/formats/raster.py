"""PNG, JPEG and BMP: decoded whole, once, and held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile

from microseg_ray.errors import InputError
from microseg_ray.sources.base import equal_channels, without_alpha
from microseg_ray.sources.bounds import bound_decoded, bound_ratio, bound_shape, reading
from microseg_ray.sources.choices import RGB, Parts, Wanted, pick_channels, pick_page
from microseg_ray.sources.formats.headers import check_png_chunks
from microseg_ray.sources.remote import byte_size, open_binary

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from PIL.ImageFile import ImageFile

    from microseg_ray.geometry import Box
    from microseg_ray.sources.info import Format
    from microseg_ray.sources.scale.pixel_size import PixelSize

__all__ = ["WholePixels", "bounded", "open_bmp", "open_jpeg", "open_png", "orientation_of"]

_HEADER_BYTES, _IHDR_DEPTH, _IHDR_COLOR = 33, 24, 25
_GRAY, _PALETTE = 0, 3
_ORIENTATION = 274
_CHUNKS_BYTES = 4096  # of a PNG that are searched for small chunks
_MAX_RATIO = 1100  # deflate reaches 1032, and JPEG about as much
_MAX_BMP_RATIO = 600  # run-length encoding: 255 pixels from two bytes, as RGB


class WholePixels:
    """An image that can only be decoded whole: gray at its first read, RGB when it is opened (is it gray?).

    Args:
        path: For messages.
        format: The file's format.
        shape: (height, width).
        samples: Samples a pixel, alpha not counted.
        dtype: Of the decoded samples.
        wanted: Which channel.
        decode: Returns (y, x) or (y, x, sample); what follows the first `samples` is dropped.

    Raises:
        InputError: The size is absurd, or RGB data are damaged.
    """

    lazy = False
    pixel_size: PixelSize | None = None
    orientation = 1
    bits: int | None = None

    def __init__(
        self,
        path: str,
        format: Format,  # noqa: A002 - the name of the attribute in MicrographInfo
        shape: tuple[int, int],
        samples: int,
        dtype: np.dtype[Any],
        wanted: Wanted,
        decode: Callable[[], NDArray[Any]],
    ) -> None:
        self._path, self._decode = path, decode
        self.format: Format = format
        names = ("gray",) if samples == 1 else RGB
        self._chosen, channel = pick_channels(path, wanted, names)
        self.parts = Parts(pick_page(path, wanted, 1), 1, channel, names)
        self.shape, self.channels, self.dtype = shape, self._chosen.stop - self._chosen.start, dtype
        self._held: NDArray[Any] | None = None
        if self.channels == 3:
            held = self._whole()
            if equal_channels(held):
                self._held = held[:1].copy()
                self.channels = 1
        self.decoded_bytes = shape[0] * shape[1] * self.channels * dtype.itemsize

    def read(self, box: Box) -> NDArray[Any]:
        """A view (channels, y, x) of the decoded image."""
        return self._whole()[(..., *box.slices)]

    def close(self) -> None:
        """Let go of the decoded image."""
        self._held = None

    def _whole(self) -> NDArray[Any]:
        if self._held is None:
            with reading(self._path, "the image cannot be decoded"):
                pixels = self._decode()
                pixels = pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, -1, 0)[self._chosen]
            if pixels.shape[1:] != self.shape or pixels.dtype != self.dtype:
                raise InputError(
                    self._path, f"the image decoded to {pixels.shape} {pixels.dtype}", "the file is damaged"
                )
            self._held = np.ascontiguousarray(pixels)
        return self._held


def open_png(path: str, wanted: Wanted) -> WholePixels:
    """A PNG of any kind; 16-bit samples stay 16-bit.

    Args:
        path: The file.
        wanted: As labels, palette indices and the stored numbers of 1, 2 and 4-bit gray are kept, instead of intensities.
    """
    labels = wanted.labels
    with open_binary(path) as file:
        head = file.read(_HEADER_BYTES)
        if len(head) < _HEADER_BYTES:
            reason = f"the file is truncated: it ends after {len(head)} bytes, inside the header"
            raise InputError(path, reason, "copy it again from the microscope")
        depth, color = head[_IHDR_DEPTH], head[_IHDR_COLOR]
        check_png_chunks(path, file)
        file.seek(0)
        image = PngImageFile(file)
        shape = bounded(path, image, 2 if depth == 16 else 1, "PNG")
        orientation = orientation_of(image)
        bits = _significant_bits(path)
    stored = {0: 1, 2: 3, 3: 3, 4: 2, 6: 4}[color]
    samples = 1 if labels and color == _PALETTE else without_alpha(stored)
    dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)
    deep = depth == 16 and color != _GRAY
    pixels = WholePixels(
        path, "png", shape, samples, dtype, wanted,
        lambda: _decode_png_deep(path) if deep else _decode_png(path, depth, labels),
    )  # fmt: skip
    pixels.orientation = orientation
    pixels.bits = bits if bits is not None and bits < 8 * dtype.itemsize else None
    return pixels


def open_jpeg(path: str, wanted: Wanted) -> WholePixels:
    """A gray or colour JPEG; CMYK is refused, its colours depend on a printer.

    Raises:
        InputError: It is to be a mask.
    """
    if wanted.labels:
        raise InputError(path, "a JPEG cannot hold a mask, its compression changes labels", "save it as PNG or TIFF")
    with open_binary(path) as file:
        image = JpegImageFile(file)
        shape = bounded(path, image, 1, "JPEG")
        if image.mode not in {"L", "RGB"}:
            raise InputError(path, f"the JPEG is {image.mode}, made for print", "save it as gray or RGB")
        samples = len(image.getbands())
        orientation = orientation_of(image)
    pixels = WholePixels(path, "jpeg", shape, samples, np.dtype(np.uint8), wanted, lambda: _decode_jpeg(path))
    pixels.orientation = orientation
    return pixels


def open_bmp(path: str, wanted: Wanted) -> WholePixels:
    """A BMP of 1, 4, 8, 24 or 32 bits a pixel; palettes are looked up, except for a mask."""
    with open_binary(path) as file:
        image = BmpImageFile(file)
        shape = bounded(path, image, 1, "BMP", _MAX_BMP_RATIO)
        if image.mode not in {"1", "L", "P", "RGB", "RGBA"}:
            raise InputError(path, f"a BMP of the kind {image.mode} is not supported", "save it as gray or RGB")
        samples = 3 if image.mode in {"RGB", "RGBA"} or (image.mode == "P" and not wanted.labels) else 1
    return WholePixels(
        path, "bmp", shape, samples, np.dtype(np.uint8), wanted, lambda: _decode_bmp(path, labels=wanted.labels)
    )


def orientation_of(image: ImageFile) -> int:
    """The Exif orientation of an open image, 1 where it has none; its pixels are not decoded.

    Args:
        image: Of Pillow; of a PNG only the chunks before the pixels are read.
    """
    if not ({"exif", "Raw profile type exif"} & set(image.info)):
        return 1
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _significant_bits(path: str) -> int | None:
    """The chunk sBIT of a PNG: the most bits that a channel uses."""
    with open_binary(path) as file:
        head = file.read(_CHUNKS_BYTES)
    place = head.find(b"sBIT")
    if place < 4 or place > head.find(b"IDAT") > 0:
        return None
    length = int.from_bytes(head[place - 4 : place], "big")
    values = head[place + 4 : place + 4 + length]
    return max(values) if 1 <= length <= 4 and values else None


def bounded(path: str, image: ImageFile, itemsize: int, what: str, ratio: float = _MAX_RATIO) -> tuple[int, int]:
    """The (height, width) of an open image, refused where it is absurd.

    Raises:
        InputError: It is empty, or larger than may be held, or than its file can hold.
    """
    # The plugin classes are called directly: Image.open has a limit of its own, which is global and far too low for us.
    width, height = image.size
    bound_shape(path, (height, width))
    nbytes = height * width * len(image.getbands()) * itemsize
    bound_decoded(path, nbytes, f"a {what}")
    bound_ratio(path, nbytes, byte_size(path), ratio, "the header")
    return height, width


def _decode_png(path: str, depth: int, labels: bool) -> NDArray[Any]:
    with open_binary(path) as file:
        image = PngImageFile(file)
        if image.mode == "P":
            # RGBA, because Pillow warns when it drops a palette's transparency.
            return np.asarray(image if labels else image.convert("RGBA"))
        if image.mode == "1":
            return np.asarray(image.convert("L")) // np.uint8(255 if labels else 1)
        pixels = np.asarray(image)
    if labels and depth < 8 and pixels.ndim == 2:
        # Pillow stretches 2 and 4 bits to 0..255.
        pixels = pixels // np.uint8(255 // (2**depth - 1))
    return pixels


def _decode_png_deep(path: str) -> NDArray[Any]:
    # Pillow cuts 16-bit colour down to 8 bits, libpng does not.
    import imagecodecs

    with open_binary(path) as file:
        content = file.read()
    decoded: NDArray[Any] = imagecodecs.png_decode(content)
    return decoded


def _decode_jpeg(path: str) -> NDArray[Any]:
    with open_binary(path) as file:
        return np.asarray(JpegImageFile(file))


def _decode_bmp(path: str, *, labels: bool) -> NDArray[Any]:
    with open_binary(path) as file:
        image = BmpImageFile(file)
        if image.mode == "P":
            return np.asarray(image if labels else image.convert("RGB"))
        if image.mode == "1":
            return np.asarray(image.convert("L")) // np.uint8(255 if labels else 1)
        return np.asarray(image)
