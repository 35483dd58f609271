"""Groups, boundaries and intervals of a run, from its masks: one shard is in memory at a time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.files import place
from microseg_ray.outputs import Kind
from microseg_ray.quarantine import Failure
from microseg_ray.runs.pixels_read import PixelsRead
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.statistics.blocks import BlockCounts
from microseg_ray.statistics.boundaries import count_crossings, crossing_frame
from microseg_ray.statistics.fields import Field, Parts, field_of
from microseg_ray.statistics.groups import BoundaryRow, GroupRow, boundary_rows, group_area_rows
from microseg_ray.statistics.intervals import IntervalRow, field_rows, group_rows
from microseg_ray.statistics.largest import largest_grain_rows
from microseg_ray.statistics.model_error import METHODS, Correction, Method, correction_of
from microseg_ray.statistics.planimetric import planimetric_rows
from microseg_ray.statistics.rows import write_rows
from microseg_ray.statistics.stereology import StereologyRow, stereology_rows

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.files import Place
    from microseg_ray.geometry import Box
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.pixels_read import Report
    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.largest import LargestObject
    from microseg_ray.statistics.planimetric import FieldObjects

__all__ = ["STAGE", "ModelTest", "RunIntervals", "count_parts", "groups_by_image", "measure_intervals"]

STAGE = "intervals"
ENOUGH = 5
"""Test micrographs of a group from which its own confusion is taken in place of that of the whole test set."""


@dataclass(frozen=True)
class ModelTest:
    """Confusion matrices of test micrographs.

    Attributes:
        confusions: (K, K) int64 of each test micrograph, (true, predicted).
        groups: Its group.
        source: Where they are from, as the tables name it.
    """

    confusions: Mapping[str, NDArray[np.int64]]
    groups: Mapping[str, str]
    source: str = ""


@dataclass(frozen=True)
class RunIntervals:
    """The rows of the tables.

    Attributes:
        groups: Of groups.csv.
        boundaries: Of boundaries.csv.
        intervals: Of intervals.csv.
        stereology: Of stereology.csv.
        failures: Micrographs that could not be read.
        notes: What is to be said of all this.
        scopes: Groups and archive: scope, name, the micrographs in it, and how many of it are not finished.
        grain_boundaries: The class that is the boundary between grains, or None.
    """

    groups: list[GroupRow]
    boundaries: list[BoundaryRow]
    intervals: list[IntervalRow]
    stereology: list[StereologyRow]
    failures: list[Failure]
    notes: list[str]
    scopes: list[tuple[str, str, tuple[str, ...], int]]
    grain_boundaries: int | None

    def add_objects(
        self, run: Run, fields: Mapping[str, FieldObjects], largest: Mapping[str, tuple[LargestObject, ...]]
    ) -> None:
        """Add objects per area, grains per area and the largest grain to stereology.csv; grains where their boundary is known.

        Args:
            run: The run.
            fields: The objects of each micrograph, counted (ASTM E1245, E112).
            largest: The largest object of each class by micrograph (ASTM E930).
        """
        for scope, name, members, unfinished in self.scopes:
            counted = [fields[member] for member in members if member in fields]
            self.stereology.extend(
                planimetric_rows(scope, name, counted, run.classes, self.grain_boundaries, unfinished)
            )
            if self.grain_boundaries is not None:
                found = [largest[member] for member in members if member in largest]
                self.stereology.extend(
                    largest_grain_rows(scope, name, found, run.classes, self.grain_boundaries, unfinished)
                )
        places = {(scope, name): place for place, (scope, name, *_) in enumerate(self.scopes)}
        self.stereology.sort(key=lambda row: (places[row.scope, row.name], row.class_index))

    def write(self, run: Run) -> None:
        """Write the tables into the run's folder, as CSV and Parquet."""
        tables = {"groups": GroupRow, "boundaries": BoundaryRow, "intervals": IntervalRow, "stereology": StereologyRow}
        run.claim({f"{name}.{kind}": Kind.FILE for name in tables for kind in ("csv", "parquet")})
        for name, row in tables.items():
            write_rows(run.folder, name, row, getattr(self, name))


def measure_intervals(
    run: Run,
    group_of: Callable[[str], str | None],
    test: ModelTest | None = None,
    pixel_size_uncertainty: float | None = None,
    grain_boundaries: str | None = None,
    report: Report = lambda *_: None,
) -> RunIntervals:
    """Measure every finished micrograph of a run, and its groups and archive.

    Args:
        run: The run; nothing is written.
        group_of: The group of a micrograph by its name, None for none.
        test: What the model's error is taken from, or None.
        pixel_size_uncertainty: Relative standard uncertainty of the pixel size, or None.
        grain_boundaries: Name of the class that is the boundary between grains, or None.
        report: Callback, called with (pixels done, pixels in total).

    Raises:
        SettingsError: The test set cannot correct areas, or no class has the name of the grain boundaries.
    """
    boundaries = _index_of(grain_boundaries, run.classes)
    correct = _Corrections(test, len(run.classes))
    fields: list[Field] = []
    waiting: dict[str, int] = defaultdict(int)
    rows: list[IntervalRow] = []
    failures: list[Failure] = []
    without = 0
    names = list(run.names())
    progress = PixelsRead(run, names, report)
    for name in names:
        group = group_of(name)
        without += group is None
        try:
            field = _field(run, name, group or "", correct, progress)
        except (MicrosegError, OSError, ValueError, RuntimeError) as error:
            failures.append(Failure(name, STAGE, str(error)))
            continue
        finally:
            progress.finish(name)
        if field is None:
            waiting[group or ""] += 1
            continue
        fields.append(field)
        rows += field_rows(field, run.classes)
    found = _Tables(run.classes, fields, waiting, pixel_size_uncertainty, boundaries)
    notes = _notes(without, waiting, len(fields)) + correct.notes()
    return RunIntervals(
        found.groups(),
        found.boundaries(),
        [_sourced(row, "" if test is None else test.source) for row in rows + found.intervals()],
        found.stereology(),
        failures,
        notes,
        [(scope, name, tuple(field.name for field in own), left) for scope, name, own, left in found.scopes()],
        boundaries,
    )


def count_parts(store: MaskStore, read: Callable[[Box], NDArray[np.uint8]] | None = None) -> Parts:
    """Blocks and crossings of a mask, shard by shard.

    Args:
        store: The mask.
        read: Gives the (y, x) pixels of a box of it; None for `store.read`.

    Example:
        >>> import tempfile
        >>> from microseg_ray.runs.store.spec import MaskSpec
        >>> from microseg_ray.settings import ClassSpec
        >>> spec = MaskSpec((4, 6), (ClassSpec(name="a"), ClassSpec(name="b")), shard=512)
        >>> store = MaskStore.create(f"{tempfile.mkdtemp()}/a.zarr", spec, identity={})
        >>> _ = store.commit((0, 0), np.eye(4, 6, dtype=np.uint8))
        >>> parts = count_parts(store)
        >>> parts.blocks.counts.sum(axis=(1, 2)).tolist(), parts.crossings[:, 0, 1].tolist()
        ([20, 4], [7, 6, 0, 5])
    """
    spec, read = store.spec, read or store.read
    blocks = BlockCounts(spec.shape, len(spec.classes))
    crossings = np.zeros((4, len(spec.classes), len(spec.classes)), np.int64)
    for shard in np.ndindex(*spec.shards):
        box = spec.box((shard[0], shard[1]))
        frame = crossing_frame(box, spec.shape)
        pixels = read(frame)
        core = box.relative_to(frame)
        blocks.add(box, pixels[core.slices])
        crossings += count_crossings(pixels, core, len(spec.classes))
    return Parts(blocks, crossings)


def _field(run: Run, name: str, group: str, correct: _Corrections, progress: PixelsRead) -> Field | None:
    store = MaskStore.open(run.store_path(name))
    measured = run.measured_in(name, store) if store.finished else None
    if measured is None:
        return None
    parts = count_parts(store, progress.reader(name, store.read))
    base = Field(
        name=name,
        group=group,
        counts=measured.counts,
        pixels=measured.pixels,
        bar_pixels=measured.bar_pixels,
        pixel_size_um=measured.pixel_size_um,
        crossings=parts.crossings,
        sampling=(),
        corrections=correct.of(group),
        # Damaged counts are left out, and the reason says what to do.
        spreads={kind: rows.sum(axis=(0, 1)) for kind, rows in store.spreads.items() if (rows >= 0).all()},
    )
    return field_of(base, parts.blocks)


class _Corrections:
    """The corrections of each group: its own where the test set has enough of it."""

    def __init__(self, test: ModelTest | None, classes: int) -> None:
        self._all: dict[Method, Correction] = {}
        self._own: dict[str, dict[Method, Correction]] = {}
        self._skipped: list[str] = []
        if test is None:
            return
        units: dict[str, NDArray[np.int64]] = {}
        members: dict[str, list[NDArray[np.int64]]] = defaultdict(list)
        for name, confusion in test.confusions.items():
            group = test.groups.get(name, name)
            units[group] = units.get(group, np.zeros((classes, classes), np.int64)) + confusion
            members[group].append(confusion)
        self._all = self._made(np.array(list(units.values())))
        if "stratified" not in self._all:
            raise SettingsError(
                "measure.intervals.evaluation: its confusion matrices hold no pixel with both a true and a predicted class; "
                "evaluate the model on labelled micrographs"
            )
        for group, matrices in members.items():
            if len(matrices) >= ENOUGH:
                self._own[group] = self._made(np.array(matrices))

    def of(self, group: str) -> dict[Method, Correction]:
        """What corrects the micrographs of a group."""
        own = self._own.get(group, {})
        # All groups have the same methods, so that they can be put together.
        return {method: own.get(method, correction) for method, correction in self._all.items()}

    def notes(self) -> list[str]:
        """Which method could not be used."""
        return self._skipped

    def _made(self, confusions: NDArray[np.int64]) -> dict[Method, Correction]:
        made: dict[Method, Correction] = {}
        for method in METHODS:
            try:
                made[method] = correction_of(confusions, method)
            except (ValueError, np.linalg.LinAlgError) as error:
                note = f"areas are not corrected by the method {method}: {error}"
                if note not in self._skipped:
                    self._skipped.append(note)
        return made


@dataclass(frozen=True)
class _Tables:
    classes: Sequence[ClassSpec]
    fields: Sequence[Field]
    waiting: Mapping[str, int]
    uncertainty: float | None
    grain_boundaries: int | None

    def groups(self) -> list[GroupRow]:
        return [
            row
            for scope, name, members, unfinished in self.scopes()
            for row in group_area_rows(scope, name, members, self.classes, unfinished, self.uncertainty)
        ]

    def boundaries(self) -> list[BoundaryRow]:
        own = [row for each in self.fields for row in boundary_rows("micrograph", each.name, [each], self.classes, 0)]
        return own + [
            row
            for scope, name, members, unfinished in self.scopes()
            for row in boundary_rows(scope, name, members, self.classes, unfinished)
        ]

    def intervals(self) -> list[IntervalRow]:
        return [
            row
            for scope, name, members, unfinished in self.scopes()
            for row in group_rows(scope, name, members, self.classes, unfinished)
        ]

    def stereology(self) -> list[StereologyRow]:
        return [
            row
            for scope, name, members, unfinished in self.scopes()
            for row in stereology_rows(scope, name, members, self.classes, unfinished, self.grain_boundaries)
        ]

    def scopes(self) -> list[tuple[str, str, list[Field], int]]:
        """Groups by name, then the archive."""
        members: dict[str, list[Field]] = defaultdict(list)
        for field in self.fields:
            members[field.group].append(field)
        found = [("group", name, members[name], self.waiting.get(name, 0)) for name in sorted(members) if name]
        if self.fields:
            found.append(("archive", "", list(self.fields), sum(self.waiting.values())))
        return found


def _sourced(row: IntervalRow, source: str) -> IntervalRow:
    """A row that a test set went into names it."""
    return replace(row, evaluation=source) if source and row.part.startswith(("model_", "combined")) else row


def _index_of(name: str | None, classes: Sequence[ClassSpec]) -> int | None:
    names = [item.name for item in classes]
    if name is not None and name not in names:
        raise SettingsError(
            f"measure.intervals.grain_boundaries: no class is named {name!r}; there are {', '.join(names)}"
        )
    return None if name is None else names.index(name)


def _notes(without: int, waiting: Mapping[str, int], finished: int) -> list[str]:
    notes = []
    if without:
        notes.append(f"{without} micrographs are in no group and count for the archive alone")
    unfinished = sum(waiting.values())
    if unfinished:
        notes.append(
            f"{unfinished} micrographs are not finished: groups, boundaries and intervals are of {finished} only"
        )
    return notes


def groups_by_image(groups: Mapping[Place, str], archive: str) -> Callable[[str], str | None]:
    """The group of a micrograph by its path, as a catalog's table gives it.

    Args:
        groups: By absolute path or address of the image.
        archive: The run's archive.
    """
    root = place(archive)
    resolved = {path.resolve(): group for path, group in groups.items()}

    def group_of(name: str) -> str | None:
        # An archive may be a folder, or a file or a glob in one.
        places = ((folder / name).resolve() for folder in (root, root.parent))
        return next((resolved[place] for place in places if place in resolved), None)

    return group_of
