"""Chords, two-point correlation and anisotropy of a run's masks: one block is in memory at a time."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from functools import reduce
from typing import TYPE_CHECKING

from microseg_ray.errors import MicrosegError
from microseg_ray.outputs import Kind
from microseg_ray.quarantine import Failure
from microseg_ray.runs.pixels_read import PixelsRead
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.statistics.chords import ChordRow, Chords, ChordTable, count_chords
from microseg_ray.statistics.correlation import (
    AnisotropyRow,
    CorrelationRow,
    Pairs,
    anisotropy_rows,
    correlation_rows,
    count_pairs,
)
from microseg_ray.statistics.rows import write_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.pixels_read import Report

__all__ = ["STAGE", "RunStructure", "measure_structure"]

STAGE = "structure"
MOST_MICROGRAPHS = 1000
"""With more micrographs, only groups and the archive have rows."""
_PASSES = 3
"""Chords are counted in two passes over a mask, pairs in one."""


@dataclass
class RunStructure:
    """The rows of chords.csv, correlation.csv and anisotropy.csv."""

    chords: list[ChordRow] = field(default_factory=list)
    correlation: list[CorrelationRow] = field(default_factory=list)
    anisotropy: list[AnisotropyRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def write(self, run: Run) -> None:
        """Write the tables into the run's folder, as CSV and Parquet."""
        tables = {"chords": ChordRow, "correlation": CorrelationRow, "anisotropy": AnisotropyRow}
        run.claim({f"{name}.{kind}": Kind.FILE for name in tables for kind in ("csv", "parquet")})
        for name, row in tables.items():
            write_rows(run.folder, name, row, getattr(self, name))


Size = tuple[float, float] | None


def measure_structure(
    run: Run, scopes: Sequence[tuple[str, str, tuple[str, ...], int]], report: Report = lambda *_: None
) -> RunStructure:
    """Measure every finished micrograph, its groups and the archive.

    Args:
        run: The run; nothing is written.
        scopes: Groups and archive: scope, name, the finished micrographs in it, and how many are missing.
        report: Callback, called with (pixels done, pixels in total); each pixel is read three times.
    """
    done = RunStructure()
    names = sorted({name for _, _, members, _ in scopes for name in members})
    places: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for scope, name, members, _ in scopes:
        for member in members:
            places[member].append((scope, name))
    tables = {(scope, name): ChordTable(run.classes) for scope, name, _, _ in scopes}
    pairs: dict[tuple[str, str], list[Pairs]] = defaultdict(list)
    sizes: dict[tuple[str, str], set[Size]] = defaultdict(set)
    progress = PixelsRead(run, names, report, _PASSES)
    for name in names:
        try:
            size, chords, found = _counted(run, name, progress)
        except (MicrosegError, OSError, ValueError, RuntimeError) as error:
            done.failures.append(Failure(name, STAGE, str(error)))
            continue
        finally:
            progress.finish(name)
        for place in places[name]:
            tables[place].add(chords, size)
            pairs[place] = [reduce(Pairs.plus, [*pairs[place], found])]
            sizes[place].add(size)
        if len(names) <= MOST_MICROGRAPHS:
            own = ChordTable(run.classes)
            own.add(chords, size)
            done.chords += own.rows("micrograph", name)
            _correlate(done, run, ("micrograph", name, 0), found, size)
    left = {(scope, name): unfinished for scope, name, _, unfinished in scopes}
    for place, table in tables.items():
        done.chords += table.rows(*place, left[place])
        if len(sizes[place]) == 1:
            (size,) = sizes[place]
            _correlate(done, run, (*place, left[place]), pairs[place][0], size)
        elif sizes[place]:
            what = "the archive" if place[0] == "archive" else f"the group {place[1]}"
            done.notes.append(f"micrographs of {what} have different pixel sizes: it has no correlation of its own")
    return done


def _counted(run: Run, name: str, progress: PixelsRead) -> tuple[Size, Chords, Pairs]:
    store = MaskStore.open(run.store_path(name))
    note = store.note.get("pixel_size_um")
    size = None if note is None else (float(note[0]), float(note[1]))
    shape, classes = store.spec.shape, len(run.classes)
    read = progress.reader(name, store.read)
    return size, count_chords(shape, read, classes), count_pairs(shape, read, classes)


def _correlate(done: RunStructure, run: Run, place: tuple[str, str, int], pairs: Pairs, size: Size) -> None:
    scope, name, unfinished = place
    done.correlation += correlation_rows(scope, name, pairs, run.classes, size, unfinished)
    done.anisotropy += anisotropy_rows(scope, name, pairs, run.classes, size, unfinished)
