"""A run from a run: every mask through the steps, shard by shard, into a store of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.base import compute

from microseg_ray.errors import ObjectStoreError, SettingsError, StoreError
from microseg_ray.fence import Fence
from microseg_ray.files import place, sole_writer
from microseg_ray.geometry import Box
from microseg_ray.quarantine import Failure, stop_if_full
from microseg_ray.runs.derived.base import open_masks, parent_record, refuse_harm
from microseg_ray.runs.derived.operations import Steps
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.store.masks import MaskStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.accounts import Account
    from microseg_ray.settings import PostprocessSettings
    from microseg_ray.statistics.areas import AreaRow

__all__ = ["Postprocessed", "Scheduler", "postprocess"]

Scheduler = str | Callable[..., Any]
Report = Callable[[int, int], None]

# Shards along each side of what is computed in one go: neighbours share halos, and what is in flight stays bounded.
WAVE = 4

# Which rule removes small parts, in the identity: a run of an earlier rule, which left some, is not continued by this one.
PARTS = "class by class"


@dataclass
class Postprocessed:
    """The result of the postprocess job.

    Attributes:
        run: The new run.
        parent: The run that it was made from.
        computed: Shards computed now.
        kept: Micrographs that were complete already.
        failures: Micrographs without a mask in the new run, those of the parent included.
        areas: The rows of areas.csv.
        dropped: Files that showed older masks and were removed.
        accounts: Files, pages and pixels: seen = used + set aside + not taken.
    """

    run: Run
    parent: Run
    computed: int = 0
    kept: list[str] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    areas: Sequence[AreaRow] = ()
    dropped: list[str] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)


def postprocess(
    settings: PostprocessSettings, report: Report = lambda *_: None, scheduler: Scheduler = "threads"
) -> Postprocessed:
    """Derive a run from a run, or what is missing of it; the parent is not changed.

    The new run is bound to the parent's identity and to the steps; run.json names the parent. Pixel size, verdict and
    seam measurements are carried over; extra outputs (margin, entropy, probabilities) are not, for they describe
    the parent's pixels.

    Args:
        settings: The job's settings; `workers` and `ray` are the caller's business, who gives the scheduler.
        report: Called with (shards done, shards to do).
        scheduler: What dask computes with: `threads`, `synchronous`, or a function such as Ray's `ray_dask_get`. With a
            cluster, the run folders must be reachable from all nodes.

    Raises:
        StoreError: There is no run, or the disk is full.
        SettingsError: The run is itself postprocessed, or the output would harm it.
        RunMismatchError: The output holds another run, or a job is writing there.
    """
    parent = Run.open(settings.run)
    output = place(settings.output).absolute()
    _refuse_postprocessed(parent)
    refuse_harm(parent, output, "postprocess")
    steps = Steps(settings.min_speck, settings.min_hole, settings.majority)
    identity = RunIdentity(
        parent.identity.model_digest, {**parent.identity.pixels, "postprocess": {**asdict(steps), "parts": PARTS}}
    )
    with sole_writer(output):
        fence = Fence.raised(output)
        record = {**parent_record(parent), "postprocess": settings.resolved()}
        run = Run.create(output, identity, record, overwrite=settings.overwrite)
        done = Postprocessed(run, parent, failures=parent.failures())
        failed = {failure.path for failure in done.failures}
        names = [name for name in parent.names() if name not in failed]
        todo = []
        for name in names:
            try:
                todo.append(_Derived.prepare(run, parent, name, steps))
            except (StoreError, OSError) as error:
                stop_if_full(error, output)
                done.failures.append(Failure(name, "postprocess", str(error)))
        total, so_far = sum(len(item.missing) for item in todo), 0
        for item in todo:
            if item.complete:
                done.kept.append(item.name)
                continue
            try:
                for own in item.work(scheduler, fence):
                    report(so_far + own, total)
                item.finish()
                done.computed += len(item.missing)
            except ObjectStoreError:
                raise
            except Exception as error:  # noqa: BLE001 - what one mask raises must not cost the others
                stop_if_full(error, output)
                done.failures.append(Failure(item.name, "postprocess", f"{type(error).__name__}: {error}"))
            so_far += len(item.missing)
        failed = {failure.path for failure in done.failures}
        done.dropped = run.drop_outdated()
        done.areas, done.accounts = run.write_tables([name for name in names if name not in failed], done.failures)
    return done


def _refuse_postprocessed(parent: Run) -> None:
    if "postprocess" in parent.identity.pixels:
        raise SettingsError(
            f"postprocess.run: {parent.folder} is postprocessed itself; give the run that it was made from, "
            f"{parent.document.get('parent', {}).get('path', 'see its run.json')}, with all steps at once"
        )


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
        source, target = open_masks(run, parent, name)
        # What the parent's size was then tells a corrected parent from a corrected child.
        note = {**source.note, "parent_pixel_size_um": source.note.get("pixel_size_um")}
        return cls(name, source, target, steps, tuple(target.missing()), note)

    @property
    def complete(self) -> bool:
        """Whether there is nothing to do."""
        same = self.target.note.get("parent_pixel_size_um") == self.note["parent_pixel_size_um"]
        return not self.missing and self.target.finished and same

    def work(self, scheduler: Scheduler, fence: Fence) -> Iterator[int]:
        """Compute and commit the missing shards, some at a time; yields how many are done."""
        spec = self.target.spec
        missing, done = set(self.missing), 0
        for y0 in range(0, spec.shards[0], WAVE):
            for x0 in range(0, spec.shards[1], WAVE):
                last = (min(y0 + WAVE, spec.shards[0]) - 1, min(x0 + WAVE, spec.shards[1]) - 1)
                counts = self._counts(spec.box((y0, x0)).union(spec.box(last)), (y0, x0), fence)
                wanted = [
                    counts.blocks[y, x]
                    for y, x in np.ndindex(last[0] - y0 + 1, last[1] - x0 + 1)
                    if (y0 + y, x0 + x) in missing
                ]
                if wanted:
                    compute(*wanted, scheduler=scheduler)
                    done += len(wanted)
                    yield done

    def _counts(self, box: Box, first: tuple[int, int], fence: Fence) -> da.Array:
        """(shard_y, shard_x, class) counts of the shards in a box, whose computing commits them."""
        spec = self.target.spec
        frame = box.grow(self.steps.halo(len(spec.classes))).intersection(Box.of_shape(spec.shape))
        mask = da.from_zarr(self.source.mask, chunks=(spec.shard, spec.shard), inline_array=True)
        result = self.steps.apply(mask[frame.slices], len(spec.classes))[box.relative_to(frame).slices]
        counts: da.Array = result.rechunk((spec.shard, spec.shard)).map_blocks(
            _commit,
            self.target.path,
            first,
            fence,
            new_axis=2,
            chunks=(*((1,) * -(-side // spec.shard) for side in box.shape), (len(spec.classes),)),
            dtype=np.int64,
            meta=np.empty((0, 0, 0), np.int64),
        )
        return counts

    def finish(self) -> None:
        """Pyramid, metadata, and the parent's notes on the micrograph."""
        size = self.note.get("pixel_size_um")
        self.target.finish(None if size is None else (float(size[0]), float(size[1])), self.note)


def _commit(
    mask: NDArray[np.uint8], path: str, first: tuple[int, int], fence: Fence, block_id: tuple[int, ...] | None = None
) -> NDArray[np.int64]:
    """Write one shard where it was computed; only its counts travel."""
    if block_id is None:
        raise ValueError("dask gave no block_id: so the place of a shard is unknown")
    shard = (first[0] + block_id[0], first[1] + block_id[1])
    with fence.writing():
        return MaskStore.open(path).commit(shard, mask)[None, None, :]
