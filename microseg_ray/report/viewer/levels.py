"""Coarser levels of a huge image, made once in one pass and kept on the disk."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import MicrosegError
from microseg_ray.files import delete_folder, move
from microseg_ray.geometry import Box
from microseg_ray.report.viewer.subject import short_digest
from microseg_ray.runs.store.pyramid import halved, level_shapes, mode_downsample

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import zarr
    from numpy.typing import NDArray

__all__ = ["TILE", "Levels", "level_box"]

TILE = 512
"""Side of a tile of the page in pixels: the chunk of a mask."""

_DIRECT = 2
"""Levels up to this one are computed from the full resolution while the levels are not made yet."""

_AT_ONCE = 1 << 24
"""Pixels of an image whose levels are made before the first tile is given: a fraction of a second."""

_COLUMNS = 1 << 17


def level_box(box: Box, level: int, shape: tuple[int, int]) -> Box:
    """The pixels of the full resolution below a box of a level.

    Example:
        >>> level_box(Box(0, 1, 2, 3), 2, (7, 100))
        Box(y0=0, x0=4, y1=7, x1=12)
    """
    step = 1 << level
    return Box(box.y0 * step, box.x0 * step, min(box.y1 * step, shape[0]), min(box.x1 * step, shape[1]))


class Levels:
    """The levels of one image; level 0 is read from the image itself.

    Args:
        read: Returns the pixels of a box as (c, y, x). It is called by one thread at a time.
        shape: (height, width).
        like: (channels, dtype) of what is read.
        folder: Where levels are kept.
        identity: What the levels depend on; of the same identity they are read from the folder.
        labels: They are class indices, reduced by majority; else numbers, reduced by their mean.
    """

    def __init__(
        self,
        read: Callable[[Box], NDArray[Any]],
        shape: tuple[int, int],
        like: tuple[int, np.dtype[Any]],
        folder: Path,
        identity: str,
        *,
        labels: bool = False,
    ) -> None:
        self.shape, self.shapes = shape, level_shapes(shape)
        self.error = ""
        self._read, self._like, self._labels = read, like, labels
        self._lock = threading.Lock()
        self._kept = folder / short_digest(f"{identity}\0{shape}\0{like}\0{labels}")
        self._rows = [0] * len(self.shapes)
        self._arrays: list[zarr.Array[Any]] = []
        self._stop = False
        self._thread: threading.Thread | None = None
        self._begin()

    @property
    def share(self) -> float:
        """Which share of the levels is made, 0 to 1."""
        return 1.0 if len(self.shapes) == 1 else self._rows[1] / self.shapes[1][0]

    def region(self, box: Box) -> NDArray[Any]:
        """Pixels of the full resolution, (c, y, x)."""
        with self._lock:
            return self._read(box)

    def tile(self, level: int, box: Box) -> NDArray[Any] | None:
        """Pixels of a box of a level, (c, y, x); None where they are not made yet."""
        if level == 0:
            return self.region(box)
        if box.y1 <= self._rows[level]:
            return np.asarray(self._arrays[level - 1][(slice(None), *box.slices)])
        if level > _DIRECT:
            return None
        pixels = self.region(level_box(box, level, self.shape))
        for _ in range(level):
            pixels = self._halved(pixels)
        return pixels

    def close(self) -> None:
        """Stop making levels; what is not complete is deleted."""
        self._stop = True
        if self._thread is not None:
            self._thread.join()

    def _halved(self, pixels: NDArray[Any]) -> NDArray[Any]:
        return mode_downsample(pixels[0])[None] if self._labels else halved(pixels)

    def _begin(self) -> None:
        if len(self.shapes) == 1:
            return
        if (self._kept / "complete").is_file():
            self._arrays = self._kept_arrays()
            self._rows = [height for height, _ in self.shapes]
            return
        if self.shape[0] * self.shape[1] <= _AT_ONCE:
            self._make()
            return
        self._thread = threading.Thread(target=self._make, daemon=True)
        self._thread.start()

    def _make(self) -> None:
        """Make all levels from top to bottom in one pass; a row of chunks of each level is in memory."""
        # Of this process alone: two servers may show the same image.
        folder = self._kept.with_name(f"{self._kept.name}.{id(self):x}")
        try:
            self._create(folder)
            waiting: list[list[NDArray[Any]]] = [[] for _ in self.shapes]
            for y0 in range(0, self.shape[0], TILE):
                if self._stop:
                    break
                self._add(1, self._band(y0), waiting)
            else:
                (folder / "complete").touch()
                if not self._kept.exists():
                    move(folder, self._kept)
                    self._arrays = self._kept_arrays()
        except (MicrosegError, OSError, ValueError, RuntimeError) as error:
            # Fine levels need no levels: the page goes on without the coarse ones, and says why.
            self.error = str(error)
        finally:
            if self._stop or self.error:
                with contextlib.suppress(OSError):
                    delete_folder(folder)

    def _kept_arrays(self) -> list[zarr.Array[Any]]:
        # Here and not above: the list of micrographs is shown before one is opened.
        import zarr

        return [zarr.open_array(self._kept / str(level), mode="r") for level in range(1, len(self.shapes))]

    def _create(self, folder: Path) -> None:
        import zarr

        channels, dtype = self._like
        self._arrays = [
            zarr.create_array(
                str(folder / str(level)),
                shape=(channels, *self.shapes[level]),
                chunks=(channels, TILE, TILE),
                dtype=dtype,
                compressors=None,
            )
            for level in range(1, len(self.shapes))
        ]

    def _band(self, y0: int) -> NDArray[Any]:
        """Level 1 of a row of tiles."""
        y1, width = min(y0 + TILE, self.shape[0]), self.shape[1]
        boxes = (Box(y0, x0, y1, min(x0 + _COLUMNS, width)) for x0 in range(0, width, _COLUMNS))
        return np.concatenate([self._halved(self.region(box)) for box in boxes], axis=2)

    def _add(self, level: int, rows: NDArray[Any], waiting: list[list[NDArray[Any]]]) -> None:
        """Take further rows of a level, and those of the next one that they make."""
        waiting[level].append(rows)
        known = self._rows[level] + sum(each.shape[1] for each in waiting[level])
        last = known == self.shapes[level][0]
        if not last and known % TILE:
            return
        block = np.concatenate(waiting[level], axis=1)
        waiting[level].clear()
        self._arrays[level - 1][:, self._rows[level] : known] = block
        if level + 1 < len(self.shapes):
            self._add(level + 1, self._halved(block), waiting)
        # Last: from here on these rows are read.
        self._rows[level] = known
