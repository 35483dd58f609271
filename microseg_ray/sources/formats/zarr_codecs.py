"""Chunks of foreign zarr arrays, decoded up to the size that the array states for them.

zarr's and numcodecs' own decoders write what a chunk contains into memory, and compare its size afterwards: a chunk of some
megabytes can become hundreds of gigabytes.
"""

from __future__ import annotations

import asyncio
import bz2
import copy
import gzip
import io
import lzma
import math
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numcodecs
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, GzipCodec, ShardingCodec, ZstdCodec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zarr.abc.codec import Codec
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

__all__ = ["bounded", "decoded"]

_SLACK = 4096  # a checksum, or the index of a shard
_FILTERS_WIDEN = 8  # packbits makes a byte of a bit; none of numcodecs' filters widens more
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_STANDARD = {GzipCodec: "gzip", ZstdCodec: "zstd", BloscCodec: "blosc"}


def bounded(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array for reading, whose chunks are decoded up to their own size.

    Of version 2 or 3, sharded or not. Bounded are gzip, zlib, bz2, lzma, zstd, blosc and lz4; other codecs (checksums,
    filters) decode as they do.

    Args:
        array: As opened.

    Example:
        >>> import numpy as np
        >>> made = zarr.create_array({}, data=np.arange(6).reshape(2, 3))
        >>> bounded(made)[1].tolist()
        [3, 4, 5]
    """
    own = array.async_array
    # The metadata themselves refuse changes, and their classes cannot be built from their own fields.
    metadata = copy.copy(own.metadata)
    if metadata.zarr_format == 2:
        compressor = metadata.compressor
        if compressor is not None:
            most = _most(array.chunks, array.dtype.itemsize * (_FILTERS_WIDEN if metadata.filters else 1))
            object.__setattr__(metadata, "compressor", _Bounded(compressor, most))
    else:
        object.__setattr__(metadata, "codecs", tuple(_bounded_codec(codec) for codec in metadata.codecs))
    return zarr.Array(type(own)(metadata, own.store_path, own.config))


def decoded(config: Mapping[str, Any], content: bytes, most: int) -> bytes:
    """The bytes of a compressed chunk.

    Args:
        config: A codec as numcodecs writes it: its `id` and its parameters.
        content: The compressed chunk.
        most: It is refused where it has more bytes.

    Raises:
        ValueError: It decodes to more, or is damaged.

    Example:
        >>> decoded({"id": "zlib"}, zlib.compress(bytes(1000)), 1000) == bytes(1000)
        True
        >>> decoded({"id": "zlib"}, zlib.compress(bytes(1001)), 1000)
        Traceback (most recent call last):
            ...
        ValueError: it decodes to more than the 1000 bytes of its chunk
    """
    match config["id"]:
        case "gzip":
            with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
                found = file.read(most + 1)
        case "zlib":
            found = zlib.decompressobj().decompress(content, most + 1)
        case "bz2":
            found = bz2.BZ2Decompressor().decompress(content, most + 1)
        case "lzma":
            reader = lzma.LZMADecompressor(config.get("format", lzma.FORMAT_XZ), filters=config.get("filters"))
            found = reader.decompress(content, most + 1)
        case name:
            # These state the size, and their decoders write no more than that.
            stated = _STATED[name](content) if name in _STATED else 0
            if stated is None:
                return _unsized_zstd(content, most)
            if stated > most:
                raise _more(most)
            codec: Any = numcodecs.get_codec(dict(config))
            return bytes(codec.decode(content))
    if len(found) > most:
        raise _more(most)
    return found


@dataclass(frozen=True)
class _BoundedBytes(BytesBytesCodec):
    """A codec of a version 3 array, for reading.

    Attributes:
        config: Its equal in numcodecs.
    """

    is_fixed_size = False
    config: Mapping[str, Any]

    async def _decode_single(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        most = _most(chunk_spec.shape, int(chunk_spec.dtype.item_size))  # type: ignore[attr-defined]
        found = await asyncio.to_thread(decoded, self.config, chunk_bytes.to_bytes(), most)
        return chunk_spec.prototype.buffer.from_bytes(found)

    def compute_encoded_size(self, _input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        raise NotImplementedError


class _Bounded:
    """The compressor of a version 2 array, for reading."""

    def __init__(self, codec: Any, most: int) -> None:
        self.codec_id = codec.codec_id
        self._config, self._most = codec.get_config(), most

    def decode(self, content: Any) -> bytes:
        return decoded(self._config, bytes(content), self._most)


def _bounded_codec(codec: Codec) -> Codec:
    if isinstance(codec, ShardingCodec):
        inner = [_bounded_codec(part) for part in codec.codecs]
        return ShardingCodec(
            chunk_shape=codec.chunk_shape,
            codecs=inner,
            index_codecs=codec.index_codecs,
            index_location=codec.index_location,
        )
    if type(codec) in _STANDARD:
        return _BoundedBytes({"id": _STANDARD[type(codec)]})
    config = getattr(codec, "codec_config", None)  # of those from numcodecs
    return _BoundedBytes(config) if config and isinstance(codec, BytesBytesCodec) else codec


def content_size(frame: bytes) -> int | None:
    r"""The size that the header of a zstd frame states (RFC 8878, section 3.1.1.1), None where it states none.

    Example:
        >>> content_size(b"\x28\xb5\x2f\xfd\x20\x07")
        7
    """
    if frame[:4] != _ZSTD_MAGIC or len(frame) < 5:
        return None
    flags = frame[4]
    single, form = flags >> 5 & 1, flags >> 6
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    width = (1 if single else 0, 2, 4, 8)[form]
    field = frame[start : start + width]
    if not width or len(field) < width:
        return None
    value = int.from_bytes(field, "little")
    return value + 256 if width == 2 else value


def _unsized_zstd(content: bytes, most: int) -> bytes:
    import imagecodecs

    try:
        return bytes(imagecodecs.zstd_decode(content, out=bytearray(most)))
    except imagecodecs.ZstdError as error:
        raise ValueError(f"the chunk is damaged, or {_more(most)} ({error})") from error


# Blosc's header has the size after four bytes of versions and flags; numcodecs' LZ4 begins with it.
_STATED: dict[str, Callable[[bytes], int | None]] = {
    "zstd": content_size,
    "blosc": lambda content: int.from_bytes(content[4:8], "little"),
    "lz4": lambda content: int.from_bytes(content[:4], "little"),
}


def _most(shape: tuple[int, ...], item_size: int) -> int:
    return math.prod(shape) * item_size + _SLACK


def _more(most: int) -> ValueError:
    return ValueError(f"it decodes to more than the {most} bytes of its chunk")
