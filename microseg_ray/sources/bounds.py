"""The guards that every format shares: sizes that a header may claim, and errors of libraries as `InputError`."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError, ObjectStoreError
from microseg_ray.settings.source import SourceSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "bound_chunk",
    "bound_decoded",
    "bound_metadata",
    "bound_ratio",
    "bound_shape",
    "limits",
    "limits_of",
    "reading",
]

_BOMB_FLOOR = 256 << 20  # below this a high compression ratio is a blank image, not a bomb
# Readers are called through libraries, so the limits of a job do not travel as arguments.
_limits: ContextVar[SourceSettings | None] = ContextVar("limits", default=None)


def limits() -> SourceSettings:
    """The settings whose limits apply to the file that is opened now; the defaults outside of `limits_of`.

    Example:
        >>> limits().max_decoded_gib
        8.0
    """
    return _limits.get() or SourceSettings()


@contextmanager
def limits_of(source: SourceSettings | None) -> Iterator[None]:
    """Open files under the limits of these settings inside the block.

    Example:
        >>> with limits_of(SourceSettings(max_decoded_gib=1)):
        ...     limits().max_decoded_gib
        1.0
    """
    token = _limits.set(source)
    try:
        yield
    finally:
        _limits.reset(token)


@contextmanager
def reading(path: str, what: str) -> Iterator[None]:
    """Turn whatever a library raises on a bad file into an `InputError`.

    Example:
        >>> with reading("a.tif", "the tile at (0, 0) cannot be decoded"):
        ...     raise KeyError("no codec")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.tif: the tile at (0, 0) cannot be decoded (KeyError: 'no codec'); ...
    """
    try:
        yield
    except (InputError, ObjectStoreError):
        raise
    except FileNotFoundError as error:
        raise InputError(path, "no such file or folder", "check the path") from error
    except PermissionError as error:
        raise InputError(path, "the file may not be read", "check its permissions") from error
    except MemoryError as error:
        raise InputError(
            path, f"{what}: not enough memory", "save it tiled, so that it can be read by region"
        ) from error
    except Exception as error:
        # Decoders raise many exception types on damaged bytes, and the job must continue with the other files.
        text = " ".join(str(error).split())[:200]
        reason = f"{what} ({type(error).__name__}: {text})"
        raise InputError(
            path, reason, "the file is damaged or unusual; copy it again, or save it again as TIFF"
        ) from error


def bound_shape(path: str, shape: tuple[int, int]) -> None:
    """Refuse an empty image and one larger than any microscope makes.

    Raises:
        InputError: A side is zero, or there are more than `source.max_pixels` pixels.

    Example:
        >>> bound_shape("a.tif", (0, 7))
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.tif: the image has 0 x 7 (height x width) pixels; ...
    """
    height, width = shape
    claim = f"{height} x {width} (height x width) pixels"
    if min(shape) < 1:
        raise InputError(path, f"the image has {claim}", "export it again; there is nothing to segment")
    most = limits().max_pixels
    if height * width > most:
        raise InputError(
            path,
            f"the header claims {claim}, more than {most}",
            "the header is damaged: copy the file again; or raise source.max_pixels",
        )


def bound_decoded(path: str, nbytes: int, what: str) -> None:
    """Refuse to hold more than `source.max_decoded_gib` for an image that cannot be read by region.

    Raises:
        InputError: It is more.

    Example:
        >>> bound_decoded("a.png", 1 << 20, "PNG")
    """
    most = limits().max_decoded_gib
    if nbytes > most * 2**30:
        raise InputError(
            path,
            f"{what} can only be decoded whole, which takes {nbytes / 2**30:.1f} GiB (allowed: {most:g})",
            "save it as a tiled TIFF or OME-Zarr, which are read by region; or raise source.max_decoded_gib",
        )


def bound_chunk(path: str, nbytes: int, what: str, advice: str) -> None:
    """Refuse a tile, strip or chunk of more than `source.max_chunk_gib`.

    Raises:
        InputError: It is more.

    Example:
        >>> bound_chunk("a.tif", 1 << 20, "one tile", "save it with smaller tiles")
    """
    most = limits().max_chunk_gib
    if nbytes > most * 2**30:
        raise InputError(path, f"{what} takes {nbytes / 2**30:.1f} GiB (allowed: {most:g})", advice)


def bound_metadata(path: str, nbytes: int, what: str) -> None:
    """Refuse metadata of more than `source.max_metadata_mib`, before they are read.

    Raises:
        InputError: It is more.

    Example:
        >>> bound_metadata("a.tif", 1 << 30, "the tag 270")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.tif: the tag 270 claims 1024 MiB of metadata (allowed: 64); ...
    """
    most = limits().max_metadata_mib
    if nbytes > most * 2**20:
        reason = f"{what} claims {nbytes / 2**20:.0f} MiB of metadata (allowed: {most:g})"
        raise InputError(path, reason, "save the image again without them; or raise source.max_metadata_mib")


def bound_ratio(path: str, decoded: int, stored: int, most: float, what: str) -> None:
    """Refuse a few stored bytes that claim to be a large image: damaged, or a decompression bomb.

    Args:
        path: For the message.
        decoded: Bytes that the header claims.
        stored: Bytes in the file.
        most: The ratio that the codec can reach.
        what: What is claimed so large.

    Raises:
        InputError: More than 256 MiB are claimed, at a ratio above `most`.

    Example:
        >>> bound_ratio("a.tif", decoded=1 << 30, stored=1 << 29, most=1100, what="the strip")
    """
    if decoded > _BOMB_FLOOR and decoded > most * stored:
        raise InputError(
            path,
            f"{what} claims {decoded / 2**20:.0f} MiB of pixels from {stored} bytes; no such compression exists",
            "the header is damaged; copy the file again",
        )
