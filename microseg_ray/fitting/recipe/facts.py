"""What the rules of a recipe look at: facts of a tile store.

Reading it costs one pass over at most `SAMPLED` training tiles; class counts and sizes come from the store's table.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.tiles.store import TileStore

__all__ = ["Facts", "object_size", "owned_parts", "read_facts"]

SAMPLED = 200
"""Tiles that are read, evenly spaced over the training tiles."""
_BATCH = 16
_UPRIGHT_SHARE = 0.05
_UPRIGHT_MICROGRAPHS = 4


@dataclass(frozen=True)
class Facts:
    """Facts of the training tiles of a store.

    Attributes:
        side: Side of the tiles in pixels.
        smallest: Smaller side of the smallest training micrograph in pixels, at most `side`.
        tiles: Number of training tiles.
        micrographs: Number of training micrographs.
        judges: Number of micrographs of split val.
        channels: Channels of the images.
        classes: Names of the classes.
        pixels: Labelled training pixels of each class; what overlapping tiles share counts once.
        sizes: Diameter in pixels of the circle that has the area of each class's typical object: half of the class's
            area lies in larger objects. None for a class without a pixel in the tiles that were read.
        lacking: Share of the tiles that lack each class.
        brightness: Standard deviation of the micrographs' mean intensities, where 1 is the range of the scaling.
        contrast: Standard deviation of the micrographs' contrasts, as share of their mean.
        upright: Whether some class lies more at the top, or more at the bottom, in nearly all micrographs.
        weights: Whether the package with ImageNet weights is installed.
    """

    side: int
    smallest: int
    tiles: int
    micrographs: int
    judges: int
    channels: int
    classes: tuple[str, ...]
    pixels: tuple[int, ...]
    sizes: tuple[float | None, ...]
    lacking: tuple[float, ...]
    brightness: float
    contrast: float
    upright: bool
    weights: bool

    @property
    def labelled(self) -> int:
        """Labelled training pixels."""
        return sum(self.pixels)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of each class in the labelled training pixels."""
        return tuple(count / max(1, self.labelled) for count in self.pixels)

    @property
    def object_size(self) -> float | None:
        """Largest typical object in pixels, of all classes but the most frequent one, which is what they lie in."""
        most = max(range(len(self.pixels)), key=self.pixels.__getitem__)
        found = [size for index, size in enumerate(self.sizes) if size is not None and index != most]
        return max(found) if found else None


def read_facts(store: TileStore, *, weights: bool) -> Facts:
    """Read the facts of a store.

    Args:
        store: A finished store with training tiles.
        weights: Whether ImageNet weights are installed.

    Raises:
        StoreError: A tile is missing or damaged.
    """
    rows = store.rows("train")
    table = [] if store.table is None else store.table.to_pylist()
    chosen = [table[index] for index in rows]
    corners = _last_corners(chosen)
    middles = {name: (y + store.spec.side) / 2 for name, (y, _) in corners.items()}
    kept = _Sample(len(store.spec.classes), middles)
    owned = owned_parts(chosen, store.spec.side)
    picked = np.unique(np.linspace(0, len(rows) - 1, min(SAMPLED, len(rows))).round().astype(np.int64))
    for part in (picked[start : start + _BATCH] for start in range(0, len(picked), _BATCH)):
        images, masks, limits = store.read(rows[part])
        for place, image, mask, (low, high) in zip(part, images, masks, limits, strict=True):
            kept.add(chosen[place], owned[place], (image - low) / max(high - low, 1e-12), mask)
    counts = store.tile_counts("train")
    areas = np.array([(y1 - y0) * (x1 - x0) for y0, y1, x0, x1 in owned], dtype=np.float64)
    # Overlaps counted once: each tile by the share of it that no later tile has.
    pixels = (counts * (areas / store.spec.side**2)[:, None]).sum(axis=0)
    brightness, contrast = kept.variation()
    return Facts(
        side=store.spec.side,
        smallest=_smallest(corners, kept.extents, store.spec.side),
        tiles=len(rows),
        micrographs=len({row["micrograph"] for row in chosen}),
        judges=len({table[index]["micrograph"] for index in store.rows("val")}),
        channels=store.spec.channels,
        classes=tuple(item.name for item in store.spec.classes),
        pixels=tuple(round(value) for value in pixels),
        sizes=tuple(object_size(areas) for areas in kept.areas),
        lacking=tuple(float(share) for share in (counts == 0).mean(axis=0)),
        brightness=brightness,
        contrast=contrast,
        upright=kept.upright(),
        weights=weights,
    )


def object_size(areas: Sequence[int]) -> float | None:
    """Diameter of the circle with the area of the typical object: half of all the area lies in objects as large or larger.

    A mean over objects would be that of the specks, of which there are many.

    Args:
        areas: Pixels of each object.

    Returns:
        Pixels; None without an object.

    Example:
        >>> round(object_size([1] * 50 + [400]), 1), object_size([])
        (22.6, None)
    """
    if not areas:
        return None
    ordered = np.sort(np.asarray(areas, dtype=np.int64))[::-1]
    middle = int(np.searchsorted(np.cumsum(ordered), ordered.sum() / 2))
    return float(2 * np.sqrt(ordered[middle] / np.pi))


def owned_parts(rows: Sequence[dict[str, Any]], side: int) -> list[tuple[int, int, int, int]]:
    """The part of each tile that counts as its own, so that pixels in an overlap count once.

    Tiles of a micrograph begin at the crossings of a grid; a tile owns what lies before the next lines of the grid.

    Args:
        rows: `micrograph`, `y0` and `x0` of each tile.
        side: Side of a tile.

    Returns:
        y0, y1, x0, x1 of each, half-open, from the tile's own corner.

    Example:
        >>> owned_parts([{"micrograph": "a", "y0": 0, "x0": 0}, {"micrograph": "a", "y0": 0, "x0": 48}], 64)
        [(0, 64, 0, 48), (0, 64, 0, 64)]
    """
    lines: dict[tuple[str, str], set[int]] = {}
    for row in rows:
        for axis in ("y0", "x0"):
            lines.setdefault((row["micrograph"], axis), set()).add(row[axis])
    ends = {
        (*key, first): min(side, second - first)
        for key, found in lines.items()
        for first, second in pairwise(sorted(found))
    }
    return [
        (
            0,
            ends.get((row["micrograph"], "y0", row["y0"]), side),
            0,
            ends.get((row["micrograph"], "x0", row["x0"]), side),
        )
        for row in rows
    ]


class _Sample:
    """What is gathered from tiles."""

    def __init__(self, classes: int, middles: dict[str, float]) -> None:
        self._middles = middles
        self.areas: list[list[int]] = [[] for _ in range(classes)]
        self.extents: dict[str, int] = {}
        self._means: dict[str, list[tuple[float, float]]] = {}
        self._halves: dict[str, NDArray[np.float64]] = {}

    def add(
        self, row: dict[str, Any], owned: tuple[int, int, int, int], image: NDArray[Any], mask: NDArray[np.uint8]
    ) -> None:
        """Take one tile: image (channel, y, x) scaled, mask (y, x)."""
        from scipy import ndimage

        name = row["micrograph"]
        labelled = mask != IGNORE_INDEX
        if not labelled.any():
            return
        height, width = (int(np.flatnonzero(labelled.any(axis=axis))[-1]) + 1 for axis in (1, 0))
        self.extents[name] = max(self.extents.get(name, 0), min(height, width))
        values = image.mean(axis=0)[labelled]
        self._means.setdefault(name, []).append((float(values.mean()), float(values.std())))
        y0, y1, x0, x1 = owned
        own = mask[y0:y1, x0:x1]
        middle = int(np.clip(self._middles[name] - row["y0"], 0, len(own)))
        halves = self._halves.setdefault(name, np.zeros((2, len(self.areas))))
        for index, areas in enumerate(self.areas):
            # Objects of the whole tile, because its own part would cut more of them.
            labels, found = ndimage.label(mask == index)
            areas.extend(int(area) for area in np.bincount(labels.ravel(), minlength=found + 1)[1:])
            halves[:, index] += [(own[:middle] == index).sum(), (own[middle:] == index).sum()]

    def variation(self) -> tuple[float, float]:
        """Variation of brightness and contrast between micrographs."""
        pairs = np.array([np.mean(found, axis=0) for found in self._means.values()])
        if len(pairs) < 2:
            return 0.0, 0.0
        means, deviations = pairs.T
        return float(means.std()), float(deviations.std() / max(deviations.mean(), 1e-12))

    def upright(self) -> bool:
        """Whether one class is on the same side of the middle in nine of ten micrographs, and by much."""
        found = np.array(list(self._differences()))
        if len(found) < _UPRIGHT_MICROGRAPHS:
            return False
        same = np.maximum((found > 0).mean(axis=0), (found < 0).mean(axis=0))
        return bool(((same >= 0.9) & (np.abs(found).mean(axis=0) > _UPRIGHT_SHARE)).any())

    def _differences(self) -> Iterator[NDArray[np.float64]]:
        for halves in self._halves.values():
            # Of some micrographs, only tiles of one half were read.
            if halves.sum(axis=1).all():
                upper, lower = halves / halves.sum(axis=1, keepdims=True)
                yield upper - lower


def _last_corners(rows: Sequence[dict[str, Any]]) -> dict[str, tuple[int, int]]:
    """Largest y0 and x0 of the tiles of each micrograph."""
    found: dict[str, tuple[int, int]] = {}
    for row in rows:
        y, x = found.get(row["micrograph"], (0, 0))
        found[row["micrograph"]] = max(y, row["y0"]), max(x, row["x0"])
    return found


def _smallest(corners: dict[str, tuple[int, int]], extents: dict[str, int], side: int) -> int:
    """Smaller side of the smallest micrograph: only one with a single row or column of tiles can be below a tile."""
    found = [extents.get(name, side) if min(ends) == 0 else side for name, ends in corners.items()]
    return max(1, min([*found, side]))
