"""Micrograph: one image file behind one interface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from microseg_ray.errors import InputError, StalledInputError
from microseg_ray.geometry import Box
from microseg_ray.sources.bounds import reading
from microseg_ray.sources.info import MicrographInfo
from microseg_ray.sources.patience import patience, within
from microseg_ray.sources.scale.provenance import with_pixel_size
from microseg_ray.sources.scale.statement import Statement

if TYPE_CHECKING:
    from types import TracebackType

    from numpy.typing import NDArray

    from microseg_ray.settings import SourceSettings
    from microseg_ray.sources.choices import Parts
    from microseg_ray.sources.info import Format
    from microseg_ray.sources.scale.pixel_size import PixelSize

__all__ = ["Closing", "Micrograph", "Pixels", "equal_channels", "without_alpha"]

_GRAY_CHECK_BYTES = 16 << 20  # an RGB file up to this size is checked whole when it is opened
_GRAY_WINDOWS, _GRAY_WINDOW = 3, 64
_DTYPES = {"uint8", "int16", "uint16", "uint32", "float32"}
_DTYPE_ADVICE = {
    "bool": "save it as 8-bit gray; if it is a mask, give it as one",
    "int8": "save it as 8-bit unsigned gray",
    "int32": "save it as 16-bit gray, or as 32-bit float",
    "float16": "save it as 32-bit float",
    "float64": "save it as 32-bit float",
}


class Pixels(Protocol):
    """What a family of formats provides: numbers by region, alpha already dropped, palettes already looked up."""

    format: Format
    shape: tuple[int, int]
    channels: int
    dtype: np.dtype[Any]
    lazy: bool
    decoded_bytes: int
    pixel_size: PixelSize | None
    parts: Parts

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a box inside the micrograph: (channels, y, x), possibly a view, in any byte order."""
        ...

    def close(self) -> None:
        """Release file handles and memory; twice is fine."""
        ...


class Closing:
    """A context manager that closes itself."""

    def close(self) -> None:
        """Release file handles and memory; twice is fine."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Micrograph(Closing):
    """An open micrograph; made by `open_micrograph`, used in the process that opened it, a context manager.

    Args:
        path: Where the pixels come from, for messages.
        pixels: The reader of the file's format.
        source: The pixel size and the info bar that the user gives; the defaults where None.

    Raises:
        InputError: The dtype is none that a model can see, or the shape is not believable.

    Example:
        >>> import tempfile, pathlib, numpy as np
        >>> from PIL import Image
        >>> from microseg_ray.sources import open_micrograph
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.png"
        ...     Image.fromarray(np.arange(12, dtype=np.uint8).reshape(3, 4)).save(path)
        ...     with open_micrograph(path) as micrograph:
        ...         micrograph.info.shape, micrograph.read(Box(1, 1, 3, 3)).tolist()
        ((3, 4), [[[5, 6], [9, 10]]])
    """

    def __init__(self, path: str, pixels: Pixels, source: SourceSettings | None = None) -> None:
        self._path, self._pixels = path, pixels
        self._seconds, self._stalled = patience(source), False
        dtype = pixels.dtype.newbyteorder("=").name
        if dtype not in _DTYPES:
            advice = _DTYPE_ADVICE.get(dtype, "save it as 8-bit or 16-bit gray or RGB, or as 32-bit float")
            raise InputError(
                path, f"pixels are {dtype}; micrographs are uint8, int16, uint16, uint32 or float32", advice
            )
        # An RGB file that shows gray is one channel; lazily read files are sampled here and checked at each read.
        self._gray_rgb = pixels.channels == 3 and self._looks_gray()
        info = MicrographInfo(
            path=path,
            format=pixels.format,
            shape=pixels.shape,
            channels=1 if self._gray_rgb else pixels.channels,
            dtype=dtype,
            pixel_size_um=None,
            pixel_size_source="",
            lazy=pixels.lazy,
            decoded_bytes=pixels.decoded_bytes,
            parts=pixels.parts,
            bits=getattr(pixels, "bits", None),
            notes=(*getattr(pixels, "notes", ()), *filter(None, [pixels.parts.note])),
        )
        # Only some formats state more than a pixel size.
        bar, notes = getattr(pixels, "stated_bar", None), getattr(pixels, "size_notes", ())
        self.info = with_pixel_size(info, source, Statement(pixels.pixel_size, bar, notes))

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels of a region.

        Args:
            box: A box inside the micrograph.

        Returns:
            A fresh array (channels, y, x) of the micrograph's dtype, in native byte order and C order.

        Raises:
            InputError: The data are damaged; hold NaN or infinity (it says where); or an RGB file that was taken for
                gray is coloured in this region.
            ValueError: The box leaves the micrograph.
        """
        if not Box.of_shape(self.info.shape).contains(box):
            raise ValueError(f"{self._path}: {box} leaves the micrograph of {self.info.shape} (height, width)")
        raw = self._read_raw(box)
        if self._gray_rgb:
            self._require_gray(raw, box)
            raw = raw[:1]
        pixels = np.array(raw, dtype=self.info.dtype, order="C", copy=True)
        if pixels.dtype.kind == "f":
            self._require_finite(pixels, box)
        return pixels

    def close(self) -> None:
        """Release file handles and memory; twice is fine."""
        # A thread that waits for the file may hold its locks for ever.
        if not self._stalled:
            self._pixels.close()

    def _read_raw(self, box: Box) -> NDArray[Any]:
        shape = (self._pixels.channels, *box.shape)
        if box.area == 0:
            return np.empty(shape, self._pixels.dtype)
        with reading(self._path, f"rows {box.y0} to {box.y1 - 1}, columns {box.x0} to {box.x1 - 1} cannot be read"):
            raw = self._within(box)
        if raw.shape != shape:
            raise InputError(self._path, f"{box} was read as {raw.shape}, not {shape}", "the file is damaged")
        return raw

    def _within(self, box: Box) -> NDArray[Any]:
        try:
            return within(self._seconds, self._path, lambda: self._pixels.read(box))
        except StalledInputError:
            self._stalled = True
            raise

    def _looks_gray(self) -> bool:
        height, width = self._pixels.shape
        nbytes = height * width * 3 * self._pixels.dtype.itemsize
        if not self._pixels.lazy or nbytes <= _GRAY_CHECK_BYTES:
            return equal_channels(self._read_raw(Box(0, 0, height, width)))
        return all(
            equal_channels(self._read_raw(Box(y0, x0, min(y0 + _GRAY_WINDOW, height), min(x0 + _GRAY_WINDOW, width))))
            for y0 in _spread(height, _GRAY_WINDOWS, _GRAY_WINDOW)
            for x0 in _spread(width, _GRAY_WINDOWS, _GRAY_WINDOW)
        )

    def _require_gray(self, raw: NDArray[Any], box: Box) -> None:
        if equal_channels(raw):
            return
        differs = np.argwhere((raw[0] != raw[1]) | (raw[1] != raw[2]))[0]
        y, x = box.y0 + int(differs[0]), box.x0 + int(differs[1])
        raise InputError(
            self._path,
            f"the RGB image looked gray when it was opened, but is coloured at (y, x) = ({y}, {x}) in {box}",
            "remove coloured labels from the image, or convert it to gray",
        )

    def _require_finite(self, pixels: NDArray[Any], box: Box) -> None:
        finite = np.isfinite(pixels).all(axis=0)
        if finite.all():
            return
        y, x = (int(value) for value in np.argwhere(~finite)[0])
        value = next(float(v) for v in pixels[:, y, x] if not np.isfinite(v))
        raise InputError(
            self._path,
            f"the intensity at (y, x) = ({box.y0 + y}, {box.x0 + x}) is {value}",
            "replace NaN and infinity by measured values, or crop them away",
        )


def equal_channels(pixels: NDArray[Any]) -> bool:
    """Whether all channels of a (channels, y, x) array are equal, that is, whether it shows gray.

    Example:
        >>> equal_channels(np.zeros((3, 2, 2))), equal_channels(np.arange(3).reshape(3, 1, 1))
        (True, False)
    """
    # NaN equals NaN here, so that a float file says "NaN at ..." and not "coloured".
    nan = pixels.dtype.kind == "f"
    return all(np.array_equal(pixels[0], other, equal_nan=nan) for other in pixels[1:])


def without_alpha(samples: int) -> int:
    """How many of a pixel's samples are intensities: gray + alpha is 1, RGB + alpha is 3.

    Example:
        >>> [without_alpha(samples) for samples in (1, 2, 3, 4)]
        [1, 1, 3, 3]
    """
    return samples - (samples in {2, 4})


def _spread(length: int, count: int, size: int) -> list[int]:
    """Starts of `count` windows of `size`, evenly spread over an axis; fewer where it is short."""
    count = max(1, min(count, length // size))
    room = max(0, length - size)
    return [0] if count == 1 else [room * index // (count - 1) for index in range(count)]
