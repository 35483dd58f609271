"""How far a step is that reads all masks of a run: in pixels, because micrographs differ in size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from microseg_ray.errors import StoreError
from microseg_ray.runs.store.glance import glance

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.runs.folder import Run

__all__ = ["PixelsRead", "Report"]

Report = Callable[[int, int], None]
"""Called with (done, total)."""


class PixelsRead:
    """Reports how many pixels of finished masks are done; what cannot be read counts as done, too, or not at all.

    Args:
        run: The run.
        names: The micrographs of the step.
        report: Called with (pixels done, pixels in total), the first time before anything is read.
        passes: How often each pixel is read.
    """

    def __init__(self, run: Run, names: Iterable[str], report: Report, passes: int = 1) -> None:
        self._report = report
        self._pixels = {name: passes * _pixels(run, name) for name in names}
        self._total = sum(self._pixels.values())
        self._done = 0
        self._tell(0)

    def reader(self, name: str, read: Callable[[Box], NDArray[np.uint8]]) -> Callable[[Box], NDArray[np.uint8]]:
        """Give a function that reads as `read` does; the pixels of a box count when the next one is asked for.

        Args:
            name: The micrograph.
            read: Gives the (y, x) uint8 pixels of a box.
        """
        seen = 0

        def counted(box: Box) -> NDArray[np.uint8]:
            nonlocal seen
            # Boxes may overlap, so that more may be read than there is.
            self._tell(min(seen, self._pixels[name]))
            seen += box.area
            return read(box)

        return counted

    def finish(self, name: str) -> None:
        """All of a micrograph is done, or will not be."""
        self._done += self._pixels[name]
        self._tell(0)

    def _tell(self, more: int) -> None:
        if self._total:
            self._report(self._done + more, self._total)


def _pixels(run: Run, name: str) -> int:
    """Pixels of a finished mask; 0 for one that is not finished or cannot be opened, which is not measured."""
    try:
        found = glance(run.store_path(name))
    except StoreError:
        return 0
    return found.shape[0] * found.shape[1] if found.finished else 0
