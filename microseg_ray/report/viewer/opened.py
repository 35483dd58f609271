"""One micrograph of the page: its pixels, its mask and what else lies on its grid, tile by tile."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError, MicrosegError
from microseg_ray.geometry import Box
from microseg_ray.report.viewer.encoding import difference, limits_of
from microseg_ray.report.viewer.levels import TILE, Levels, level_box
from microseg_ray.runs.opening import open_of_run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.pyramid import level_shapes, mode_downsample
from microseg_ray.sources import fingerprint, open_micrograph, read_mask
from microseg_ray.stitching.shards import EnginePlan, engine_grid

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import zarr
    from numpy.typing import NDArray

    from microseg_ray.report.viewer.subject import Subject

__all__ = ["Opened", "Shelf", "tile_box"]

_SAMPLES, _SAMPLE = 5, 128
"""Squares along each axis from which the contrast is chosen, and their side in pixels."""

_STRIDED = 2
"""Levels above this one of a mask without a pyramid are every 2**level-th pixel."""


class Opened:
    """An open micrograph. Whatever is missing (the file, the mask) leaves the rest usable.

    Args:
        subject: The run or archive.
        name: The micrograph.
        truth: The file with its true mask, or None.
        cache: Folder for levels.
        learnt: The mask that was learnt from labels last, and the one before it; nothing for a micrograph without.
    """

    def __init__(
        self, subject: Subject, name: str, truth: Path | None, cache: Path, learnt: tuple[MaskStore, ...] = ()
    ) -> None:
        self.name = name
        self.learnt = learnt
        self.problems: list[str] = []
        self._subject, self._truth, self._cache = subject, truth, cache
        self.store = self._open_store()
        self._micrograph = self._open_micrograph()
        if self.store is None and self._micrograph is None:
            raise InputError(subject.path(name), "; ".join(self.problems), "see failures.csv of the run")
        shape = self.store.spec.shape if self.store is not None else self._micrograph.info.shape
        self.shape: tuple[int, int] = shape
        self.image = self._image_levels()

    def is_current(self, learnt: tuple[MaskStore, ...]) -> bool:
        """Whether neither the run nor a round of learning has made another mask since this was opened."""
        same = [each.path for each in learnt] == [each.path for each in self.learnt]
        return same and (self.store is None or self.finished == self.store.finished)

    def close(self) -> None:
        """Release files and threads."""
        for levels in (self.image, *(each for each in vars(self).values() if isinstance(each, Levels))):
            if levels is not None:
                levels.close()
        if self._micrograph is not None:
            self._micrograph.close()

    @cached_property
    def finished(self) -> bool:
        """Whether the mask is complete."""
        return self.store is not None and self.store.finished

    @property
    def pixel_size(self) -> tuple[tuple[float, float] | None, str]:
        """(y, x) in micrometres, and who says so."""
        note: Mapping[str, Any] = {} if self.store is None else self.store.note
        size = note.get("pixel_size_um")
        if size is not None:
            return (float(size[0]), float(size[1])), str(note.get("pixel_size_source", ""))
        if self._micrograph is not None and self.store is None:
            return self._micrograph.info.pixel_size_um, self._micrograph.info.pixel_size_source
        return None, ""

    @property
    def rescaled(self) -> bool:
        """Whether the mask lies on another grid than the file's pixels."""
        view = {} if self.store is None else self.store.identity.get("view") or {}
        return view.get("file_shape") is not None

    @property
    def extra(self) -> str:
        """The map that the run wrote beside the mask: margin or entropy; "" for none."""
        kind = "none" if self.store is None else self.store.spec.extra
        return kind if kind in {"margin", "entropy"} and self.finished else ""

    @cached_property
    def limits(self) -> tuple[float, float]:
        """The intensities that are black and white, from samples all over the micrograph."""
        if self.image is None:
            return 0.0, 1.0
        starts = [sorted({side * place // _SAMPLES for place in range(_SAMPLES)}) for side in self.shape]
        boxes = (
            Box(y0, x0, min(y0 + _SAMPLE, self.shape[0]), min(x0 + _SAMPLE, self.shape[1]))
            for y0 in starts[0]
            for x0 in starts[1]
        )
        return limits_of([self.image.region(box) for box in boxes])

    @property
    def layers(self) -> list[str]:
        """What can be asked of `tile`."""
        found = ["image"] if self.image is not None else []
        found += ["mask"] if self.store is not None else []
        found += [self.extra] if self.extra else []
        found += ["learnt", "change"] if self.learnt else []
        if self._truth is not None:
            found += ["truth"] + (["difference"] if self.store is not None else [])
        return found

    def tile(self, layer: str, level: int, box: Box) -> NDArray[Any] | None:
        """Pixels of a tile, (c, y, x); None while they are not made.

        Args:
            layer: One of `layers`.
            level: 0 is the full resolution.
            box: Pixels of that level.

        Raises:
            InputError: There is no such layer, or it cannot be read.
        """
        if layer not in self.layers:
            raise InputError(self.name, f"there is no {layer} here", f"there are {', '.join(self.layers)}")
        if layer == "image":
            return None if self.image is None else self.image.tile(level, box)
        if layer in {"truth", "difference"}:
            truth = self._truth_levels.tile(level, box)
            if layer == "truth" or truth is None:
                return truth
            return difference(self.mask_tile(level, box), truth[0])[None]
        if layer in {"learnt", "change"}:
            newer, older = (_of_level(store, level, box) for store in self.learnt)
            return (newer if layer == "learnt" else difference(newer, older))[None]
        return self.mask_tile(level, box)[None] if layer == "mask" else self._extra_levels.tile(level, box)

    @property
    def newest(self) -> MaskStore | None:
        """The mask that was learnt last, else that of the run."""
        return self.learnt[0] if self.learnt else self.store

    def mask_tile(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Classes of a tile of the mask, (y, x); of a mask that is not finished as far as it is there."""
        store = self._require_store()
        if self.finished:
            return np.asarray(self._level(level)[box.slices])
        # Shards appear while the run goes on, so nothing is kept.
        fine = level_box(box, level, self.shape)
        if level > _STRIDED:
            step = 1 << level
            return np.asarray(store.mask[fine.y0 : fine.y1 : step, fine.x0 : fine.x1 : step])
        mask = store.read(fine)
        for _ in range(level):
            mask = mode_downsample(mask)
        return mask

    def seams(self) -> dict[str, Any]:
        """Where cores of tiles and shards meet: rows and columns in pixels."""
        store = self._require_store()
        shard, (height, width) = store.spec.shard, self.shape
        found: dict[str, Any] = {
            "shards": [list(range(shard, height, shard)), list(range(shard, width, shard))],
            "tiles": [[], []],
        }
        run = self._subject.run
        pixels = {} if run is None else run.identity.pixels
        known = {each.name for each in fields(EnginePlan)}
        if not {"tile", "stride", "shard"} <= pixels.keys():
            return found | {"note": "made without tiles: only the edges of shards are shown"}
        plan = EnginePlan(**{"halo": 0, **{key: value for key, value in pixels.items() if key in known}})
        grid = engine_grid(self.shape, plan)
        rows, columns = grid.counts
        found["tiles"] = [
            [grid.at(row, 0).core.y1 for row in range(rows - 1)],
            [grid.at(0, column).core.x1 for column in range(columns - 1)],
        ]
        return found

    def _require_store(self) -> MaskStore:
        if self.store is None:
            raise InputError(self.name, "it has no mask", "segment it first")
        return self.store

    def _level(self, level: int) -> zarr.Array[Any]:
        if level not in self._levels:
            self._levels[level] = _array(self._require_store(), str(level))
        return self._levels[level]

    @cached_property
    def _levels(self) -> dict[int, zarr.Array[Any]]:
        return {}

    def _open_store(self) -> MaskStore | None:
        run = self._subject.run
        if run is None:
            return None
        try:
            return MaskStore.open(run.store_path(self.name))
        except MicrosegError as error:
            failure = self._subject.failures.get(self.name)
            self.problems.append(f"set aside: {failure.reason}" if failure is not None else str(error))
            return None

    def _open_micrograph(self) -> Any:
        run, path = self._subject.run, self._subject.path(self.name)
        try:
            if run is not None and self.store is not None:
                return open_of_run(run, self.name, self.store)
            return open_micrograph(path, self._subject.source)
        except MicrosegError as error:
            self.problems.append(f"the micrograph cannot be shown: {error}")
            return None

    def _image_levels(self) -> Levels | None:
        if self._micrograph is None:
            return None
        info, path = self._micrograph.info, self._subject.path(self.name)
        view = None if self.store is None else self.store.identity.get("view")
        try:
            identity = f"{path}\0{fingerprint(path, 'stat')}\0{self._subject.source}\0{view}"
            like = (info.channels, np.dtype(info.dtype))
            return Levels(self._micrograph.read, self.shape, like, self._cache, identity)
        except MicrosegError as error:
            self.problems.append(f"the micrograph cannot be shown: {error}")
            return None

    @cached_property
    def _extra_levels(self) -> Levels:
        store = self._require_store()
        array = _array(store, self.extra)
        made = (Path(store.path) / "zarr.json").stat().st_mtime_ns
        return Levels(
            lambda box: np.asarray(array[box.slices])[None],
            self.shape,
            (1, np.dtype(np.uint8)),
            self._cache,
            f"{store.path}\0{self.extra}\0{made}",
        )

    @cached_property
    def _truth_levels(self) -> Levels:
        path = self._truth
        mask = read_mask(str(path), None)
        if mask.shape != self.shape:
            sides = f"{mask.shape} (height, width), the micrograph {self.shape}"
            raise InputError(str(path), f"this truth is {sides}", "give the truth of this micrograph")
        identity = f"{path}\0{fingerprint(str(path), 'stat')}\0truth"
        like = (1, np.dtype(np.uint8))
        return Levels(lambda box: mask[box.slices][None], self.shape, like, self._cache, identity, labels=True)


def _array(store: MaskStore, name: str) -> zarr.Array[Any]:
    # Here and not above: the list is shown before a mask is opened.
    import zarr

    return zarr.open_array(Path(store.path) / name, mode="r")


def _of_level(store: MaskStore, level: int, box: Box) -> NDArray[np.uint8]:
    """A part of a level of a finished mask."""
    return np.asarray(_array(store, str(level))[box.slices])


def tile_box(shape: tuple[int, int], level: int, column: int, row: int) -> Box:
    """The pixels of a tile of a level.

    Raises:
        InputError: There is no such level or tile.

    Example:
        >>> tile_box((1000, 600), 1, 0, 0)
        Box(y0=0, x0=0, y1=500, x1=300)
    """
    shapes = level_shapes(shape)
    if not 0 <= level < len(shapes):
        raise InputError("tile", f"there is no level {level}", f"there are {len(shapes)}")
    height, width = shapes[level]
    y0, x0 = row * TILE, column * TILE
    if not (0 <= y0 < height and 0 <= x0 < width):
        raise InputError("tile", f"there is no tile {(row, column)} in level {level}", f"it is {height} x {width} px")
    return Box(y0, x0, min(y0 + TILE, height), min(x0 + TILE, width))


class Shelf:
    """The few micrographs that were looked at last, kept open.

    Args:
        subject: The run or archive.
        truths: File of the true mask by name.
        cache: Folder for levels.
        learnt: The masks of a micrograph that were learnt from labels, the newest first.
        room: How many are kept open.
    """

    def __init__(
        self,
        subject: Subject,
        truths: Mapping[str, Path],
        cache: Path,
        learnt: Callable[[str], tuple[MaskStore, ...]] = lambda _: (),
        room: int = 3,
    ) -> None:
        self._subject, self._truths, self._cache, self._room = subject, truths, cache, room
        self._learnt = learnt
        self._lock = threading.Lock()
        self._opened: OrderedDict[str, Opened] = OrderedDict()

    def __getitem__(self, name: str) -> Opened:
        """The open micrograph.

        Raises:
            InputError: Neither the file nor a mask can be read.
        """
        with self._lock:
            found = self._opened.pop(name, None)
            learnt = self._learnt(name)
            if found is not None and not found.is_current(learnt):
                found.close()
                found = None
            if found is None:
                found = Opened(self._subject, name, self._truths.get(name), self._cache, learnt)
            self._opened[name] = found
            while len(self._opened) > self._room:
                self._opened.popitem(last=False)[1].close()
            return found

    def close(self) -> None:
        """Close all of them."""
        with self._lock:
            while self._opened:
                self._opened.popitem()[1].close()
