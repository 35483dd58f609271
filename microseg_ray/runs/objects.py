"""The objects of a run's masks: objects.csv, objects.parquet, object_sizes.csv, object_classes.csv, and label images."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.accounts import Account
from microseg_ray.errors import InputError, MicrosegError, SettingsError
from microseg_ray.names import text
from microseg_ray.outputs import Kind
from microseg_ray.quarantine import Failure, stop_if_full
from microseg_ray.runs.folder import OBJECT_TABLES
from microseg_ray.runs.opening import open_of_run, require_unchanged
from microseg_ray.runs.pixels_read import PixelsRead
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from microseg_ray.files import Place
    from microseg_ray.geometry import Box
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.pixels_read import Report
    from microseg_ray.settings import ExportRunSettings, ObjectSettings
    from microseg_ray.statistics.areas import Measured
    from microseg_ray.statistics.largest import LargestObject
    from microseg_ray.statistics.objects.finding import ObjectRule, Objects
    from microseg_ray.statistics.objects.sizes import ClassRow
    from microseg_ray.statistics.planimetric import FieldObjects

__all__ = ["STAGE", "MeasuredObjects", "measure_objects", "object_rule"]

STAGE = "objects"
"""The stage of the failures of this step."""
_CLASSES = "measure.objects.classes"


@dataclass
class MeasuredObjects:
    """What was measured.

    Attributes:
        rows: Of object_classes.csv.
        failures: Micrographs whose mask could not be read.
        notes: Micrographs without intensities, and why.
        found: How many objects there are.
        left_out: How many of them were too small.
        single: How many of the others have one pixel.
        largest: The largest object of each class, by micrograph.
        fields: The objects of each micrograph, counted for the stereology of fields.
    """

    rows: list[ClassRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    found: int = 0
    left_out: int = 0
    single: int = 0
    largest: dict[str, tuple[LargestObject, ...]] = field(default_factory=dict)
    fields: dict[str, FieldObjects] = field(default_factory=dict)

    @property
    def remark(self) -> str:
        """What is to be said of all objects: many of one pixel are noise, and every mean and median by number is theirs."""
        kept = self.found - self.left_out
        if 2 * self.single <= kept or not kept:
            return ""
        return (
            f"{self.single} of {kept} objects have one pixel, and figures by number are mostly of these; "
            "--objects.min_pixels N leaves smaller ones out"
        )

    @property
    def account(self) -> Account:
        """What became of all objects."""
        small = {"smaller than objects.min_pixels": self.left_out}
        return Account("objects", self.found, self.found - self.left_out, 0, small)


def measure_objects(run: Run, settings: ObjectSettings, report: Report = lambda *_: None) -> MeasuredObjects:
    """Measure the objects of all finished masks and write the tables.

    One block of a mask and the table of one micrograph's objects are in memory at a time.

    Args:
        run: The run; locked by the caller, older tables are replaced.
        settings: Which objects, and what is written.
        report: Callback, called with (pixels done, pixels in total); label images are a second pass over them.

    Raises:
        SettingsError: A class is not one of the run's.
        StoreError: The disk is full.
    """
    from microseg_ray.statistics.largest import largest_objects
    from microseg_ray.statistics.objects.sizes import ClassRow, SizeRow, SizeTable, class_rows
    from microseg_ray.statistics.objects.table import object_rows, objects_tables
    from microseg_ray.statistics.planimetric import count_objects

    rule = object_rule(run, settings, _CLASSES)
    done = MeasuredObjects()
    run.claim({**dict.fromkeys(OBJECT_TABLES, Kind.FILE), **({"objects": Kind.STORES} if settings.labels else {})})
    sizes = SizeTable(run.classes)
    bins: list[SizeRow] = []
    names = list(run.names())
    progress = PixelsRead(run, names, report, 2 if settings.labels else 1)
    with objects_tables(run.folder) as take:
        for name in names:
            try:
                store = MaskStore.open(run.store_path(name))
                measured = run.measured_in(name, store) if store.finished else None
                if measured is None:
                    continue
                reading = _Reading(run, store, measured, progress.reader(name, store.read))
                objects = _objects(reading, settings, done)
                counted = count_objects(objects, store.read, len(run.classes), rule, measured.pixel_size_um)
                if settings.labels:
                    _write_labels(reading, objects, rule)
            except (MicrosegError, ValueError, RuntimeError, OSError) as error:
                stop_if_full(error, run.folder)
                reason = f"its objects were not measured ({error}); where its mask is damaged, run segment again"
                done.failures.append(Failure(name, STAGE, reason))
                continue
            finally:
                progress.finish(name)
            take(object_rows(measured, objects, run.classes))
            bins += sizes.add(name, objects)
            done.rows += class_rows(name, objects, run.classes, measured.pixel_size_um, rule)
            done.largest[name] = largest_objects(objects)
            done.fields[name] = counted
            done.found += len(objects) + objects.left_out
            done.left_out += objects.left_out
            done.single += int((objects.sums.pixels == 1).sum())
    _write(run.folder / "object_sizes.csv", SizeRow, [*bins, *sizes.pooled()])
    _write(run.folder / "object_classes.csv", ClassRow, done.rows)
    return done


def object_rule(run: Run, settings: ObjectSettings | ExportRunSettings, key: str) -> ObjectRule:
    """Which objects of a run are wanted.

    Args:
        run: The run.
        settings: Its classes, connectivity and min_pixels.
        key: Of the setting `classes`, for the message.

    Raises:
        SettingsError: A class is not one of the run's.
    """
    from microseg_ray.statistics.objects.finding import ObjectRule

    names = [spec.name for spec in run.classes]
    wanted = settings.classes or ()
    strange = [name for name in wanted if name not in names]
    if strange:
        raise SettingsError(f"{key}: {strange[0]!r} is no class of this run; there are {', '.join(names)}")
    only = frozenset(map(names.index, wanted)) if wanted else frozenset(range(len(names)))
    return ObjectRule(settings.connectivity, only, settings.min_pixels)


@dataclass(frozen=True)
class _Reading:
    """One mask, and what reads it."""

    run: Run
    store: MaskStore
    measured: Measured
    read: Callable[[Box], NDArray[np.uint8]]


def _objects(reading: _Reading, settings: ObjectSettings, done: MeasuredObjects) -> Objects:
    """The objects of one mask, with intensities where the micrograph can be read."""
    from microseg_ray.statistics.objects.finding import find_objects

    run, store, read = reading.run, reading.store, reading.read
    name, size = reading.measured.micrograph, reading.measured.pixel_size_um
    rule = object_rule(run, settings, _CLASSES)
    if settings.intensity:
        try:
            require_unchanged(run, name, store)
            with open_of_run(run, name, store) as micrograph:
                found = find_objects(store.spec.shape, read, rule, size, lambda box: _gray(micrograph.read(box)))
            require_unchanged(run, name, store)
        except (InputError, OSError) as error:
            done.notes[name] = f"no intensities of its objects: {error}"
        else:
            return found
    return find_objects(store.spec.shape, read, rule, size)


def _gray(pixels: NDArray[Any]) -> NDArray[Any]:
    """(y, x) of (channel, y, x): the mean of the channels."""
    gray: NDArray[Any] = pixels[0] if len(pixels) == 1 else pixels.mean(axis=0, dtype=np.float64)
    return gray


def _write_labels(reading: _Reading, objects: Objects, rule: ObjectRule) -> None:
    from microseg_ray.runs.store.object_labels import write_labels
    from microseg_ray.statistics.objects.finding import label_blocks

    shape, measured = reading.store.spec.shape, reading.measured
    write_labels(
        reading.run.folder / "objects" / f"{measured.micrograph}.zarr",
        shape,
        label_blocks(shape, reading.read, objects, rule),
        measured.pixel_size_um,
        {"objects": len(objects), "connectivity": rule.connectivity, "model_digest": measured.model_digest},
    )


def _write(path: Place, kind: type[Any], rows: Iterable[Any]) -> None:
    columns = [each.name for each in fields(kind)]
    write_csv(path, columns, ((text(row.micrograph), *astuple(row)[1:]) for row in rows))
