"""The windows of a micrograph that might be labelled next, from its mask and from what the run kept beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import MicrosegError
from microseg_ray.files import place
from microseg_ray.files.arrays import zarr_place
from microseg_ray.geometry import Box
from microseg_ray.report.doubt import stored_doubt, window_sums
from microseg_ray.report.kept import reader
from microseg_ray.report.labelling.ranking import scores_of
from microseg_ray.runs.opening import open_of_run
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.report.kept import Kept
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.store.spec import MaskSpec

    Doubt = tuple["Source", Callable[[Box, NDArray[np.uint8]], NDArray[np.float64]]]

__all__ = ["Look", "Source", "Window", "doubt_of", "looks", "spread_boxes", "windows_of"]

Source = Literal["margin", "entropy", "probabilities", "borders"]
"""What a doubt was read from; `borders`: the run kept nothing, and the classes' borders are all there is."""


@dataclass(frozen=True)
class Window:
    """A square that might be labelled.

    Attributes:
        micrograph: Its name below the archive.
        box: In pixels.
        score: How much is expected of it by itself.
        doubt: Mean doubt of its measured pixels, in [0, 1].
        shares: Share of each class among them.
        source: What the doubt was read from.
        pixel_size_um: (y, x), or None.
    """

    micrograph: str
    box: Box
    score: float
    doubt: float
    shares: tuple[float, ...]
    source: Source
    pixel_size_um: tuple[float, float] | None


@dataclass(frozen=True)
class Look:
    """Mean and standard deviation of the intensities of a window, over all channels."""

    mean: float
    deviation: float


def doubt_of(kept: Kept) -> Doubt:
    """How the doubt of each pixel of a mask is read: a source, and a function of a box and its mask to (y, x) in [0, 1].

    A margin `m` (probability of the first class less that of the second) is a doubt of `1 - m`. An entropy is stored as a
    share of the largest one. Without either, a pixel is in doubt where the next one below or to the right has another class.

    Args:
        kept: The mask and what was kept beside it.
    """
    kind = kept.spec.extra
    if kind == "none":
        return "borders", lambda _, mask: _borders(mask)
    path = place(kept.path) / kind
    if kind == "probabilities":
        import zarr

        array = zarr.open_array(zarr_place(path), mode="r")
        return "probabilities", lambda box, _: 1 - _margin(np.asarray(array[(slice(None), *box.slices)]))
    read = reader(path, kept.spec.shape)
    return kind, lambda box, _: stored_doubt(read(box), kind)


def _margin(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    if len(probabilities) == 1:
        return np.ones(probabilities.shape[1:])
    two = np.partition(probabilities.astype(np.float64), -2, axis=0)[-2:]
    return np.asarray(two[1] - two[0], np.float64)


def _borders(mask: NDArray[np.uint8]) -> NDArray[np.float64]:
    found = np.zeros(mask.shape)
    found[:-1] = mask[:-1] != mask[1:]
    found[:, :-1] = np.maximum(found[:, :-1], mask[:, :-1] != mask[:, 1:])
    return found


def spread_boxes(spec: MaskSpec, most: int) -> Iterator[Box]:
    """The boxes of at most so many shards of a mask, spread evenly over it.

    Args:
        spec: Of the mask.
        most: How many shards are looked at.
    """
    rows, columns = spec.shards
    count = rows * columns
    for number in np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)):
        yield spec.box((int(number) // columns, int(number) % columns))


def windows_of(
    name: str,
    kept: Kept,
    boxes: Iterator[Box],
    rare: NDArray[np.float64],
    painted: Callable[[Box], NDArray[np.bool_]],
    side: int,
    most: int,
) -> list[Window]:
    """The best windows of a micrograph by their score; those with a painted pixel are left out.

    Args:
        name: The micrograph.
        kept: Its mask; parts that are not computed yet are left out.
        boxes: The parts of it that are looked at, one at a time.
        rare: (k,) how rare each class is.
        painted: Which pixels of a box are labelled.
        side: Of a window, in pixels.
        most: How many are returned.

    Raises:
        StoreError: A shard of the mask is damaged.
        ValueError: One of the map is.
    """
    source, doubt = doubt_of(kept)
    known = kept.pixel_size_um
    best: list[Window] = []
    for box in boxes:
        mask = kept.read(box)
        measured = mask != IGNORE_INDEX
        if not measured.any():
            continue
        seen = window_sums(measured, side)
        unsure = window_sums(np.where(measured, doubt(box, mask), 0.0), side)
        classes = np.stack([window_sums(mask == index, side) for index in range(len(rare))], axis=-1)
        # At least half of a window must be there: slivers at the edges are no places to paint.
        free = (seen * 2 >= min(side, box.height) * min(side, box.width)) & (window_sums(painted(box), side) == 0)
        rows, columns = np.nonzero(free)
        total = seen[free]
        means, shares = unsure[free] / total, classes[free] / total[:, None]
        scores = scores_of(means, shares, rare)
        for number in np.argsort(-scores, kind="stable")[:most]:
            y0, x0 = box.y0 + int(rows[number]) * side, box.x0 + int(columns[number]) * side
            inside = Box(y0, x0, min(y0 + side, box.y1), min(x0 + side, box.x1))
            parts = tuple(float(each) for each in shares[number])
            best.append(Window(name, inside, float(scores[number]), float(means[number]), parts, source, known))
        best.sort(key=lambda each: (-each.score, each.box.y0, each.box.x0))
        del best[most:]
    return best


def looks(run: Run, kept: Kept, windows: Sequence[Window]) -> list[Look]:
    """What windows of one micrograph look like.

    Args:
        run: The run.
        kept: The mask of the micrograph in that run.
        windows: All of one micrograph.

    Raises:
        MicrosegError: The micrograph cannot be read.
    """
    with open_of_run(run, windows[0].micrograph, kept) as micrograph:
        found = []
        for window in windows:
            pixels = micrograph.read(window.box).astype(np.float64)
            if not np.isfinite(pixels).all():
                raise MicrosegError(f"{window.micrograph}: holds values that are no number")
            found.append(Look(float(pixels.mean()), float(pixels.std())))
    return found
