"""Probability maps as other programs and our own runs leave them: CSV, npy, TIFF, zarr; read by region."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.sources.base import Closing

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.sources.base import Micrograph

__all__ = ["MAP_SUFFIXES", "PROBABILITY_SLACK", "ProbabilityMap", "open_map"]

PROBABILITY_SLACK = 1e-3  # averaged probabilities in half precision leave 0 to 1 by less
MAP_SUFFIXES = (".csv", ".txt", ".npy", ".tif", ".tiff", ".btf", ".zarr")
"""Suffixes that a folder of maps is searched for."""

_MAX_TEXT_BYTES = 4 << 30
_ADVICE = "save probabilities as float32 TIFF, npy or zarr"


class ProbabilityMap(Closing):
    """An open map of one class's probabilities; made by `open_map`, a context manager.

    Attributes:
        path: Where it comes from.
        shape: (height, width) in pixels.
        pixel_size_um: (y, x), or None where the file does not say.
        pixel_size_source: Which entry of the file says so.
    """

    def __init__(self, path: str, pixels: Any, channel: int | None, micrograph: Micrograph | None = None) -> None:
        self.path = path
        self._pixels, self._micrograph = pixels, micrograph
        shape = tuple(pixels.shape)
        if len(shape) not in {2, 3}:
            raise InputError(path, f"the map has shape {shape}; it must be (y, x) or (channel, y, x)", _ADVICE)
        channels = shape[0] if len(shape) == 3 else 1
        if channel is None and channels > 1:
            raise InputError(
                path, f"the map holds {channels} channels", f"say which with --channel 0 to {channels - 1}"
            )
        if channel is not None and channel >= channels:
            raise InputError(path, f"the map has no channel {channel}; it holds {channels}", "count from 0")
        if 0 in shape:
            raise InputError(path, f"the map is empty: shape {shape}", _ADVICE)
        self._index: tuple[int, ...] = () if len(shape) == 2 else (channel or 0,)
        self.shape: tuple[int, int] = (int(shape[-2]), int(shape[-1]))
        info = None if micrograph is None else micrograph.info
        self.pixel_size_um = None if info is None else info.pixel_size_um
        self.pixel_size_source = "" if info is None else info.pixel_size_source

    def read(self, box: Box) -> NDArray[Any]:
        """Values of a region, (y, x), in the file's own dtype.

        Raises:
            InputError: The data are damaged.
        """
        if self._micrograph is not None:
            found: NDArray[Any] = self._micrograph.read(box)[self._index[0]]
            return found
        return np.asarray(self._pixels[(*self._index, *box.slices)])

    def close(self) -> None:
        """Release file handles."""
        if self._micrograph is not None:
            self._micrograph.close()


def open_map(path: str | os.PathLike[str], channel: int | None = None) -> ProbabilityMap:
    """Open a probability map.

    Args:
        path: CSV or text (numbers in lines, separated by comma, semicolon or blanks, as `numpy.savetxt` writes), npy, TIFF, a
            zarr array, or the mask store of a run that was segmented with `extra: probabilities`.
        channel: Which of several channels; None where there is one.

    Raises:
        InputError: Missing, damaged, no numbers, or no map.

    Example:
        >>> import tempfile
        >>> from microseg_ray.geometry import Box
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.savetxt(f"{folder}/a.csv", [[0.25, 0.5]])
        ...     with open_map(f"{folder}/a.csv") as found:
        ...         found.shape, found.read(Box(0, 0, 1, 2)).tolist()
        ((1, 2), [[0.25, 0.5]])
    """
    name = str(path)
    place = Path(path)
    if not place.exists():
        raise InputError(name, "no such file or folder", "check the path")
    suffix = place.suffix.lower()
    if place.is_dir():
        pixels: Any = _zarr_array(name)
    elif suffix in {".csv", ".txt"}:
        pixels = _text(place)
    elif suffix == ".npy":
        try:
            pixels = np.load(place, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise InputError(name, f"is no npy file of numbers ({error})", _ADVICE) from error
    else:
        return _of_micrograph(name, channel)
    if pixels.dtype.kind not in "uif":
        raise InputError(name, f"values are {pixels.dtype}, not numbers", _ADVICE)
    return ProbabilityMap(name, pixels, channel)


class _Shape:
    """The shape of a micrograph, channels first, where an array's is asked for."""

    def __init__(self, channels: int, shape: tuple[int, int]) -> None:
        self.shape = (channels, *shape)


def _of_micrograph(name: str, channel: int | None) -> ProbabilityMap:
    from microseg_ray.sources.opening import open_micrograph

    micrograph = open_micrograph(name)
    try:
        info = micrograph.info
        return ProbabilityMap(name, _Shape(info.channels, info.shape), channel, micrograph)
    except BaseException:
        micrograph.close()
        raise


def _zarr_array(name: str) -> Any:
    import zarr

    from microseg_ray.sources.formats.zarr_codecs import bounded

    try:
        node = zarr.open(name, mode="r")
        if isinstance(node, zarr.Group):
            if "probabilities" not in node:
                raise InputError(
                    name,
                    "this zarr group holds no array `probabilities`",
                    "segment with --extra probabilities, or give an array",
                )
            node = cast("zarr.Array[Any]", node["probabilities"])
    except (FileNotFoundError, KeyError, TypeError) as error:
        raise InputError(name, f"is no zarr array ({error})", _ADVICE) from error
    return bounded(node)


def _text(path: Path) -> NDArray[np.float64]:
    if path.stat().st_size > _MAX_TEXT_BYTES:
        raise InputError(path, f"is a text of {path.stat().st_size / 1e9:.1f} GB", _ADVICE)
    try:
        with path.open(encoding="utf-8") as handle:
            first = handle.readline()
        comma = next((sign for sign in ",;" if sign in first), None)
        return np.loadtxt(path, delimiter=comma, ndmin=2, encoding="utf-8")
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(
            path, f"is no table of numbers ({error})", "one line of numbers for each row of pixels"
        ) from error
