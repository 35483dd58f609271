"""A run from a run: every mask through the steps, shard by shard, into a store of its own."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.base import compute

from microseg_ray.errors import SettingsError, StoreError
from microseg_ray.files import sole_writer
from microseg_ray.geometry import Box
from microseg_ray.quarantine import Failure
from microseg_ray.runs.derived.operations import Steps
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.worker import reusable_store

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.settings import PostprocessSettings
    from microseg_ray.statistics.areas import AreaRow

__all__ = ["Postprocessed", "Scheduler", "postprocess"]

Scheduler = str | Callable[..., Any]
Report = Callable[[int, int], None]

# Shards along each side of what is computed in one go: neighbours share halos, and what is in flight stays bounded.
WAVE = 4


@dataclass
class Postprocessed:
    """What the postprocess job came to.

    Attributes:
        run: The new run.
        parent: The run that it was made from.
        computed: Shards computed now.
        kept: Micrographs that were complete already.
        failures: Micrographs without a mask in the new run, those of the parent included.
        areas: The rows of areas.csv.
    """

    run: Run
    parent: Run
    computed: int = 0
    kept: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    areas: list[AreaRow] = field(default_factory=list)


def postprocess(
    settings: PostprocessSettings, report: Report = lambda *_: None, scheduler: Scheduler = "threads"
) -> Postprocessed:
    """Derive a run from a run, or what is missing of it; the parent is not changed.

    The new run is bound to the parent's identity and to the steps; run.json names the parent. Pixel size, verdict and
    seam measurements are carried over; extra outputs (margin, entropy, probabilities) are not, for they describe
    the parent's pixels.

    Args:
        settings: The job's settings; `workers` and `ray` are the caller's business, who gives the scheduler.
        report: Told (shards done, shards to do).
        scheduler: What dask computes with: `threads`, `synchronous`, or a function such as Ray's `ray_dask_get`. With a
            cluster, the run folders must be reachable from all nodes.

    Raises:
        StoreError: There is no run, or the disk is full.
        SettingsError: The run is itself postprocessed, or the output would harm it.
        RunMismatchError: The output holds another run, or a job is writing there.
    """
    parent = Run.open(settings.run)
    output = Path(settings.output).absolute()
    _refuse_harm(parent, output)
    steps = Steps(settings.min_speck, settings.min_hole, settings.majority)
    identity = RunIdentity(parent.identity.model_digest, {**parent.identity.pixels, "postprocess": asdict(steps)})
    with sole_writer(output):
        run = Run.create(output, identity, _record(parent, settings), overwrite=settings.overwrite)
        done = Postprocessed(run, parent, failures=parent.failures())
        failed = {failure.path for failure in done.failures}
        names = [name for name in parent.names() if name not in failed]
        todo = []
        for name in names:
            try:
                todo.append(_Derived.prepare(run, parent, name, steps))
            except (StoreError, OSError) as error:
                done.failures.append(Failure(name, "postprocess", str(error)))
        total, so_far = sum(len(item.missing) for item in todo), 0
        for item in todo:
            if item.complete:
                done.kept.append(item.name)
                continue
            try:
                for own in item.work(scheduler):
                    report(so_far + own, total)
                item.finish()
                done.computed += len(item.missing)
            except Exception as error:  # noqa: BLE001 - what one mask raises must not cost the others
                _stop_if_full(error, output)
                done.failures.append(Failure(item.name, "postprocess", f"{type(error).__name__}: {error}"))
            so_far += len(item.missing)
        failed = {failure.path for failure in done.failures}
        done.areas = run.write_tables([name for name in names if name not in failed], done.failures)
    return done


def _refuse_harm(parent: Run, output: Path) -> None:
    if "postprocess" in parent.identity.pixels:
        raise SettingsError(
            f"postprocess.run: {parent.folder} is postprocessed itself; give the run that it was made from, "
            f"{parent.document.get('parent', {}).get('path', 'see its run.json')}, with all steps at once"
        )
    same = output.resolve() == parent.folder.resolve()
    nested = output.resolve().is_relative_to((parent.folder / "masks").resolve())
    around = parent.folder.resolve().is_relative_to((output / "masks").resolve())
    if same or nested or around:
        raise SettingsError(
            f"postprocess.output: {output} is, or lies in, the run that is read; give another folder, results are never mixed"
        )


def _record(parent: Run, settings: PostprocessSettings) -> dict[str, Any]:
    """run.json: the parent's account of its pixels, who the parent is, and what was done."""
    told = (
        *("settings", "archive", "source", "checkpoint", "classes", "verdict", "verdict_reason", "fingerprint"),
        "model_pixel_size_um",
    )
    return {
        **{key: parent.document[key] for key in told if key in parent.document},
        "parent": {"path": str(parent.folder), "identity": dict(parent.document["identity"])},
        "postprocess": settings.resolved(),
    }


@dataclass(frozen=True)
class _Derived:
    """One mask of the new run, and the one that it is made from."""

    name: str
    source: MaskStore
    target: MaskStore
    steps: Steps
    missing: tuple[tuple[int, int], ...]
    note: dict[str, Any]

    @classmethod
    def prepare(cls, run: Run, parent: Run, name: str, steps: Steps) -> _Derived:
        """Open both, the new one as an earlier try left it if that is still good.

        Raises:
            StoreError: The parent's mask is not finished.
        """
        source = MaskStore.open(parent.store_path(name))
        if not source.finished or source.missing():
            raise StoreError("its mask is not finished in the run that is read; run segment there again first")
        told = source.identity
        identity = {**told, "pixels": {**told["pixels"], "postprocess": asdict(steps)}}
        spec = MaskSpec(source.spec.shape, source.spec.classes, source.spec.shard)
        path = str(run.store_path(name))
        target = reusable_store(path, spec, identity) or MaskStore.create(path, spec, identity)
        # What the parent's size was then tells a corrected parent from a corrected child.
        note = {**source.note, "parent_pixel_size_um": source.note.get("pixel_size_um")}
        return cls(name, source, target, steps, tuple(target.missing()), note)

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do."""
        same = self.target.note.get("parent_pixel_size_um") == self.note["parent_pixel_size_um"]
        return not self.missing and self.target.finished and same

    def work(self, scheduler: Scheduler) -> Iterator[int]:
        """Compute and commit the missing shards, some at a time; yields how many are done."""
        spec = self.target.spec
        missing, done = set(self.missing), 0
        for y0 in range(0, spec.shards[0], WAVE):
            for x0 in range(0, spec.shards[1], WAVE):
                last = (min(y0 + WAVE, spec.shards[0]) - 1, min(x0 + WAVE, spec.shards[1]) - 1)
                counts = self._counts(spec.box((y0, x0)).union(spec.box(last)), (y0, x0))
                wanted = [
                    counts.blocks[y, x]
                    for y, x in np.ndindex(last[0] - y0 + 1, last[1] - x0 + 1)
                    if (y0 + y, x0 + x) in missing
                ]
                if wanted:
                    compute(*wanted, scheduler=scheduler)
                    done += len(wanted)
                    yield done

    def _counts(self, box: Box, first: tuple[int, int]) -> da.Array:
        """(shard_y, shard_x, class) counts of the shards in a box, whose computing commits them."""
        spec = self.target.spec
        frame = box.grow(self.steps.halo).intersection(Box.of_shape(spec.shape))
        mask = da.from_zarr(self.source.mask, chunks=(spec.shard, spec.shard), inline_array=True)
        result = self.steps.apply(mask[frame.slices], len(spec.classes))[box.relative_to(frame).slices]
        counts: da.Array = result.rechunk((spec.shard, spec.shard)).map_blocks(
            _commit,
            self.target.path,
            first,
            new_axis=2,
            chunks=(*((1,) * -(-side // spec.shard) for side in box.shape), (len(spec.classes),)),
            dtype=np.int64,
            meta=np.empty((0, 0, 0), np.int64),
        )
        return counts

    def finish(self) -> None:
        """Pyramid, metadata, and what the parent knows of the micrograph."""
        size = self.note.get("pixel_size_um")
        self.target.finish(None if size is None else (float(size[0]), float(size[1])), self.note)


def _commit(
    mask: NDArray[np.uint8], path: str, first: tuple[int, int], block_id: tuple[int, ...] | None = None
) -> NDArray[np.int64]:
    """Write one shard where it was computed; only its counts travel."""
    if block_id is None:
        raise ValueError("dask gave no block_id: a shard does not know its place")
    shard = (first[0] + block_id[0], first[1] + block_id[1])
    return MaskStore.open(path).commit(shard, mask)[None, None, :]


def _stop_if_full(error: BaseException, output: Path) -> None:
    """A full disk fails every mask that follows; Ray hides the cause in an attribute."""
    for inner in (error, getattr(error, "cause", None)):
        if isinstance(inner, OSError) and inner.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            raise StoreError(
                f"{output}: {inner.strerror}; the job stops here and can be resumed with the same command"
            ) from error
