"""The tasks of a worker: prepare a micrograph, segment a shard, finish a micrograph. Coordinates in, coordinates out.

A task that fails returns an `Outcome` with the reason; a worker raises nothing, because an exception inside a pool costs
more than the task that caused it.
"""

from __future__ import annotations

import threading
import traceback
from collections import OrderedDict
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import (
    ChangedInputError,
    CheckpointError,
    FencedError,
    InputError,
    MicrosegError,
    ObjectStoreError,
    StalledInputError,
    StoreError,
)
from microseg_ray.files import place
from microseg_ray.models.memory import release_memory
from microseg_ray.names import require_room
from microseg_ray.quarantine import is_full
from microseg_ray.runs.config import load_own_predictor
from microseg_ray.runs.finisher import Finisher
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.shard_set import ShardSet
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.streaming import Streamer
from microseg_ray.runs.tasks import (
    AuditTask,
    BandTask,
    BeginTask,
    Calibration,
    FinishTask,
    LevelTask,
    Outcome,
    Prepared,
    PrepareTask,
    ShardTask,
    Task,
    calibration_note,
    noted_file_size,
)
from microseg_ray.sources import (
    Micrograph,
    View,
    fingerprint,
    intensity_limits,
    open_micrograph,
    open_view,
    prepared,
)
from microseg_ray.sources.agreement import channel_objection, intensity_note, intensity_objection, rescaled_limits
from microseg_ray.sources.scale.provenance import pixel_size_mark
from microseg_ray.sources.specimen.intensity import CHECKED_WINDOWS, intensity_sample
from microseg_ray.sources.unchanged import Unchanged
from microseg_ray.stitching import ShardPixels, engine_grid, predict_shard, shard_window
from microseg_ray.stitching.shards import extended, unmeasured

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.runs.config import WorkerConfig
    from microseg_ray.sources import MicrographInfo
    from microseg_ray.stitching import Predictor

__all__ = ["ArchiveWorker", "reusable_store"]

OPEN_MICROGRAPHS = 2


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
        self._inputs = Unchanged()
        self._streamer = Streamer(config.plan, config.classes, self._read, self._model)
        self._finisher = Finisher(config, self._streamer, self._read, self._model, self._computing)

    def do(self, task: Task) -> Outcome:
        """Do one task; every failure comes back as a row."""
        try:
            return self._step(task)
        except (CheckpointError, FencedError, ObjectStoreError) as error:
            return Outcome(task, ok=False, reason=str(error), fatal=True)
        except Exception as error:  # noqa: BLE001 - whatever a library raises on one input must not cost the others
            return self._failed(task, error)

    def _failed(self, task: Task, error: Exception) -> Outcome:
        lost = self._lost(task, error)
        if lost is not None:
            self.forget(task.path)
            return Outcome(task, ok=False, reason=_without_path(lost, task.path), gone=_how(lost))
        if isinstance(error, MicrosegError):
            return Outcome(task, ok=False, reason=_without_path(error, task.path))
        if isinstance(error, OSError):
            reason = f"{error.strerror or error}: {error.filename or task.path}"
            return Outcome(task, ok=False, reason=reason, fatal=is_full(error))
        detail = "".join(traceback.format_exception(error))
        return Outcome(task, ok=False, reason=f"{type(error).__name__}: {error}", detail=detail)

    def _lost(self, task: Task, error: Exception) -> InputError | None:
        """Why the file of a failed task is not the one any more that was prepared; None where it is."""
        if isinstance(error, ChangedInputError | StalledInputError):
            return error
        if isinstance(task, PrepareTask):
            return None
        try:
            # Now, however lately it was looked at: the change may be what failed the task.
            self._require_unchanged(task, MaskStore.open(task.store), final=True)
        except InputError as found:
            return found
        except (MicrosegError, OSError):
            return None
        return None

    def _require_unchanged(self, task: Task, store: MaskStore, *, final: bool = False) -> None:
        """Refuse results of a file that is not the one any more that the store is bound to: before anything is committed."""
        mark = str(store.identity.get("fingerprint", ""))
        if mark:
            self._inputs.require(task.path, mark, final=final)

    def _step(self, task: Task) -> Outcome:
        match task:
            case PrepareTask():
                return self._prepare(task)
            case ShardTask():
                return self._shard(task)
            case BandTask():
                return self._band(task)
            case BeginTask() | LevelTask() | AuditTask():
                return self._piece(task)
            case FinishTask():
                return self._finish(task)

    def _prepare(self, task: PrepareTask) -> Outcome:
        config = self.config
        require_room(task.path, task.name, ".zarr")
        # First, so that a change after it is seen by the checks that follow.
        mark = _mark(task.path, config.fingerprint)
        with open_micrograph(task.path, config.source) as file:
            micrograph, limits, said = self._look(file)
            info, original = micrograph.info, file.info
        mark = mark or fingerprint(task.path, config.fingerprint)
        view = View.of(info, original.info_bar_rows)
        calibration = self._calibration(task, original, info, said)
        identity = {**config.identity, "fingerprint": mark, "limits": list(limits), "view": view.record()}
        spec = MaskSpec(view.shape, config.classes, config.plan.shard, config.plan.extra, config.spreads)
        store = reusable_store(task.store, spec, identity)
        # In a store that was made just now nothing need be looked for.
        missing = ShardSet(spec.shards) if store is None else ShardSet.of(spec.shards, store.missing())
        if store is None and not task.dry:
            with config.writing():
                store = MaskStore.create(task.store, spec, identity)
        found = Prepared(
            view=view,
            limits=limits,
            calibration=calibration,
            missing=missing,
            finished=store is not None and not missing and store.finished and _calibrated(store, calibration),
            decoded_bytes=info.decoded_bytes,
        )
        return Outcome(task, ok=True, prepared=found)

    def examine(self, path: str) -> tuple[View, tuple[float, float]]:
        """Decide the grid and the intensity limits of a micrograph, as a `PrepareTask` does, and write nothing.

        Args:
            path: The micrograph.

        Raises:
            InputError: It cannot be read, or does not suit the model.
        """
        with open_micrograph(path, self.config.source) as file:
            micrograph, limits, _ = self._look(file)
            return View.of(micrograph.info, file.info.info_bar_rows), limits

    def _look(self, file: Micrograph) -> tuple[Micrograph, tuple[float, float], str]:
        """The micrograph as the model sees it, its limits, and what is to be said of its intensities."""
        config = self.config
        self.check(file.info)
        micrograph = prepared(file, config.scaling, config.source, config.scale)
        limits = intensity_limits(micrograph, config.scaling)
        if config.intensities is None and file.info.dtype != "float32":
            # Nothing is known that integers could be compared with, so that no pixel need be read.
            return micrograph, limits, ""
        sample = intensity_sample(file, CHECKED_WINDOWS)
        reason = intensity_objection(config.scaling, config.intensities, file.info.dtype, sample)
        if not reason:
            return micrograph, limits, intensity_note(config.intensities, limits, sample)
        if config.intensity_mismatch == "stop":
            advice = "set on_intensity_mismatch to rescale (or note), convert the file, or train with scaling fixed or percentile"
            raise InputError(file.info.path, reason, advice)
        if config.intensity_mismatch == "rescale":
            limits = rescaled_limits(config.intensities, sample)
            reason = f"{reason}; {limits[0]:g} to {limits[1]:g} were taken for the whole range"
        return micrograph, limits, reason

    def _calibration(self, task: PrepareTask, original: MicrographInfo, info: MicrographInfo, said: str) -> Calibration:
        unscaled = self.config.scale.note(original.pixel_size_um) if info.file_shape is None else ""
        return Calibration(
            pixel_size_um=info.pixel_size_um,
            source=info.pixel_size_source,
            file_pixel_size_um=original.pixel_size_um,
            info_bar_source=info.info_bar_source,
            mark=pixel_size_mark(task.path, self.config.source, self.config.fingerprint),
            notes=(*info.notes, *info.pixel_size_notes, *filter(None, [unscaled, said])),
            pages=original.parts.pages,
        )

    def check(self, info: MicrographInfo) -> None:
        """Whether a micrograph suits the model and the memory.

        Raises:
            InputError: It does not.
        """
        reason = channel_objection(info.channels, self.config.channels)
        if reason:
            raise InputError(info.path, reason, "convert it to gray, or train a model on colour images")
        if info.decoded_bytes > self.config.decoded_limit:
            raise InputError(
                info.path,
                f"decoding it whole takes {info.decoded_bytes / 1e9:.1f} GB, more than the memory that was set",
                "convert it to tiled TIFF or OME-Zarr, or raise memory",
            )

    def _shard(self, task: ShardTask) -> Outcome:
        store = MaskStore.open(task.store)
        result = self._pixels_of(task, store.spec.box(task.shard))
        self._require_unchanged(task, store)
        with self.config.writing():
            store.commit(task.shard, result.mask, result.extra, result.spreads)
        del result
        release_memory()
        return Outcome(task, ok=True)

    def _band(self, task: BandTask) -> Outcome:
        store = MaskStore.open(task.store)
        missing = set(store.missing())
        # A worker may have died in the middle of this band: the rows that it committed stand.
        left = replace(task, shards=tuple(shard for shard in task.shards if shard in missing))
        if left.shards:
            for shard, result in self.stream(left):
                self._require_unchanged(task, store)
                with self.config.writing():
                    store.commit(shard, np.ascontiguousarray(result.mask), result.extra, result.spreads)
        release_memory()
        return Outcome(task, ok=True)

    def stream(self, task: BandTask, *, raw_scores: bool = False) -> Iterator[tuple[tuple[int, int], ShardPixels]]:
        """`Streamer.stream`, one band at a time: the outputs of a compiled graph are its buffers."""
        with self._computing:
            yield from self._streamer.stream(task, raw_scores=raw_scores)

    def compute(self, task: ShardTask) -> ShardPixels:
        """The pixels of a shard, without writing them: `verify` compares them, `evaluate` judges them."""
        if self.config.plan.strip:
            band = BandTask(task.name, task.path, task.store, task.view, task.limits, (task.shard,))
            return next(result for _, result in self.stream(band))
        box = MaskSpec(task.view.shape, self.config.classes, self.config.plan.shard).box(task.shard)
        return self._pixels_of(task, box)

    def _pixels_of(self, task: ShardTask, box: Box) -> ShardPixels:
        """The specimen is segmented as if the info bar had been cut off; what lies below it is not measured."""
        plan, specimen = self.config.plan, task.view.specimen
        part = box.intersection(specimen)
        if not part.area:
            return unmeasured(box.shape, plan.extra, len(self.config.classes))
        grid = engine_grid(specimen.shape, plan)
        region, _ = shard_window(grid, part, plan)
        pixels = self._read(task.path, task.view, region)
        with self._computing:
            result = predict_shard(pixels, self._model(), grid, part, plan, task.limits)
        return result if part == box else extended(result, box.height)

    def _piece(self, task: BeginTask | LevelTask | AuditTask) -> Outcome:
        return self._finisher.do(task)

    def _finish(self, task: FinishTask) -> Outcome:
        note: dict[str, Any] = {"verdict": self.config.verdict, **calibration_note(task.calibration, task.view)}
        note |= asdict(task.seams or self._finisher.seams(task))
        store = MaskStore.open(task.store)
        self._require_unchanged(task, store, final=True)
        with self.config.writing():
            store.finish(task.calibration.pixel_size_um, note, made=task.seams is not None)
        self.forget(task.path)
        return Outcome(task, ok=True, note=note)

    def _read(self, path: str, view: View, region: Box) -> NDArray[Any]:
        """(channel, y, x) pixels of the model's channel count; a gray micrograph serves a colour model."""
        with self._reading:
            if path not in self._open:
                self._open[path] = open_view(path, self.config.scaling, self.config.source, view)
                while len(self._open) > OPEN_MICROGRAPHS:
                    self._open.popitem(last=False)[1].close()
            self._open.move_to_end(path)
            pixels: NDArray[Any] = self._open[path].read(region)
        if pixels.shape[0] != self.config.channels:
            pixels = np.broadcast_to(pixels[:1], (self.config.channels, *pixels.shape[1:]))
        return pixels

    def forget(self, path: str) -> None:
        """Close a micrograph that is held open; one that is not is fine."""
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
            self._predictor = load_own_predictor(self.config)
        return self._predictor


def _calibrated(store: MaskStore, calibration: Calibration) -> bool:
    same_mark = store.note.get("calibration_mark", "") == calibration.mark
    same_mark &= store.note.get("pixel_size_source", "") == calibration.source
    return same_mark and noted_file_size(store) == calibration.file_pixel_size_um


def reusable_store(path: str, spec: MaskSpec, identity: Mapping[str, Any]) -> MaskStore | None:
    """The store of an earlier try, if its results are those that this run would make."""
    found = place(path)
    if not found.exists():
        return None
    try:
        store = MaskStore.open(path)
    except StoreError:
        return None
    # A store of a version that did not count by each of several predictions is gone on with.
    fits = store.spec in {spec, replace(spec, spreads=())} and store.identity == dict(identity)
    return store if fits else None


def _how(error: InputError) -> Literal["changed", "missing", "stalled"]:
    """What has become of a file whose other tasks are pointless."""
    if isinstance(error, ChangedInputError):
        return "changed"
    return "stalled" if isinstance(error, StalledInputError) else "missing"


def _mark(path: str, kind: Literal["stat", "content"]) -> str:
    """The fingerprint of a file; empty where it cannot be read, which whoever opens the file explains better."""
    try:
        return fingerprint(path, kind)
    except InputError as error:
        if isinstance(error.__cause__, OSError) and not isinstance(error, StalledInputError):
            return ""
        raise


def _without_path(error: MicrosegError, path: str) -> str:
    """failures.csv names the file in a column of its own."""
    return str(error).removeprefix(f"{path}: ")
