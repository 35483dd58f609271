"""The rows that go to a worker and come back: coordinates, limits and decisions, never pixels."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.runs.store.shard_set import ShardSet
    from microseg_ray.sources import View
    from microseg_ray.stitching.seams import SeamAudit

__all__ = [
    "AuditTask",
    "BandTask",
    "BeginTask",
    "Calibration",
    "FinishTask",
    "LevelTask",
    "Outcome",
    "Pieces",
    "PrepareTask",
    "Prepared",
    "ShardTask",
    "Task",
    "calibration_note",
    "noted_file_size",
    "timed",
]


@dataclass(frozen=True)
class PrepareTask:
    """Look at one micrograph and open its mask store; `dry` makes none."""

    name: str
    path: str
    store: str
    dry: bool = False
    stage: str = "open"


@dataclass(frozen=True)
class Calibration:
    """What a mask's note says of scale and info bar.

    Attributes:
        pixel_size_um: (y, x) of a pixel of the mask, or None.
        source: Where it comes from.
        file_pixel_size_um: (y, x) of a pixel of the file: another one where the micrograph is rescaled.
        info_bar_source: How the info bar is known.
        mark: What beside the file decided the pixel size; see `calibration_mark`.
        notes: Notes for the user: sources that disagree, a scale that could not be checked.
        pages: Pages of the file, of which one is read.
    """

    pixel_size_um: tuple[float, float] | None
    source: str
    file_pixel_size_um: tuple[float, float] | None
    info_bar_source: str = ""
    mark: str = ""
    notes: tuple[str, ...] = ()
    pages: int = 1


@dataclass(frozen=True)
class Prepared:
    """What preparing found.

    Attributes:
        view: The grid that the mask lies on: shape, info bar, rescaled or not.
        limits: Intensities (low, high).
        calibration: Pixel size, where it comes from, and what is to be said of it.
        missing: Shards to compute.
        finished: Whether pyramid and metadata are written.
        decoded_bytes: Memory that an open handle may hold.
    """

    view: View
    limits: tuple[float, float]
    calibration: Calibration
    missing: ShardSet
    finished: bool
    decoded_bytes: int

    @property
    def shards(self) -> int:
        """Shards in all."""
        return self.missing.grid[0] * self.missing.grid[1]


@dataclass(frozen=True)
class ShardTask:
    """Segment one shard and commit it."""

    name: str
    path: str
    store: str
    view: View
    limits: tuple[float, float]
    shard: tuple[int, int]

    @property
    def stage(self) -> str:
        """What failures.csv calls it."""
        return f"shard {self.shard[0]},{self.shard[1]}"


@dataclass(frozen=True)
class BandTask:
    """Compute shards in strips, from the top down, and commit each row of them when it is done.

    Attributes:
        shards: Those to write, in row-major order; all of one group of columns.
    """

    name: str
    path: str
    store: str
    view: View
    limits: tuple[float, float]
    shards: tuple[tuple[int, int], ...]

    @property
    def stage(self) -> str:
        """What failures.csv calls it."""
        first, last = self.shards[0], self.shards[-1]
        return f"shards {first[0]},{first[1]} to {last[0]},{last[1]}"


@dataclass(frozen=True)
class FinishTask:
    """Write pyramid, metadata and seam measurements of one micrograph."""

    name: str
    path: str
    store: str
    view: View
    limits: tuple[float, float]
    calibration: Calibration
    stage: str = "finish"
    seams: SeamAudit | None = None
    """Of a large micrograph, whose pyramid is made and whose seams are measured already; None: all is to be done."""


@dataclass(frozen=True)
class BeginTask:
    """Find out in which pieces a large micrograph is finished, and make the empty levels of its pyramid."""

    name: str
    path: str
    store: str
    view: View
    stage: str = "finish"


@dataclass(frozen=True)
class LevelTask:
    """Make a few shards of a pyramid, in this order.

    Attributes:
        shards: (level, y, x) of each.
    """

    name: str
    path: str
    store: str
    shards: tuple[tuple[int, int, int], ...]

    @property
    def stage(self) -> str:
        """What failures.csv calls it."""
        (level, y, x), last = self.shards[0], self.shards[-1]
        return f"pyramid {level}: {y},{x} to {last[0]}: {last[1]},{last[2]}"


@dataclass(frozen=True)
class AuditTask:
    """Measure one of the sampled seams of a large micrograph.

    Attributes:
        seam: Which.
    """

    name: str
    path: str
    store: str
    view: View
    limits: tuple[float, float]
    seam: int

    @property
    def stage(self) -> str:
        """What failures.csv calls it."""
        return f"seam {self.seam}"


Task = PrepareTask | ShardTask | BandTask | BeginTask | LevelTask | AuditTask | FinishTask


@dataclass(frozen=True)
class Pieces:
    """What is left of the finishing of a large micrograph.

    Attributes:
        levels: Shards to make of level 1, 2, ...
        seams: Seams to measure.
    """

    levels: tuple[ShardSet, ...] = ()
    seams: int = 0


@dataclass(frozen=True)
class Outcome:
    """A row for each task, done or not.

    Attributes:
        task: The task.
        ok: Whether it is done.
        reason: Why not, in one line for the user.
        fatal: Going on makes no sense (disk full, model unreadable).
        gone: No other task of the micrograph can be done either: the file has `changed`, is `missing`, or has `stalled`.
        detail: A traceback, where the failure is the engine's own.
        prepared: The result of a `PrepareTask`.
        pieces: The result of a `BeginTask`.
        seams: The result of an `AuditTask`.
        note: The note of the mask that a `FinishTask` wrote.
        seconds: How long it took.
        worker: Host and process that did it.
    """

    task: Task
    ok: bool
    reason: str = ""
    fatal: bool = False
    gone: Literal["", "changed", "missing", "stalled"] = ""
    detail: str = ""
    prepared: Prepared | None = None
    pieces: Pieces = field(default_factory=Pieces)
    seams: SeamAudit | None = None
    note: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = field(default=0.0, compare=False)
    worker: str = field(default="", compare=False)


def timed(do: Callable[[Task], Outcome], task: Task) -> Outcome:
    """Do a task, and note how long it took and where.

    Args:
        do: A worker's.
        task: What is done.
    """
    began = time.monotonic()
    outcome = do(task)
    return replace(outcome, seconds=time.monotonic() - began, worker=f"{socket.gethostname()}:{os.getpid()}")


def calibration_note(calibration: Calibration, view: View) -> dict[str, Any]:
    """What a mask's note says of scale and info bar."""
    size, own = calibration.pixel_size_um, calibration.file_pixel_size_um
    note: dict[str, Any] = {
        "pixel_size_um": None if size is None else list(size),
        "pixel_size_source": calibration.source,
        "calibration_mark": calibration.mark,
        "notes": list(calibration.notes),
    }
    if calibration.pages > 1:
        note["pages"] = calibration.pages
    if view.info_bar:
        note["info_bar"] = {"rows": view.info_bar, "source": calibration.info_bar_source}
    if view.file_shape is not None:
        note["rescaled"] = {
            "file_shape": list(view.file_shape),
            "file_pixel_size_um": None if own is None else list(own),
            # File pixels a mask pixel, along y and x.
            "factor": [
                (view.file_shape[0] - view.file_info_bar) / view.specimen.height,
                view.file_shape[1] / view.specimen.width,
            ],
        }
    return note


def noted_file_size(store: MaskStore) -> tuple[float, float] | None:
    """The (y, x) pixel size of the file that a finished store was made with, also where the mask is a rescaled one."""
    note = store.note
    size = note.get("rescaled", {}).get("file_pixel_size_um") or note.get("pixel_size_um")
    return None if size is None else (float(size[0]), float(size[1]))
