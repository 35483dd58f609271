"""The postprocess job: a run's masks without specks and holes, or with smoother borders, as a run of their own.

Two operations, in this order, both out of core and equal to what they give on the whole mask in memory:

* `remove_small` gives each connected part of one class that is smaller than its class's limit to the class around it;
* `majority_filter` gives each pixel the most frequent class of the square around it.

dask cuts a mask into shards with halos (`map_overlap`, dask-image); which scheduler runs the tasks, threads or Ray, does
not show in the bytes. The parent run is only read: its counts stay those of its masks.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
from dask.base import compute
from scipy import ndimage

from microseg_ray.archive import Run, RunIdentity
from microseg_ray.archive.run import sole_writer
from microseg_ray.archive.worker import reusable_store
from microseg_ray.catalog import Failure
from microseg_ray.errors import SettingsError, StoreError
from microseg_ray.geometry import Box
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.stores import MaskSpec, MaskStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.measurement import AreaRow
    from microseg_ray.settings import PostprocessSettings

__all__ = ["Postprocessed", "Steps", "majority_filter", "postprocess", "remove_small"]

Scheduler = str | Callable[..., Any]
Report = Callable[[int, int], None]

# Shards along each side of what is computed in one go: neighbours share halos, and what is in flight stays bounded.
WAVE = 4
# The votes of a square of this radius fit 16 bits: 255 x 255.
LARGEST_RADIUS = 127


@dataclass(frozen=True)
class Steps:
    """What is done to a mask; part of the identity of what comes out.

    Attributes:
        min_speck: Parts of a class above 0 with fewer pixels are removed.
        min_hole: Parts of class 0, the background, with fewer pixels are filled.
        majority: Radius of the majority filter in pixels; 0: none.

    Example:
        >>> Steps(min_speck=9, min_hole=4, majority=2).limits(3), Steps(min_speck=9, majority=2).halo
        ((4, 9, 9), 10)
    """

    min_speck: int = 0
    min_hole: int = 0
    majority: int = 0

    def limits(self, classes: int) -> tuple[int, ...]:
        """The smallest part that stays, in pixels, by class."""
        return (self.min_hole, *(self.min_speck for _ in range(classes - 1)))

    @property
    def halo(self) -> int:
        """Pixels around a box that its result depends on, at most."""
        return _reach((self.min_hole, self.min_speck)) + self.majority

    def apply(self, mask: da.Array, classes: int) -> da.Array:
        """The mask after all steps, lazily.

        Args:
            mask: (y, x) uint8.
            classes: Number of classes.
        """
        return majority_filter(remove_small(mask, self.limits(classes)), classes, self.majority)


def remove_small(mask: da.Array, limits: Sequence[int]) -> da.Array:
    """Give every small connected part of a class to the class around it.

    A part is a maximal set of pixels of one class connected by edges (4 neighbours). One with fewer pixels than its
    class's limit becomes the class that is most frequent in its outer border: the pixels outside it that share an edge
    with one of its own, each counted once; the lowest class on a tie. `IGNORE_INDEX` is no class: it has no parts,
    never wins, and a part with nothing else around it stays. All parts are judged by the given mask and replaced at
    once, so that the result does not depend on an order; two small parts side by side may therefore swap classes.

    Halo: let N be the largest limit and p any pixel. A part of fewer than N pixels is connected, so a shortest path in
    it from p to any of its pixels has at most N - 2 steps, and its border lies within N - 1 of p: a window that reaches
    N - 1 beyond p holds part and border whole, hence finds the same size and the same votes. A part of N pixels or more
    holds N pixels that paths of at most N - 1 steps inside it connect with p (take them in the order of their distance:
    a pixel on a shortest path is nearer than its end), so that the same window finds N of them and leaves p alone.
    A depth of N - 1 therefore gives the result of the whole mask; a straight line of N - 1 pixels needs all of it.

    Args:
        mask: (y, x) uint8, in any chunks.
        limits: Pixels of the smallest part that stays, for each class; 0 and 1 leave a class as it is.

    Returns:
        (y, x) uint8, lazily. A task holds about 10 bytes a pixel of a chunk with its halo.

    Example:
        >>> mask = da.from_array(np.array([[1, 1, 1, 1], [1, 0, 1, 2], [1, 1, 1, 1]], np.uint8), chunks=(2, 2))
        >>> remove_small(mask, limits=(2, 0, 0)).compute()
        array([[1, 1, 1, 1],
               [1, 1, 1, 2],
               [1, 1, 1, 1]], dtype=uint8)
    """
    reach = _reach(limits)
    if reach == 0:
        return mask
    # An axis that is shorter than the reach is seen whole.
    depth = {axis: min(reach, side) for axis, side in enumerate(mask.shape)}
    removed: da.Array = da.map_overlap(
        _without_small,
        mask,
        limits=tuple(limits),
        depth=depth,
        boundary="none",
        dtype=np.uint8,
        meta=np.empty((0, 0), np.uint8),
    )
    return removed


def _reach(limits: Sequence[int]) -> int:
    """Pixels that removing small parts looks ahead: N - 1, nothing where no limit can be undercut."""
    return max(0, *(limit - 1 for limit in limits))


def _without_small(mask: NDArray[np.uint8], limits: Sequence[int]) -> NDArray[np.uint8]:
    """`remove_small` of a mask in memory."""
    result = mask.copy()
    for index, limit in enumerate(limits):
        own = mask == index
        if limit <= 1 or not own.any():
            continue
        labels, count = ndimage.label(own)
        small = np.bincount(labels.ravel(), minlength=count + 1) < limit
        small[0] = False
        if not small.any():
            continue
        winners = _winners(mask, labels, small, len(limits))
        pixels = small[labels]
        result[pixels] = winners[labels[pixels]]
        # Nothing around them: they stay.
        result[pixels & (result == IGNORE_INDEX)] = index
    return result


def _winners(
    mask: NDArray[np.uint8], labels: NDArray[np.int32], small: NDArray[np.bool_], classes: int
) -> NDArray[np.uint8]:
    """The class around each small part, by label; `IGNORE_INDEX` where there is none."""
    rows, columns = (part.astype(np.int64) for part in np.nonzero(small[labels]))
    height, width = mask.shape
    pairs = []
    for down, right in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        y, x = rows + down, columns + right
        inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        y, x, label = y[inside], x[inside], labels[rows[inside], columns[inside]].astype(np.int64)
        # A pixel of the same class beside a part is of that part.
        outer = (labels[y, x] == 0) & (mask[y, x] != IGNORE_INDEX)
        pairs.append((label * height * width + y * width + x)[outer])
    # Once each: a border pixel may touch a part with several edges.
    border = np.unique(np.concatenate(pairs))
    label, place = np.divmod(border, height * width)
    # Small parts only, so that the table of votes grows with them and not with all labels.
    order = np.cumsum(small) - 1
    voters = mask.ravel()[place].astype(np.int64)
    votes = np.bincount(order[label] * classes + voters, minlength=int(small.sum()) * classes).reshape(-1, classes)
    winners = np.full(len(small), IGNORE_INDEX, np.uint8)
    winners[small] = np.where(votes.any(axis=1), votes.argmax(axis=1), IGNORE_INDEX)
    return winners


def majority_filter(mask: da.Array, classes: int, radius: int) -> da.Array:
    """Give every pixel the most frequent class of the square around it.

    The square has 2 * radius + 1 pixels a side; `IGNORE_INDEX` and what lies outside the mask have no vote. On a tie the
    pixel's own class wins if it takes part in the tie, else the lowest class. Pixels of `IGNORE_INDEX` stay.

    Each class's votes are counted by two convolutions with lines of ones (a square of ones is their product), in
    integers, so that chunks do not show; dask-image reads `radius` pixels beyond a chunk for them.

    Args:
        mask: (y, x) uint8, in any chunks.
        classes: Number of classes.
        radius: In pixels, at most 127; 0 returns the mask as it is.

    Returns:
        (y, x) uint8, lazily. A task holds about 2 bytes a pixel and class.

    Raises:
        ValueError: The radius is too large or negative.

    Example:
        >>> mask = da.from_array(np.array([[0, 0, 0], [1, 1, 0], [0, 1, 255]], np.uint8), chunks=2)
        >>> majority_filter(mask, classes=2, radius=1).compute()
        array([[  0,   0,   0],
               [  1,   0,   0],
               [  1,   1, 255]], dtype=uint8)
    """
    from dask_image.ndfilters import convolve

    if not 0 <= radius <= LARGEST_RADIUS:
        raise ValueError(f"radius {radius}: the majority filter takes 0 to {LARGEST_RADIUS} px")
    if radius == 0:
        return mask
    # No further than the mask reaches: beyond it nobody votes, and dask takes no depth larger than an axis.
    tall, wide = (2 * min(radius, side - 1) + 1 for side in mask.shape)
    votes = []
    for index in range(classes):
        counted = (mask == index).astype(np.uint16)
        for line in (np.ones((tall, 1), np.uint16), np.ones((1, wide), np.uint16)):
            counted = convolve(counted, line, mode="constant", cval=0)
        # Depths may have merged chunks that are smaller.
        votes.append(counted.rechunk(mask.chunks))
    elected: da.Array = da.map_blocks(_elected, mask, *votes, dtype=np.uint8, meta=np.empty((0, 0), np.uint8))
    return elected


def _elected(mask: NDArray[np.uint8], *votes: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """The class with most votes; one's own, else the lowest, on a tie."""
    most = np.zeros(mask.shape, np.uint16)
    winner = np.full(mask.shape, IGNORE_INDEX, np.uint8)
    for index, own in enumerate(votes):
        better = (own > most) | ((own == most) & (mask == index))
        winner[better] = index
        np.maximum(most, own, out=most)
    winner[mask == IGNORE_INDEX] = IGNORE_INDEX
    return winner


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
    told = ("settings", "archive", "source", "checkpoint", "classes", "verdict", "verdict_reason", "fingerprint")
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
