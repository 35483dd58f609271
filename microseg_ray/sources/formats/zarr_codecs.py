"""zarr's gzip and zstd codecs, which stop where a chunk decodes to more than its array says.

zarr's own write what the chunk contains into memory, and compare its size afterwards: a chunk of some megabytes can become
hundreds of gigabytes.
"""

from __future__ import annotations

import gzip
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import zarr
from zarr.codecs import GzipCodec, ZstdCodec
from zarr.registry import register_codec

if TYPE_CHECKING:
    from zarr.core.array_spec import ArraySpec
    from zarr.core.buffer import Buffer

__all__ = ["BoundedGzip", "BoundedZstd", "bound_codecs"]

_SLACK = 4096  # a checksum, or the index of a shard
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class BoundedGzip(GzipCodec):
    """gzip that is unpacked up to the size of the chunk.

    Raises:
        ValueError: There is more.
    """

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        most = _most(chunk_spec)
        with gzip.GzipFile(fileobj=io.BytesIO(chunk_bytes.to_bytes())) as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise _more(most)
        return chunk_spec.prototype.buffer.from_bytes(content)


@dataclass(frozen=True)
class BoundedZstd(ZstdCodec):
    """zstd whose frame says that it holds no more than the chunk.

    Raises:
        ValueError: It holds more, or does not say (and then the stream ends beyond it).
    """

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> Buffer:
        most, content = _most(chunk_spec), chunk_bytes.to_bytes()
        size = content_size(content)
        if size is not None and size > most:
            raise _more(most)
        if size is not None:
            # numcodecs allocates what the first frame says, and libzstd writes no more than that.
            return super()._decode_sync(chunk_bytes, chunk_spec)
        import imagecodecs

        try:
            decoded = imagecodecs.zstd_decode(content, out=bytearray(most))
        except imagecodecs.ZstdError as error:
            raise ValueError(f"the chunk is damaged, or {_more(most)} ({error})") from error
        return chunk_spec.prototype.buffer.from_bytes(bytes(decoded))


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


def bound_codecs() -> None:
    """Let zarr read with these codecs in this process; what it writes is the same as before."""
    for name, cls in (("gzip", BoundedGzip), ("zstd", BoundedZstd)):
        register_codec(name, cls)
        zarr.config.set({f"codecs.{name}": f"{cls.__module__}.{cls.__qualname__}"})


def _most(chunk: Any) -> int:
    return int(math.prod(chunk.shape)) * int(chunk.dtype.item_size) + _SLACK


def _more(most: int) -> ValueError:
    return ValueError(f"it decodes to more than the {most} bytes of its chunk")
