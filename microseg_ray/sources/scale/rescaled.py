"""A micrograph at another pixel size, resampled as it is read.

A pixel of the rescaled micrograph depends on its place and on the file alone, never on which region it is read with, so that
tiles and shards of it fit without a seam. Shrinking averages over the pixels that fall together (a triangle filter as wide
as two of the new pixels, as in Pillow's and PyTorch's anti-aliased bilinear resampling), enlarging interpolates bilinearly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources.base import Micrograph, bound_shape
from microseg_ray.sources.scale.pixel_size import apart

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.sources.base import MicrographInfo

__all__ = ["Rescaled", "ScaleRule"]

_LARGEST = 8.0  # times: a model that needs finer pixels than that sees nothing but interpolation
_READ_PIXELS = 1 << 21  # pixels of the file that are read at a time


@dataclass(frozen=True)
class ScaleRule:
    """What happens to a micrograph whose pixel size is not the one that the model was trained at.

    Attributes:
        pixel_size_um: (y, x) that the model was trained at, None where it is not known.
        tolerance: The largest difference that counts as equal, as a share.
        mismatch: `stop`: the micrograph is refused; `rescale`: it is resampled to the trained pixel size; `ignore`.

    Example:
        >>> rule = ScaleRule((0.5, 0.5), tolerance=0.1, mismatch="rescale")
        >>> rule.differs((0.52, 0.5)), rule.differs((0.6, 0.5)), rule.differs(None)
        (False, True, False)
    """

    pixel_size_um: tuple[float, float] | None = None
    tolerance: float = 0.1
    mismatch: Literal["stop", "rescale", "ignore"] = "stop"

    def differs(self, size: tuple[float, float] | None) -> bool:
        """Whether both pixel sizes are known and differ by more than the tolerance."""
        return None not in {size, self.pixel_size_um} and self._apart(size) > self.tolerance

    def target(self, info: MicrographInfo) -> tuple[int, int] | None:
        """The (height, width) of the specimen at the trained pixel size; None where it is to be read as it is.

        Raises:
            InputError: The rule is `stop` and the pixel sizes differ; or rescaling would need more than 8 times as many
                pixels along an axis.
        """
        if self.mismatch == "ignore" or not self.differs(info.pixel_size_um):
            return None
        (y, x), trained = info.pixel_size_um or (1.0, 1.0), self.pixel_size_um or (1.0, 1.0)
        reason = (
            f"its pixels are {y:.4g} x {x:.4g} um ({info.pixel_size_source}), the model was trained at "
            f"{trained[0]:.4g} x {trained[1]:.4g} um"
        )
        if self.mismatch == "stop":
            advice = "set on_scale_mismatch to rescale (or ignore), correct the pixel size, or raise scale_tolerance"
            raise InputError(info.path, reason, advice)
        factors = (y / trained[0], x / trained[1])
        if max(factors) > _LARGEST:
            raise InputError(
                info.path, f"{reason}: too coarse to be rescaled", "take a micrograph at a higher magnification"
            )
        height, width = (
            max(1, round(side * factor)) for side, factor in zip(info.specimen.shape, factors, strict=True)
        )
        bound_shape(info.path, (height, width))
        return height, width

    def note(self, size: tuple[float, float] | None) -> str:
        """What is to be said of a micrograph that is read as it is; "" where there is nothing.

        Example:
            >>> ScaleRule((0.5, 0.5)).note(None)
            'pixel size unknown, so the scale is not checked against the 0.5 x 0.5 um that the model was trained at'
        """
        if self.pixel_size_um is None:
            return ""
        trained = f"the {self.pixel_size_um[0]:.4g} x {self.pixel_size_um[1]:.4g} um that the model was trained at"
        if size is None:
            return f"pixel size unknown, so the scale is not checked against {trained}"
        return f"pixel size {size[0]:.4g} x {size[1]:.4g} um is not {trained}" if self.differs(size) else ""

    def _apart(self, size: tuple[float, float] | None) -> float:
        return 0.0 if size is None or self.pixel_size_um is None else apart(size, self.pixel_size_um)


class Rescaled(Micrograph):
    """An open micrograph whose regions come resampled; specimen and info bar each by themselves.

    The new pixel size is that of the file times file pixels over new pixels, so that areas in um2 stay what they are.

    Args:
        micrograph: What it reads from, and closes.
        shape: (height, width) of its specimen after resampling.

    Example:
        >>> import tempfile, pathlib
        >>> from PIL import Image
        >>> from microseg_ray.sources import open_micrograph
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.png"
        ...     Image.fromarray(np.array([[0, 0, 8, 8]], np.uint8)).save(path)
        ...     with Rescaled(open_micrograph(path), (1, 8)) as micrograph:
        ...         micrograph.read(Box(0, 0, 1, 8)).tolist()
        [[[0, 0, 0, 2, 6, 8, 8, 8]]]
    """

    def __init__(self, micrograph: Micrograph, shape: tuple[int, int]) -> None:
        info = micrograph.info
        self._path, self._micrograph = info.path, micrograph
        specimen, size = info.specimen.shape, info.pixel_size_um
        bar = max(1, round(info.info_bar_rows * shape[0] / specimen[0])) if info.info_bar_rows else 0
        self.info = replace(
            info,
            shape=(shape[0] + bar, shape[1]),
            info_bar_rows=bar,
            file_shape=info.shape,
            pixel_size_um=None
            if size is None
            else (size[0] * specimen[0] / shape[0], size[1] * specimen[1] / shape[1]),
            pixel_size_source=f"{info.pixel_size_source}, rescaled" if info.pixel_size_source else "",
        )

    def read(self, box: Box) -> NDArray[Any]:
        """Resampled pixels of a region: (channels, y, x) of the file's type, integers rounded to the nearest.

        Args:
            box: A box inside the rescaled micrograph.

        Raises:
            InputError: As `Micrograph.read`.
            ValueError: The box leaves the micrograph.
        """
        if not Box.of_shape(self.info.shape).contains(box):
            raise ValueError(f"{self._path}: {box} leaves the micrograph of {self.info.shape} (height, width)")
        out = np.empty((self.info.channels, *box.shape), self.info.dtype)
        here, there = self.info.specimen, self._micrograph.info
        # The strip below is resampled by itself, so that none of it runs into the specimen.
        strips = (
            (here, there.specimen),
            (
                Box(here.y1, 0, self.info.shape[0], here.x1),
                Box(there.specimen.y1, 0, there.shape[0], there.shape[1]),
            ),
        )
        for strip, origin in strips:
            part = strip.intersection(box)
            if part.area:
                columns = _Taps(part.x0, part.x1, origin.width, strip.width)
                for y0, y1 in self._bands(part, strip, origin, columns):
                    rows = _Taps(y0 - strip.y0, y1 - strip.y0, origin.height, strip.height)
                    out[:, y0 - box.y0 : y1 - box.y0, part.x0 - box.x0 : part.x1 - box.x0] = self._resampled(
                        rows, columns, origin
                    )
        return out

    def close(self) -> None:
        """Release file handles and memory; twice is fine."""
        self._micrograph.close()

    @staticmethod
    def _bands(part: Box, strip: Box, origin: Box, columns: _Taps) -> list[tuple[int, int]]:
        """Rows that are made at a time, so that what is read for them does not grow with the factor."""
        wide = columns.stop - columns.start
        rows = max(1, int(_READ_PIXELS / wide * strip.height / origin.height))
        return [(y0, min(y0 + rows, part.y1)) for y0 in range(part.y0, part.y1, rows)]

    def _resampled(self, rows: _Taps, columns: _Taps, origin: Box) -> NDArray[Any]:
        box = Box(origin.y0 + rows.start, columns.start, origin.y0 + rows.stop, columns.stop)
        pixels = self._micrograph.read(box)
        # float32 holds 24 bits, which is not enough for 32-bit integers.
        kind = np.float64 if pixels.dtype.kind in "iu" and pixels.dtype.itemsize > 2 else np.float32
        values = columns.apply(rows.apply(pixels.astype(kind), axis=1), axis=2)
        if pixels.dtype.kind in "iu":
            limits = np.iinfo(pixels.dtype)
            values = np.clip(np.rint(values), limits.min, limits.max)
        resampled: NDArray[Any] = values.astype(pixels.dtype)
        return resampled


class _Taps:
    """Which pixels of an axis make up the new ones from `start` to `stop`, and by how much each counts."""

    def __init__(self, start: int, stop: int, length: int, new_length: int) -> None:
        ratio = length / new_length
        reach = max(1.0, ratio)
        centre = (np.arange(start, stop) + 0.5) * ratio - 0.5
        first = np.floor(centre - reach).astype(np.int64) + 1
        index = first[:, None] + np.arange(int(2 * reach) + 1)
        weights = np.maximum(0.0, 1.0 - np.abs(index - centre[:, None]) / reach)
        weights[(index < 0) | (index >= length)] = 0.0
        self._weights = weights / weights.sum(axis=1, keepdims=True)
        index = index.clip(0, length - 1)
        self.start, self.stop = int(index.min()), int(index.max()) + 1
        self._index = index - self.start

    def apply(self, values: NDArray[Any], axis: int) -> NDArray[Any]:
        """Values along an axis, resampled; term by term in one order, the same for a pixel in any region."""
        shape = [1] * values.ndim
        shape[axis] = -1
        total: NDArray[Any] | None = None
        for tap in range(self._index.shape[1]):
            weight = self._weights[:, tap].astype(values.dtype).reshape(shape)
            term = values.take(self._index[:, tap], axis=axis) * weight
            total = term if total is None else np.add(total, term, out=total)
        if total is None:
            raise ValueError("an axis without pixels")
        return total
