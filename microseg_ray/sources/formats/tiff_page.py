"""One image of a TIFF by region: memory-mapped where the pixels lie plain in the file, else by strip or tile."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources.base import equal_channels
from microseg_ray.sources.bounds import bound_chunk, bound_decoded, bound_ratio, bound_shape
from microseg_ray.sources.choices import RGB, Wanted, pick_channels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["TiffPage"]

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_JPEG = frozenset({6, 7})
_PLAIN = 1
_BILEVEL = frozenset({2, 3, 4})
# The ratio that each codec can reach at most; codecs that are not here are refused.
_BAND_ROWS = 256
_MAX_RATIO = {
    1: 8, 2: 1e5, 3: 1e5, 4: 1e5, 5: 2000, 6: 1100, 7: 1100, 8: 1100, 32773: 130, 32946: 1100, 33003: 1e5, 33004: 1e5,
    33005: 1e5, 34712: 1e5, 34887: 1e5, 34925: 1e5, 34926: 1e5, 50000: 1e5, 50001: 1e5, 50002: 1e5,
}  # fmt: skip
_ALPHA = frozenset({1, 2})  # of ExtraSamples: associated and unassociated alpha
_SAVE = "save it as an uncompressed, LZW or deflate TIFF in gray or RGB"


class TiffPage:
    """One directory of a TIFF.

    Args:
        path: The file, for messages.
        file: The open file.
        page: Its directory, as tifffile read it.
        wanted: Channel, and whether it is a mask.
        shift: Images after the directory's own at which the pixels lie, in a stack with one directory.

    Attributes:
        names: Channels of the directory, alpha not counted.
        channel: Index of the channel that is read, None for all.

    Raises:
        InputError: Damaged, truncated, not an image of intensities, or an absurd size.
    """

    def __init__(self, path: str, file: Any, page: Any, wanted: Wanted, shift: int = 0) -> None:
        self._path, self._file, self._page, self._lock = path, file, page, threading.Lock()
        self._whole: NDArray[Any] | None = None
        self._layout: tuple[np.dtype[Any], int] | None = None
        self._local = bool(file.filehandle.is_file)
        self._read_header(wanted)
        self._check_segments(shift)
        if not self.lazy and self.channels == 3:
            self._decode_rgb()

    def read(self, box: Box) -> NDArray[Any]:
        """Pixels (channels, y, x) of a box; a view where they are memory-mapped or held."""
        if self._layout is not None:
            read = self._read_mapped if self._local else self._read_rows
            return self._present(read(box, *self._layout))
        if self.lazy:
            return self._present(self._read_segments(box))
        if self._whole is None:
            self._whole = self._present(self._read_segments(Box.of_shape(self.shape)))
        return self._whole[(..., *box.slices)]

    def close(self) -> None:
        """Let go of what is held."""
        self._whole = None

    def _read_header(self, wanted: Wanted) -> None:
        page, labels = self._page, wanted.labels
        planes, depth, height, width, contiguous = page.shaped
        self.shape = (height, width)
        bound_shape(self._path, self.shape)
        if page.dtype is None or not isinstance(page.bitspersample, int):
            raise InputError(self._path, f"{page.bitspersample}-bit samples are not supported", _SAVE)
        if depth != 1 or (planes > 1 and contiguous > 1):
            raise InputError(self._path, f"the page is a volume of shape {page.shape}", "save one section as a 2D TIFF")
        self._samples = planes * contiguous
        self._planes = planes
        self._stored_dtype = np.dtype(page.dtype)
        self._palette = None if labels else self._color_map()
        self._inverted = int(page.photometric) == _WHITE_IS_ZERO and not labels and self._stored_dtype.kind == "u"
        self._check_kind(labels)
        self.dtype = self._stored_dtype if self._palette is None else np.dtype(np.uint8)
        self.names = self._channel_names()
        self._chosen, self.channel = pick_channels(self._path, wanted, self.names)
        self.channels = self._chosen.stop - self._chosen.start

    def _check_kind(self, labels: bool) -> None:
        page, photometric, compression = self._page, int(self._page.photometric), int(self._page.compression)
        if compression not in _MAX_RATIO:
            name = getattr(page.compression, "name", compression)
            raise InputError(self._path, f"TIFF compression {name} is not supported", _SAVE)
        color = photometric == _RGB or (photometric == _YCBCR and compression in _JPEG)
        gray = photometric in {_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE}
        if not (color and self._samples >= 3) and not gray:
            name = getattr(page.photometric, "name", photometric)
            raise InputError(self._path, f"{self._samples} samples a pixel of kind {name} are not an image", _SAVE)
        if not labels and page.bitspersample < 8:
            raise InputError(self._path, f"the image has {page.bitspersample} bit a pixel", "save it as 8-bit gray")
        if compression in _BILEVEL and page.bitspersample != 1:
            raise InputError(self._path, "fax compression with more than 1 bit a pixel", _SAVE)

    def _channel_names(self) -> tuple[str, ...]:
        """The samples that are intensities."""
        if self._palette is not None:
            return RGB if self._palette.shape[0] == 3 else ("gray",)
        alpha = bool(self._page.extrasamples) and int(self._page.extrasamples[-1]) in _ALPHA
        if int(self._page.photometric) in {_RGB, _YCBCR}:
            # A fourth sample of RGB is alpha, whether or not the file says so.
            more = self._samples - 3 - (alpha or self._samples == 4)
            return (*RGB, *(str(3 + index) for index in range(more)))
        count = self._samples - alpha
        return ("gray",) if count == 1 else tuple(str(index) for index in range(count))

    def _color_map(self) -> NDArray[np.uint8] | None:
        """The palette as (1 or 3, entries) 8-bit intensities, None where there is none."""
        if int(self._page.photometric) != _PALETTE:
            return None
        entries = self._page.colormap
        if entries is None or self._stored_dtype != np.uint8 or self._samples != 1 or entries.shape != (3, 256):
            raise InputError(self._path, "the palette does not fit the image", "save it as gray or RGB")
        # The specification says 16-bit entries; some programs write 8-bit ones.
        palette = (entries >> 8 if entries.max() > 255 else entries).astype(np.uint8)
        shown: NDArray[np.uint8] = palette[:1] if equal_channels(palette) else palette
        return shown

    def _check_segments(self, shift: int) -> None:
        """Everything that the header claims about where the pixels lie, before any is read or allocated."""
        page = self._page
        height, width = self.shape
        if page.is_tiled:
            self._step = (int(page.tilelength), int(page.tilewidth))
        else:
            self._step = (min(int(page.rowsperstrip), height), width)
        self._grid = (-(-height // self._step[0]), -(-width // self._step[1]))
        count = self._grid[0] * self._grid[1] * self._planes
        segment = self._step[0] * self._step[1] * (self._samples // self._planes) * self._stored_dtype.itemsize
        # Plain Python integers: a forged 64-bit offset would wrap around in numpy.
        self._offsets, self._counts = page.dataoffsets, page.databytecounts
        self._check_ranges(count)
        ratio = _MAX_RATIO[int(page.compression)]
        bound_ratio(self._path, segment * count, sum(self._counts), ratio, "the header")
        bound_ratio(self._path, segment, max(self._counts), ratio, "one tile or strip")
        if page.is_memmappable if self._local else self._is_plain():
            self._find_plain(page.dataoffsets[0] + shift * page.nbytes)
            self.lazy, self.decoded_bytes = True, 0
            return
        if shift:
            raise InputError(
                self._path, f"image {shift} of the stack cannot be found", "save it one directory an image"
            )
        self.lazy = self._grid != (1, 1)
        total = height * width * self.channels * self.dtype.itemsize
        self.decoded_bytes = segment if self.lazy else total
        if not self.lazy:
            bound_decoded(self._path, max(total, segment * count), "a compressed TIFF of one strip")
        else:
            advice = "save it as a tiled TIFF with tiles of 256 to 2048 px; or raise source.max_chunk_gib"
            bound_chunk(self._path, segment, "one tile or strip", advice)

    def _check_ranges(self, count: int) -> None:
        offsets, counts, size = self._offsets, self._counts, self._file.filehandle.size
        what = "tile" if self._page.is_tiled else "strip"
        if len(offsets) < count or len(counts) < count:
            reason = f"the header lists {min(len(offsets), len(counts))} of {count} {what}s"
            raise InputError(self._path, reason, "the file is damaged; copy it again")
        for index in range(count):
            if counts[index] < 1 or offsets[index] < 1:
                reason = f"{what} {index} of {count} holds no data (byte count {counts[index]})"
                raise InputError(self._path, reason, "writing it was interrupted; export it again")
            if offsets[index] + counts[index] > size:
                reason = f"the file is truncated: {what} {index} of {count} ends at byte "
                reason += f"{offsets[index] + counts[index]}, the file at {size}"
                raise InputError(self._path, reason, "copy it again from the microscope")

    def _is_plain(self) -> bool:
        """Whether pixels follow each other as numbers; tifffile's `is_memmappable` is for local files only."""
        page = self._page
        whole = page.bitspersample in {8, 16, 32} and int(page.sampleformat) in {1, 2, 3}
        return bool(whole and int(page.compression) == _PLAIN and page.is_contiguous and int(page.fillorder) == 1)

    def _find_plain(self, offset: int) -> None:
        page, size = self._page, self._file.filehandle.size
        if offset + page.nbytes > size:
            reason = f"the file is truncated: the pixels end at byte {offset + page.nbytes}, the file at {size}"
            raise InputError(self._path, reason, "copy it again from the microscope")
        self._layout = (self._stored_dtype.newbyteorder(self._file.byteorder), offset)

    def _read_mapped(self, box: Box, dtype: np.dtype[Any], offset: int) -> NDArray[Any]:
        """(sample, y, x) of a box, through mappings that are dropped at once.

        Pages of a mapping that stays count as this process's memory for ever, and the kernel maps 64 KiB around each
        page that is touched: a band of rows at a time bounds that for wide micrographs.
        """
        out = np.empty((self._samples, *box.shape), dtype)
        planes = out.reshape(self._page.shaped[0], -1, *box.shape)
        for y0 in range(box.y0, box.y1, _BAND_ROWS):
            y1 = min(y0 + _BAND_ROWS, box.y1)
            mapped = np.memmap(self._path, mode="r", dtype=dtype, offset=offset, shape=self._page.shaped)
            planes[:, :, y0 - box.y0 : y1 - box.y0] = mapped[:, 0, y0:y1, box.x0 : box.x1].transpose(0, 3, 1, 2)
        return out

    def _read_rows(self, box: Box, dtype: np.dtype[Any], offset: int) -> NDArray[Any]:
        """(sample, y, x) of a box of a remote file: whole rows, a band of them at a time."""
        count, _, height, width, samples = self._page.shaped
        out = np.empty((self._samples, *box.shape), dtype)
        planes = out.reshape(count, samples, *box.shape)
        row = width * samples * dtype.itemsize
        for plane in range(count):
            for y0 in range(box.y0, box.y1, _BAND_ROWS):
                y1 = min(y0 + _BAND_ROWS, box.y1)
                data = self._fetch(offset + (plane * height + y0) * row, (y1 - y0) * row)
                band = np.frombuffer(data, dtype).reshape(y1 - y0, width, samples)
                planes[plane, :, y0 - box.y0 : y1 - box.y0] = band[:, box.x0 : box.x1].transpose(2, 0, 1)
        return out

    def _fetch(self, offset: int, count: int) -> bytes:
        with self._lock:
            self._file.filehandle.seek(offset)
            return bytes(self._file.filehandle.read(count))

    def _decode_rgb(self) -> None:
        whole = self.read(Box.of_shape(self.shape))
        if equal_channels(whole):
            self._whole = whole[:1].copy()
            self.channels = 1
            self.decoded_bytes = self._whole.nbytes

    def _present(self, stored: NDArray[Any]) -> NDArray[Any]:
        """What the file stores (samples, y, x) as what is asked for: palette looked up, black is zero, chosen channels."""
        if self._palette is not None:
            return self._palette[self._chosen, stored[0]]
        pixels = stored[self._chosen]
        return np.iinfo(pixels.dtype).max - pixels if self._inverted else pixels

    def _read_segments(self, box: Box) -> NDArray[Any]:
        out = np.empty((self._samples, *box.shape), self._stored_dtype.newbyteorder("="))
        contiguous = self._samples // self._planes
        for index, plane, frame in self._touching(box):
            segment = self._decode(index)
            part = frame.intersection(box)
            if segment.shape[0] < part.y1 - frame.y0 or segment.shape[1] < part.x1 - frame.x0:
                reason = f"the tile or strip at {frame} decoded to {segment.shape[:2]}"
                raise InputError(self._path, reason, "the file is damaged; copy it again")
            source = segment[part.relative_to(frame).slices]
            first = plane * contiguous
            out[(slice(first, first + contiguous), *part.relative_to(box).slices)] = source.transpose(2, 0, 1)
        return out

    def _touching(self, box: Box) -> Iterator[tuple[int, int, Box]]:
        """Index, plane and frame of the tiles or strips that hold pixels of a box."""
        (high, wide), (rows, columns) = self._step, self._grid
        planes = range(self._planes)
        # Of planes that are stored by themselves only those that are asked for are decoded.
        for plane in planes if self._planes == 1 else planes[self._chosen]:
            for row in range(box.y0 // high, -(-box.y1 // high)):
                for column in range(box.x0 // wide, -(-box.x1 // wide)):
                    frame = Box(row * high, column * wide, (row + 1) * high, (column + 1) * wide)
                    yield (plane * rows + row) * columns + column, plane, frame

    def _decode(self, index: int) -> NDArray[Any]:
        """One tile or strip as (y, x, sample)."""
        page = self._page
        data = self._fetch(self._offsets[index], self._counts[index])
        tables = (
            {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader} if int(page.compression) in _JPEG else {}
        )
        segment, _, _ = page.decode(data, index, **tables)
        if segment is None or segment.dtype.newbyteorder("=") != self._stored_dtype.newbyteorder("="):
            kind = "nothing" if segment is None else segment.dtype
            raise InputError(
                self._path, f"tile or strip {index} decoded to {kind}", "the file is damaged; copy it again"
            )
        decoded: NDArray[Any] = segment[0]
        return decoded
