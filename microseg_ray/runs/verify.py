"""The verify job: is a run what its run.json says it is?"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.accounts import Account
from microseg_ray.errors import CheckpointError, MicrosegError, StoreError
from microseg_ray.runs.damage import damaged
from microseg_ray.runs.folder import Run
from microseg_ray.runs.setup import prepare_job
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.tasks import ShardTask
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import SegmentSettings, VerifySettings, settings_from
from microseg_ray.sources import View, fingerprint, member_path

if TYPE_CHECKING:
    from microseg_ray.runs.setup import Job

__all__ = ["Verified", "verify"]

Report = Callable[[int, int], None]


@dataclass(frozen=True)
class Verified:
    """What verifying found.

    Attributes:
        recomputed: Shards that were computed again.
        equal: Those that came out with the same bytes.
        recounted: Shards whose pixels were counted again.
        miscounted: Those whose counts are not those of the ledger.
        problems: One line for each difference.
        accounts: Shards: seen = used + set aside + not taken.
        advice: What this could not find out, and how to; empty where there is nothing of the kind.
    """

    recomputed: int
    equal: int
    recounted: int
    miscounted: int
    problems: tuple[str, ...]
    advice: str = ""
    accounts: tuple[Account, ...] = ()


def verify(settings: VerifySettings, report: Report = lambda *_: None) -> Verified:
    """Recompute randomly chosen shards and compare the bytes; recount every shard of their micrographs.

    A postprocessed or thresholded run is recounted only: no model made its pixels, so `advice` names the run to verify.

    Args:
        settings: The job's settings.
        report: Called with (done, total).

    Returns:
        What was found; `problems` is empty where all is well.

    Raises:
        StoreError: No run is there, or nothing in it is done.
        CheckpointError: The checkpoint is missing or not the one of the run.
    """
    run = Run.open(settings.run)
    derived = not {"postprocess", "threshold"}.isdisjoint(run.identity.pixels)
    done = _done_shards(run)
    if not done:
        raise StoreError(f"{run.folder}: no shard is done yet; run {'postprocess' if derived else 'segment'} first")
    chosen = sorted(random.Random(settings.seed).sample(done, min(settings.shards, len(done))))
    problems = [] if derived else _recompute(run, settings.checkpoint, chosen, report)
    recomputed, differing = 0 if derived else len(chosen), len(problems)
    looked = {name for name, _ in chosen}
    recounted = sum(name in looked for name, _ in done)
    problems += [f"{failure.path}: {failure.reason}" for failure in damaged(run)]
    found = [_Damage.of(run, name, [own for other, own in done if other == name]) for name in sorted(looked)]
    miscounted = sum(len(each.shards) for each in found)
    problems += [line for each in found for line in each.lines()]
    advice = _advice(run) if derived else ""
    if any(each.shards or each.levels for each in found):
        advice += _repair(run, found) if settings.repair else f"{'; ' if advice else ''}{_HOW}"
    beside = sum(name not in looked for name, _ in done)
    missing = sum(len(store.missing()) for _, store in _stores(run))
    left = {"of micrographs outside the sample": beside, "not finished": missing}
    account = Account("shards", len(done) + missing, recounted, 0, {why: count for why, count in left.items() if count})
    return Verified(recomputed, recomputed - differing, recounted, miscounted, tuple(problems), advice, (account,))


@dataclass(frozen=True)
class _Damage:
    """What is damaged in the mask of one micrograph: shards that do not give their counts, levels of the pyramid."""

    name: str
    shards: tuple[tuple[int, int], ...]
    levels: tuple[int, ...]

    @classmethod
    def of(cls, run: Run, name: str, done: list[tuple[int, int]]) -> _Damage:
        store = MaskStore.open(run.store_path(name))
        shards = tuple(shard for shard in done if not store.recount(shard))
        # Of damaged pixels no pyramid can be right.
        return cls(name, shards, () if shards else tuple(store.stale_levels()))

    def lines(self) -> Iterator[str]:
        for shard in self.shards:
            yield f"{self.name}, shard {shard}: the mask's pixels do not give the counts of the ledger"
        for level in self.levels:
            yield f"{self.name}, level {level} of the pyramid: does not show the mask, or is damaged"


def _repair(run: Run, found: list[_Damage]) -> str:
    """Mark what is damaged as not done; what was marked."""
    with run.locked():
        for each in found:
            store = MaskStore.open(run.store_path(each.name))
            for shard in each.shards:
                store.forget(shard)
            if each.levels:
                store.unfinish()
    shards, levels = (
        sum(map(len, parts)) for parts in zip(*((each.shards, each.levels) for each in found), strict=True)
    )
    return f"{shards} shards and {levels} levels of pyramids are marked as not done: run the same segment command again"


_HOW = "verify with --repair true marks damaged shards and pyramids as not done, and the next segment makes them anew"


def _stores(run: Run) -> Iterator[tuple[str, MaskStore]]:
    """The masks that can be opened; `damaged` names the others."""
    for name in run.names():
        with contextlib.suppress(MicrosegError, OSError, RuntimeError):
            yield name, MaskStore.open(run.store_path(name))


def _advice(run: Run) -> str:
    parent = run.document.get("parent", {}).get("path", "the run that its run.json names as parent")
    return (
        f"{run.folder} is made from another run, so no model can recompute its pixels: verify the run that it was made from "
        f"(microseg verify --run {parent}), and make it again into another folder to compare; its shards were only recounted"
    )


def _recompute(
    run: Run, checkpoint: str | tuple[str, ...] | None, chosen: list[tuple[str, tuple[int, int]]], report: Report
) -> list[str]:
    """One line for each shard that comes out otherwise."""
    job = _job_of(run, checkpoint)
    worker = ArchiveWorker(job.config)
    problems: list[str] = []
    try:
        for number, (name, shard) in enumerate(chosen, 1):
            problem = _compare(run, job, worker, name, shard)
            problems += [] if problem is None else [problem]
            report(number, len(chosen))
    finally:
        worker.close()
    return problems


def _job_of(run: Run, checkpoint: str | tuple[str, ...] | None) -> Job:
    """The job that made the run, with the plan that it had."""
    pixels = run.identity.pixels
    saved = dict(run.document["settings"])
    settings = settings_from(
        SegmentSettings,
        {
            **saved,
            "archive": run.document["source"],
            "checkpoint": checkpoint or run.document["checkpoint"],
            # The value that `auto` had in that run; it may be another one now.
            **{
                key: pixels[key]
                for key in ("tile", "tile_area", "halo", "batch", "threads", "strip", "strip_width")
                if key in pixels
            },
            "path": pixels.get("path", "tiles"),
            "memory": 1024.0,
            "runtime": pixels.get("computed_with", {}).get("runtime", "auto"),
            # Which grid each mask lies on is in its own identity; the table may be gone.
            "source": {**saved.get("source", {}), "pixel_sizes": None},
        },
    )
    job = prepare_job(settings)
    differing = run.identity.differences(job.identity)
    if differing:
        raise CheckpointError(
            f"{run.folder}: cannot be recomputed with this checkpoint and these versions ({'; '.join(differing)}); give the "
            "run's own checkpoint, and install the versions that it was made with"
        )
    return job


def _done_shards(run: Run) -> list[tuple[str, tuple[int, int]]]:
    found: list[tuple[str, tuple[int, int]]] = []
    for name, store in _stores(run):
        done = (store.counts >= 0).all(axis=-1)
        found += [(name, (int(y), int(x))) for y, x in np.argwhere(done)]
    return found


def _compare(run: Run, job: Job, worker: ArchiveWorker, name: str, shard: tuple[int, int]) -> str | None:
    """What is wrong with a shard, or None."""
    store = MaskStore.open(run.store_path(name))
    path = member_path(str(run.document["archive"]), name)
    limits, record = store.identity["limits"], store.identity.get("view")
    view = View(store.spec.shape) if record is None else View.of_record(record)
    try:
        mark = fingerprint(path, job.config.fingerprint)
        if mark != store.identity["fingerprint"]:
            return f"{name}: the micrograph has changed since it was segmented ({store.identity['fingerprint']} then, {mark} now)"
        task = ShardTask(name, path, store.path, view, (limits[0], limits[1]), shard)
        found = worker.compute(task)
        fresh, kept = found.mask, store.read(store.spec.box(shard))
        spreads = {kind: rows[shard] for kind, rows in store.spreads.items()}
    except (MicrosegError, ValueError, RuntimeError, OSError) as error:
        return f"{name}, shard {shard}: cannot be compared ({error})"
    different = int(np.count_nonzero(fresh != kept))
    if different:
        return f"{name}, shard {shard}: {different} of {fresh.size} pixels differ"
    # Where nothing was measured, none are given.
    other = [kind for kind, rows in spreads.items() if not np.array_equal(found.spreads.get(kind, 0 * rows), rows)]
    return f"{name}, shard {shard}: the counts by each prediction ({', '.join(other)}) differ" if other else None
