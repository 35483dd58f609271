"""Where a run is least certain: the windows of its margin or entropy maps with the largest mean doubt."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import MicrosegError
from microseg_ray.geometry import Box
from microseg_ray.names import text
from microseg_ray.report.doubt import UNKNOWN, window_sums
from microseg_ray.report.kept import reader
from microseg_ray.runs.opening import open_of_run
from microseg_ray.runs.store.glance import glance
from microseg_ray.runs.store.masks import MaskStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.runs.folder import Run

__all__ = ["HOW_TO_GET", "Place", "Places", "doubtful_windows", "uncertain_places"]

WINDOW = 256
"""Side of a place in pixels."""

EACH = 2
"""Places of one micrograph, at most, while others have some: one bad micrograph does not fill the gallery."""

MOST_PIXELS = 1 << 32
"""Pixels of maps that are read. Of larger runs every second, third, ... row of windows is read, and the page says so."""

_BAND = 2
"""Rows of windows that are read at once: a chunk of the map."""
_COLUMNS = 1 << 15
HOW_TO_GET = (
    "This run kept no map of its certainty, so the places where it is least certain are not known. "
    "They are shown of a run that was made with `microseg segment ... --extra margin` (or `entropy`)."
)


@dataclass(frozen=True, eq=False)
class Place:
    """A window of a micrograph.

    Attributes:
        micrograph: Its name.
        box: The window, in pixels of the mask.
        doubt: Mean doubt of its pixels, 0 to 1.
        image: (c, y, x) pixels of the micrograph; None where it cannot be read.
        mask: (y, x) classes.
        map: (y, x) the kept map: margin or entropy, 255 where nothing was measured.
        pixel_size_um: (y, x), or None.
    """

    micrograph: str
    box: Box
    doubt: float
    image: NDArray[Any] | None
    mask: NDArray[np.uint8]
    map: NDArray[np.uint8]
    pixel_size_um: tuple[float, float] | None


@dataclass(frozen=True, eq=False)
class Places:
    """The least certain places of a run.

    Attributes:
        kind: `margin` or `entropy`; "" where the run kept no such map.
        found: Most doubtful first.
        share: Share of the rows of windows that was read, 0 to 1.
        unread: Micrographs whose map could not be read.
    """

    kind: str = ""
    found: tuple[Place, ...] = ()
    share: float = 1.0
    unread: tuple[str, ...] = ()


def doubtful_windows(
    shape: tuple[int, int], read: Callable[[Box], NDArray[np.uint8]], kind: str, step: int = 1
) -> Iterator[tuple[float, Box]]:
    """Mean doubt of each window of a map; of windows of which at least half was measured.

    Args:
        shape: (height, width) of the map.
        read: Returns the map of a box.
        kind: `margin` or `entropy`.
        step: Only every `step`-th pair of rows of windows is read.

    Yields:
        (mean doubt, window). Windows lie on a grid of 256 px; those at the right and bottom may be smaller.
    """
    height, width = shape
    for y0 in range(0, height, WINDOW * _BAND * step):
        for x0 in range(0, width, _COLUMNS):
            band = Box(y0, x0, min(y0 + WINDOW * _BAND, height), min(x0 + _COLUMNS, width))
            values = read(band)
            known = values != UNKNOWN
            sums, counts = (window_sums(each, WINDOW) for each in (np.where(known, values, 0), known))
            for row, column in zip(*np.nonzero(counts), strict=True):
                y, x = band.y0 + int(row) * WINDOW, band.x0 + int(column) * WINDOW
                box = Box(y, x, min(y + WINDOW, height), min(x + WINDOW, width))
                if 2 * counts[row, column] >= box.area:
                    share = float(sums[row, column]) / (254 * float(counts[row, column]))
                    yield (1 - share if kind == "margin" else share), box


def uncertain_places(run: Run, names: Sequence[str], count: int) -> Places:
    """The least certain places of a run, spread over its micrographs.

    Args:
        run: The run.
        names: Its finished micrographs.
        count: How many places are wanted.
    """
    kind = str(run.identity.pixels.get("extra", ""))
    if kind not in {"margin", "entropy"} or count < 1:
        return Places()
    shapes, unread = {}, []
    for name in names:
        try:
            shapes[name] = glance(run.store_path(name)).shape
        except MicrosegError:
            unread.append(text(name))
    pixels = sum(height * width for height, width in shapes.values())
    step = max(1, -(-pixels // MOST_PIXELS))
    best: list[tuple[float, str, Box]] = []
    for name, shape in shapes.items():
        try:
            windows = doubtful_windows(shape, reader(run.store_path(name) / kind, shape), kind, step)
            own = heapq.nlargest(count, windows, key=lambda each: (each[0], -each[1].y0, -each[1].x0))
        except (KeyError, ValueError, RuntimeError, OSError):
            unread.append(text(name))
            continue
        best += [(doubt, name, box) for doubt, box in own]
    chosen = _spread(best, count)
    found = tuple(_place(run, name, kind, box, doubt) for doubt, name, box in chosen)
    return Places(kind, found, 1 / step, tuple(unread))


def _spread(windows: Iterable[tuple[float, str, Box]], count: int) -> list[tuple[float, str, Box]]:
    """The most doubtful, at most `EACH` of a micrograph unless there are too few others."""
    ranked = sorted(windows, key=lambda each: (-each[0], each[1], each[2].y0, each[2].x0))
    taken: dict[str, int] = {}
    first: list[tuple[float, str, Box]] = []
    later: list[tuple[float, str, Box]] = []
    for each in ranked:
        taken[each[1]] = taken.get(each[1], 0) + 1
        (first if taken[each[1]] <= EACH else later).append(each)
    return sorted([*first, *later][:count], key=lambda each: -each[0])


def _place(run: Run, name: str, kind: str, box: Box, doubt: float) -> Place:
    store, image = MaskStore.open(run.store_path(name)), None
    try:
        with open_of_run(run, name, store) as micrograph:
            image = micrograph.read(box)
    except (MicrosegError, ValueError, RuntimeError, OSError):
        # The micrograph may be gone since: the mask and the map are still shown.
        pass
    size = store.note.get("pixel_size_um")
    mask = store.read(box)
    values = reader(run.store_path(name) / kind, store.spec.shape)(box)
    return Place(text(name), box, doubt, image, mask, values, None if size is None else (size[0], size[1]))
