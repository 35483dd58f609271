"""What one worker does: prepare a micrograph, segment a shard, finish a micrograph. Rows in, rows out, never pixels.

A task that cannot be done returns an `Outcome` that says so; nothing raises out of a worker, because an exception
inside a pool costs more than the task that caused it.
"""

from __future__ import annotations

import errno
import threading
import traceback
from collections import OrderedDict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import CheckpointError, InputError, MicrosegError, StoreError
from microseg_ray.sources import Micrograph, fingerprint, intensity_limits, open_prepared
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, shard_window
from microseg_ray.stitching.seams import SeamAudit, audit_seams
from microseg_ray.stores import MaskSpec, MaskStore
from microseg_ray.workers import release_memory

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.settings import ClassSpec, Scaling
    from microseg_ray.sources import MicrographInfo
    from microseg_ray.stitching import Predictor

__all__ = [
    "ArchiveWorker",
    "FinishTask",
    "Outcome",
    "PrepareTask",
    "Prepared",
    "ShardTask",
    "Task",
    "WorkerConfig",
    "reusable_store",
]

OPEN_MICROGRAPHS = 2


@dataclass(frozen=True)
class WorkerConfig:
    """What every worker of a run is told, once.

    Attributes:
        checkpoint: Folder of the model.
        precision: `bf16` or `fp32`.
        device: torch device.
        threads: torch threads; part of what decides the bytes.
        plan: The engine's plan.
        identity: The run's identity, as it goes into each mask store.
        classes: The model's classes.
        channels: Channels that the model sees.
        scaling: How intensities become what the model sees.
        fingerprint: How an input is recognised: `stat` or `content`.
        pixel_size_um: The user's own (y, x), before any file's.
        verdict: What the run promises about seams.
        decoded_limit: Bytes that decoding one file whole may take.
    """

    checkpoint: str
    precision: Literal["bf16", "fp32"]
    device: str
    threads: int
    plan: EnginePlan
    identity: Mapping[str, Any]
    classes: tuple[ClassSpec, ...]
    channels: int
    scaling: Scaling
    fingerprint: Literal["stat", "content"]
    pixel_size_um: tuple[float, float] | None
    verdict: str
    decoded_limit: int = 8 * 1024**3


@dataclass(frozen=True)
class PrepareTask:
    """Look at one micrograph and open its mask store; `dry` makes none."""

    name: str
    path: str
    store: str
    dry: bool = False
    stage: str = "open"


@dataclass(frozen=True)
class Prepared:
    """What preparing found.

    Attributes:
        shape: (height, width) in pixels.
        limits: Intensities (low, high).
        pixel_size_um: (y, x), or None.
        pixel_size_source: Where it comes from.
        missing: Shards to compute.
        shards: Shards in all.
        finished: Whether pyramid and metadata stand.
        decoded_bytes: Memory that an open handle may hold.
    """

    shape: tuple[int, int]
    limits: tuple[float, float]
    pixel_size_um: tuple[float, float] | None
    pixel_size_source: str
    missing: tuple[tuple[int, int], ...]
    shards: int
    finished: bool
    decoded_bytes: int


@dataclass(frozen=True)
class ShardTask:
    """Segment one shard and commit it."""

    name: str
    path: str
    store: str
    shape: tuple[int, int]
    limits: tuple[float, float]
    shard: tuple[int, int]

    @property
    def stage(self) -> str:
        """What failures.csv calls it."""
        return f"shard {self.shard[0]},{self.shard[1]}"


@dataclass(frozen=True)
class FinishTask:
    """Write pyramid, metadata and seam measurements of one micrograph."""

    name: str
    path: str
    store: str
    shape: tuple[int, int]
    limits: tuple[float, float]
    pixel_size_um: tuple[float, float] | None
    pixel_size_source: str
    stage: str = "finish"


Task = PrepareTask | ShardTask | FinishTask


@dataclass(frozen=True)
class Outcome:
    """A row for each task, done or not.

    Attributes:
        task: The task.
        ok: Whether it is done.
        reason: Why not, in one line for the user.
        fatal: Going on makes no sense (disk full, model unreadable).
        detail: A traceback, where the failure is the engine's own.
        prepared: The result of a `PrepareTask`.
        note: The seam measurements of a `FinishTask`.
    """

    task: Task
    ok: bool
    reason: str = ""
    fatal: bool = False
    detail: str = ""
    prepared: Prepared | None = None
    note: Mapping[str, Any] = field(default_factory=dict)


class ArchiveWorker:
    """Does tasks. Thread-safe: two shards may be in flight, one read or written while the other is computed.

    Args:
        config: What the run is.
        predictor: The model; loaded from the checkpoint at the first shard where None.
    """

    def __init__(self, config: WorkerConfig, predictor: Predictor | None = None) -> None:
        self.config = config
        self._predictor = predictor
        self._open: OrderedDict[str, Micrograph] = OrderedDict()
        self._reading = threading.Lock()
        self._computing = threading.Lock()

    def do(self, task: Task) -> Outcome:
        """Do one task; every failure comes back as a row."""
        try:
            return self._step(task)
        except CheckpointError as error:
            return Outcome(task, ok=False, reason=str(error), fatal=True)
        except MicrosegError as error:
            return Outcome(task, ok=False, reason=_without_path(error, task.path))
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
            return Outcome(
                task, ok=False, reason=f"{error.strerror or error}: {error.filename or task.path}", fatal=full
            )
        except Exception as error:  # noqa: BLE001 - whatever a library raises on one input must not cost the others
            return Outcome(task, ok=False, reason=f"{type(error).__name__}: {error}", detail=traceback.format_exc())

    def _step(self, task: Task) -> Outcome:
        match task:
            case PrepareTask():
                return self._prepare(task)
            case ShardTask():
                return self._shard(task)
            case FinishTask():
                return self._finish(task)

    def _prepare(self, task: PrepareTask) -> Outcome:
        with open_prepared(task.path, self.config.scaling) as micrograph:
            info = micrograph.info
            self.check(info)
            limits = intensity_limits(micrograph, self.config.scaling)
        mark = fingerprint(task.path, self.config.fingerprint)
        size, source = info.pixel_size_um, info.pixel_size_source
        if self.config.pixel_size_um is not None:
            size, source = self.config.pixel_size_um, "option pixel_size_um"
        identity = {**self.config.identity, "fingerprint": mark, "limits": list(limits)}
        spec = MaskSpec(info.shape, self.config.classes, self.config.plan.shard, self.config.plan.extra)
        store = reusable_store(task.store, spec, identity)
        if store is None and not task.dry:
            store = MaskStore.create(task.store, spec, identity)
        missing = list(np.ndindex(*spec.shards)) if store is None else store.missing()
        prepared = Prepared(
            shape=info.shape,
            limits=limits,
            pixel_size_um=size,
            pixel_size_source=source,
            missing=tuple(missing),
            shards=spec.shards[0] * spec.shards[1],
            finished=store is not None and not missing and store.finished and _calibrated(store, size),
            decoded_bytes=info.decoded_bytes,
        )
        return Outcome(task, ok=True, prepared=prepared)

    def check(self, info: MicrographInfo) -> None:
        """Whether a micrograph suits the model and the memory.

        Raises:
            InputError: It does not.
        """
        if info.channels not in {1, self.config.channels}:
            raise InputError(
                info.path,
                f"has {info.channels} different colour channels, the model sees {self.config.channels}",
                "convert it to gray, or train a model on colour images",
            )
        if info.decoded_bytes > self.config.decoded_limit:
            raise InputError(
                info.path,
                f"decoding it whole takes {info.decoded_bytes / 1e9:.1f} GB, more than the memory that was set",
                "convert it to tiled TIFF or OME-Zarr, or raise memory",
            )

    def _shard(self, task: ShardTask) -> Outcome:
        plan, grid = self.config.plan, engine_grid(task.shape, self.config.plan)
        store = MaskStore.open(task.store)
        box = store.spec.box(task.shard)
        region, _ = shard_window(grid, box, plan)
        pixels = self._read(task.path, region)
        with self._computing:
            result = predict_shard(pixels, self._model(), grid, box, plan, task.limits)
        del pixels
        store.commit(task.shard, result.mask, result.extra)
        del result
        release_memory()
        return Outcome(task, ok=True)

    def compute(self, task: ShardTask) -> NDArray[np.uint8]:
        """The mask of a shard without writing it: what `verify` compares."""
        plan, grid = self.config.plan, engine_grid(task.shape, self.config.plan)
        box = MaskSpec(task.shape, self.config.classes, plan.shard).box(task.shard)
        pixels = self._read(task.path, shard_window(grid, box, plan)[0])
        with self._computing:
            return predict_shard(pixels, self._model(), grid, box, plan, task.limits).mask

    def _finish(self, task: FinishTask) -> Outcome:
        grid = engine_grid(task.shape, self.config.plan)
        note: dict[str, Any] = {
            "verdict": self.config.verdict,
            "pixel_size_um": None if task.pixel_size_um is None else list(task.pixel_size_um),
            "pixel_size_source": task.pixel_size_source,
        }
        seams = SeamAudit(0, 0.0, 0)
        if len(grid) > 1:
            with self._computing:
                seams = audit_seams(lambda box: self._read(task.path, box), self._model(), grid, task.limits)
        note |= asdict(seams)
        MaskStore.open(task.store).finish(task.pixel_size_um, note)
        self._forget(task.path)
        return Outcome(task, ok=True, note=note)

    def _read(self, path: str, region: Box) -> NDArray[Any]:
        """(channel, y, x) pixels of the model's channel count; a gray micrograph serves a colour model."""
        with self._reading:
            if path not in self._open:
                self._open[path] = open_prepared(path, self.config.scaling)
                while len(self._open) > OPEN_MICROGRAPHS:
                    self._open.popitem(last=False)[1].close()
            self._open.move_to_end(path)
            pixels: NDArray[Any] = self._open[path].read(region)
        if pixels.shape[0] != self.config.channels:
            pixels = np.broadcast_to(pixels[:1], (self.config.channels, *pixels.shape[1:]))
        return pixels

    def _forget(self, path: str) -> None:
        with self._reading:
            micrograph = self._open.pop(path, None)
            if micrograph is not None:
                micrograph.close()

    def close(self) -> None:
        """Close the files that are held open between shards."""
        with self._reading:
            while self._open:
                self._open.popitem()[1].close()

    def _model(self) -> Predictor:
        if self._predictor is None:
            from microseg_ray.models.predictor import load_predictor

            config = self.config
            self._predictor = load_predictor(
                config.checkpoint, precision=config.precision, threads=config.threads, device=config.device
            )
        return self._predictor


def _calibrated(store: MaskStore, size: tuple[float, float] | None) -> bool:
    noted = store.note.get("pixel_size_um")
    return (None if noted is None else tuple(noted)) == size


def reusable_store(path: str, spec: MaskSpec, identity: Mapping[str, Any]) -> MaskStore | None:
    """The store of an earlier try, if its results are those that this run would make."""
    if not Path(path).exists():
        return None
    try:
        store = MaskStore.open(path)
    except StoreError:
        return None
    return store if store.spec == spec and store.identity == dict(identity) else None


def _without_path(error: MicrosegError, path: str) -> str:
    """failures.csv names the file in a column of its own."""
    return str(error).removeprefix(f"{path}: ")
