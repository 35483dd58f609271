"""The guards that every format shares: sizes that a header may claim, and errors of libraries as `InputError`."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAX_CHUNK_BYTES",
    "MAX_DECODED_BYTES",
    "MAX_PIXELS",
    "bound_decoded",
    "bound_ratio",
    "bound_shape",
    "reading",
]

MAX_PIXELS = 1 << 38
"""Maximum pixels of a micrograph (a square of 524 288); a header with more is damaged or hostile."""

MAX_DECODED_BYTES = 8 << 30
"""Bytes that an open micrograph may hold where its format cannot be read by region."""

MAX_CHUNK_BYTES = 1 << 30
"""Bytes of the largest tile, strip or chunk of a file that is read by region."""

_BOMB_FLOOR = 256 << 20  # below this a high compression ratio is a blank image, not a bomb


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
    except InputError:
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
        InputError: A side is zero, or there are more than `MAX_PIXELS` pixels.

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
    if height * width > MAX_PIXELS:
        raise InputError(
            path, f"the header claims {claim}, more than {MAX_PIXELS}", "the header is damaged; copy the file again"
        )


def bound_decoded(path: str, nbytes: int, what: str) -> None:
    """Refuse to hold more than `MAX_DECODED_BYTES` for an image that cannot be read by region.

    Raises:
        InputError: It is more.

    Example:
        >>> bound_decoded("a.png", 1 << 20, "PNG")
    """
    if nbytes > MAX_DECODED_BYTES:
        raise InputError(
            path,
            f"{what} can only be decoded whole, which takes {nbytes / 2**30:.1f} GiB (allowed: {MAX_DECODED_BYTES >> 30})",
            "save it as a tiled TIFF or OME-Zarr, which are read by region",
        )


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
