"""The survey: every pair of micrograph and mask is read once, before anything is written."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.catalog import Reducer, reduce_micrograph
from microseg_ray.errors import InputError, MicrosegError, ObjectStoreError
from microseg_ray.geometry import TileGrid
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.sources import fingerprint, intensity_limits, open_prepared, read_mask
from microseg_ray.sources.agreement import float_note, float_objection, shape_objection, value_objection
from microseg_ray.sources.specimen.profile import IntensitySampler
from microseg_ray.sources.unchanged import require_unchanged
from microseg_ray.statistics.counts import count_classes
from microseg_ray.tiles.tasks import Pair, Surveyed, SurveyTask, TileCounts, Unusable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.catalog import CatalogRow, Reduced
    from microseg_ray.settings import SourceSettings, TileSettings
    from microseg_ray.sources.choices import Parts
    from microseg_ray.sources.specimen.profile import IntensitySample
    from microseg_ray.tiles.tasks import LookTask

__all__ = ["OUTAGE", "look", "mask_of", "source_of", "survey", "survey_task"]

OUTAGE = "store"
"""The stage of a pair whose object store did not answer: it is not set aside, the job stops."""

_ROWS = 256  # rows of a mask that are counted at a time


def survey_task(row: CatalogRow, settings: TileSettings, *, audit: bool) -> SurveyTask:
    """The survey of one row of the catalog."""
    pair = Pair(row.name, str(row.image), str(row.mask), row.group, row.split, source_of(row, settings))
    return SurveyTask(
        pair, settings.tile, settings.overlap, len(settings.classes), settings.scaling, settings.fingerprint, audit
    )


def source_of(row: CatalogRow, settings: TileSettings) -> SourceSettings:
    """How a micrograph is opened: as the settings say, with the pixel size of the catalog's table where it gives one."""
    if row.pixel_size_um is None:
        return settings.source
    return settings.source.model_copy(update={"pixel_size_um": row.pixel_size_um})


def survey(task: SurveyTask) -> Surveyed | Unusable:
    """Read one pair; a pair that cannot be used is returned with the reason."""
    pair = task.pair
    try:
        return _survey(task)
    except ObjectStoreError as error:
        return Unusable(pair, ("", ""), OUTAGE, str(error))
    except MicrosegError as error:
        stage = "mask" if getattr(error, "where", "") == pair.mask else "image"
        reason = str(error).removeprefix(f"{pair.image}: ")
    except Exception as error:  # noqa: BLE001 - whatever a library raises on one pair must not cost the others
        reason, stage = f"{type(error).__name__}: {error}", "read"
    return Unusable(pair, _fingerprints(task), stage, reason)


def look(task: LookTask) -> Reduced | None:
    """Reduce a micrograph that the store holds already, for the audit; None where it cannot be read any more."""
    try:
        return reduce_micrograph(task.image, task.source, task.scaling)
    except ObjectStoreError:
        raise
    except MicrosegError:
        return None


def mask_of(path: str, image: Parts) -> NDArray[np.uint8]:
    """A mask, cached until the next one is read: the shards of one huge micrograph follow each other. Read only.

    Args:
        path: The mask.
        image: Pages of its micrograph, and which one is read.
    """
    return _kept_mask(path, fingerprint(path, "stat"), image)


@lru_cache(maxsize=1)
def _kept_mask(path: str, _fingerprint: str, image: Parts) -> NDArray[np.uint8]:
    mask = read_mask(path, image)
    mask.setflags(write=False)
    return mask


def _survey(task: SurveyTask) -> Surveyed:
    pair, marks = task.pair, _fingerprints(task)
    with open_prepared(pair.image, task.scaling, pair.source) as micrograph:
        info = micrograph.info
        mask = mask_of(pair.mask, info.parts)
        reason = shape_objection(mask.shape, info.shape, "its micrograph")
        if reason:
            advice = "export the mask at the micrograph's size, or correct mask_suffix if it belongs to another one"
            raise InputError(pair.mask, reason, advice)
        # Rows of a burned-in info bar are no specimen: no tile reaches into them.
        frame = info.specimen
        values = _values(mask[frame.slices])
        _refuse_unnamed(task, values)
        low, high = intensity_limits(micrograph, task.scaling)
        sampler = IntensitySampler(frame.shape, (low, high))
        tiles = []
        reducer = Reducer(frame.shape) if task.audit else None
        for member in _grid(frame.shape, task.tile, task.overlap):
            # Finds damage and NaN now, while the store can still be laid out without it.
            pixels = micrograph.read(member.visible)
            core = pixels[(slice(None), *member.core.relative_to(member.visible).slices)]
            sampler.add(member.core, core)
            if reducer is not None:
                reducer.add(member.core, core)
            counts = count_classes(mask[member.visible.slices], task.classes)
            tiles.append(TileCounts(member.box.y0, member.box.x0, tuple(map(int, counts))))
    for path, mark in zip((pair.image, pair.mask), marks, strict=True):
        if mark:
            require_unchanged(path, mark)
    sample = sampler.sample()
    notes = (*info.notes, *info.pixel_size_notes, *_float_notes(task, sample))
    return Surveyed(
        pair,
        marks,
        frame.shape,
        info.channels,
        info.dtype,
        info.pixel_size_um,
        notes,
        info.info_bar_rows,
        float(low),
        float(high),
        tuple(tiles),
        None if reducer is None else reducer.reduced(),
        values,
        sample,
        info.parts.pages,
    )


def _refuse_unnamed(task: SurveyTask, values: tuple[tuple[int, int], ...]) -> None:
    """Raise InputError where the mask holds a value that is no class."""
    reason = value_objection(dict(values), task.classes)
    if reason:
        raise InputError(task.pair.mask, reason, f"name all classes, or set pixels without a class to {IGNORE_INDEX}")


def _float_notes(task: SurveyTask, sample: IntensitySample) -> tuple[str, ...]:
    """A note on floats that leave 0 to 1 a little, where the scaling takes floats as they are.

    Raises:
        InputError: They leave it by more than `FLOAT_SLACK`.
    """
    if task.scaling.kind != "dtype" or np.dtype(sample.dtype).kind != "f":
        return ()
    # The outermost 0.1 % at each end are hot and dead pixels, as where a model is used.
    reason = float_objection(float(sample.quantiles[1]), float(sample.quantiles[-2]))
    if reason:
        advice = "set scaling to {kind: fixed, low: ..., high: ...} or {kind: percentile, low: 1, high: 99}"
        raise InputError(task.pair.image, reason, advice)
    note = float_note(float(sample.quantiles[0]), float(sample.quantiles[-1]))
    return (note,) if note else ()


def _values(mask: NDArray[np.uint8]) -> tuple[tuple[int, int], ...]:
    """Each value and its number of pixels."""
    found = np.zeros(256, np.int64)
    for start in range(0, len(mask), _ROWS):
        found += np.bincount(mask[start : start + _ROWS].ravel(), minlength=256)
    return tuple((int(value), int(found[value])) for value in np.flatnonzero(found))


def _fingerprints(task: SurveyTask) -> tuple[str, str]:
    def mark(path: str) -> str:
        try:
            return fingerprint(path, task.fingerprint)
        except InputError:
            return ""

    return mark(task.pair.image), mark(task.pair.mask)


def _grid(shape: tuple[int, int], side: int, overlap: int) -> TileGrid:
    # An odd overlap is rounded up: neighbours share at least what was asked for.
    return TileGrid(shape, side, -(-overlap // 2) if -(-overlap // 2) * 2 < side else overlap // 2)
