"""The measure job: prints areas and objects, and the sections that hold a class."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.accounts import ACCOUNTS_FILE, write_accounts
from microseg_ray.jobs.console import Bar, StartRay, console, progress_bar, quarantine
from microseg_ray.jobs.tables import print_areas, print_dropped, print_grain_size, print_intervals, print_objects
from microseg_ray.outputs import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.quarantine import Failure
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.intervals import RunIntervals
    from microseg_ray.runs.objects import MeasuredObjects
    from microseg_ray.runs.pixels_read import Report
    from microseg_ray.runs.structure import RunStructure
    from microseg_ray.settings import MeasureSettings

__all__ = ["measure"]

SHOWN_SECTIONS = 20
_MEGA = 10**6


def measure(settings: MeasureSettings, _start: StartRay) -> int:
    """Write a run's tables again from its counts, measure areas and objects, list sections and draw overlays where asked for."""
    from microseg_ray.runs import damage
    from microseg_ray.runs import intervals as of_intervals
    from microseg_ray.runs import objects as of_objects
    from microseg_ray.runs import structure as of_structure
    from microseg_ray.runs.calibration import recalibrate
    from microseg_ray.runs.folder import Run

    run = Run.open(settings.run)
    own = {of_intervals.STAGE, of_structure.STAGE, of_objects.STAGE, damage.STAGE}
    failures = [each for each in run.failures() if each.stage not in own]
    with run.locked():
        if settings.pixel_size_um is not None:
            run = recalibrate(run, settings.pixel_size_um)
        with progress_bar() as bar:
            broken = list(damage.damaged(run, lambda done, total: bar.update("masks checked", done, total)))
            found = _measured(settings, run, bar)
        failures += broken
        unread = {each.path for each in broken}
        # A mask that cannot be read is named once.
        named = {each.path for each in failures}
        failures += [each for each in found.failures if each.path not in named]
        rows, accounts = run.write_tables([name for name in run.names() if name not in unread], failures)
        found.write(run)
        print_areas(rows)
        found.say()
        if found.objects is not None:
            accounts = [*accounts, found.objects.account]
            write_accounts(run.folder / ACCOUNTS_FILE, accounts)
        if settings.exports.write:
            _export(run, len(failures), settings.exports.sheet_rows)
        # What was written anew meanwhile is not gone.
        print_dropped([name for name in found.dropped if not (run.folder / name).exists()])
        if settings.sections is not None:
            _print_sections(settings, run)
        if settings.overlays:
            from microseg_ray.report.overlays import draw_overlays

            drawn = draw_overlays(run, settings.overlays)
            console.print(f"{len(drawn.written)} overlays: {escape(str(run.folder / 'overlays'))}")
            for name, reason in drawn.left_out.items():
                console.print(f"[yellow]{escape(name)}, no overlay:[/] {escape(reason)}")
    return quarantine(failures, run.folder / "failures.csv", accounts)


@dataclass(frozen=True)
class _Measured:
    """What was asked for: None is what was not."""

    intervals: RunIntervals | None
    structure: RunStructure | None
    objects: MeasuredObjects | None
    dropped: list[str]

    @property
    def failures(self) -> list[Failure]:
        """A mask that cannot be read is named once, by the step that met it first."""
        steps = (each for each in (self.intervals, self.structure, self.objects) if each is not None)
        named: dict[str, Failure] = {}
        for failure in (failure for each in steps for failure in each.failures):
            named.setdefault(failure.path, failure)
        return list(named.values())

    def write(self, run: Run) -> None:
        if self.intervals is not None:
            if self.objects is not None:
                self.intervals.add_objects(run, self.objects.fields, self.objects.largest)
            self.intervals.write(run)
        if self.structure is not None:
            self.structure.write(run)

    def say(self) -> None:
        if self.intervals is not None:
            notes = [*self.intervals.notes, *(self.structure.notes if self.structure else [])]
            print_intervals(self.intervals.intervals, notes)
            print_grain_size(self.intervals.stereology)
        if self.objects is not None:
            print_objects(self.objects.rows, self.objects.notes, self.objects.remark)


def _measured(settings: MeasureSettings, run: Run, bar: Bar) -> _Measured:
    """Measure all that is asked for; older tables of it are dropped before objects are written."""
    intervals = _intervals(settings, run, _megapixels(bar, "intervals, Mpx"))
    structure = _structure(settings, run, intervals, _megapixels(bar, "chords and correlation, Mpx"))
    dropped = run.drop_outdated()
    return _Measured(intervals, structure, _objects(settings, run, _megapixels(bar, "objects, Mpx")), dropped)


def _megapixels(bar: Bar, what: str) -> Report:
    """What shows pixels as megapixels; the last one is full only when all are done."""

    def report(done: int, total: int) -> None:
        whole = -(-total // _MEGA)
        bar.update(what, whole if done == total else min(done // _MEGA, whole - 1), whole)

    return report


def _export(run: Run, set_aside: int, sheet_rows: int) -> None:
    """Workbook, tables to paste and plots, from the tables as they are now."""
    from microseg_ray.report.exports import write_exports

    done = write_exports(run, set_aside, sheet_rows)
    console.print(f"{', '.join(done.written)}: {escape(str(run.folder))}")
    for note in done.notes:
        console.print(f"[yellow]{escape(note)}[/]")


def _objects(settings: MeasureSettings, run: Run, report: Report) -> MeasuredObjects | None:
    from microseg_ray.runs.objects import measure_objects

    return measure_objects(run, settings.objects, report) if settings.objects.measure else None


def _structure(
    settings: MeasureSettings, run: Run, intervals: RunIntervals | None, report: Report
) -> RunStructure | None:
    """Chords and correlation of the groups of the intervals."""
    if intervals is None or not settings.intervals.structure:
        return None
    from microseg_ray.runs.structure import measure_structure

    return measure_structure(run, intervals.scopes, report)


def _intervals(settings: MeasureSettings, run: Run, report: Report) -> RunIntervals | None:
    """Groups, boundaries and intervals, where they are asked for; nothing is written yet."""
    if not settings.intervals.measure:
        return None
    from microseg_ray.evaluation.judged import model_test
    from microseg_ray.runs.intervals import measure_intervals

    wanted = settings.intervals
    test, notes = model_test(run, wanted.evaluation)
    groups = _groups(settings, run)
    found = measure_intervals(run, groups, test, wanted.pixel_size_uncertainty, wanted.grain_boundaries, report)
    return replace(found, notes=[*notes, *found.notes])


def _groups(settings: MeasureSettings, run: Run) -> Callable[[str], str | None]:
    """The group of a micrograph by its name: of the table, by the regular expression, or none."""
    if settings.table is not None:
        from microseg_ray.catalog.table import read_table
        from microseg_ray.runs.intervals import groups_by_image

        groups = {row.image: row.group for row in read_table(settings.table) if row.group}
        return groups_by_image(groups, str(run.document["archive"]))
    if settings.group is not None:
        from microseg_ray.catalog.pairing import group_of

        return lambda name: group_of(settings.data, Path(name), Path())
    return lambda _: ""


def _print_sections(settings: MeasureSettings, run: Run) -> None:
    """Print which sections hold a class, and the percentages of all classes."""
    from microseg_ray.evaluation.sections import ShapeRule, sections_of_run

    rule = ShapeRule(settings.find_max_pixels, settings.find_lines)
    found = sections_of_run(run, settings.sections or 1, settings.find, rule)
    run.claim(dict.fromkeys(("sections.csv", "percentages.csv"), Kind.FILE))
    found.write(run.folder)
    for name, shares in found.percent.items():
        parts = ", ".join(f"{spec.name} {share or '-'} %" for spec, share in zip(run.classes, shares, strict=True))
        console.print(f"{name}: {parts}", markup=False)
    rows = [(name, row) for name, listed in found.rows.items() for row in listed]
    for name, row in rows[:SHOWN_SECTIONS]:
        where = f"section {row.section} at (y, x) = ({row.y0}, {row.x0})"
        console.print(f"{name}, {where}: {row.class_name}, {row.pixel_count} px", markup=False)
    if len(rows) > SHOWN_SECTIONS:
        console.print(f"... and {len(rows) - SHOWN_SECTIONS} more rows in sections.csv")
    if not rows:
        console.print("no section holds it" if settings.find else "no section holds a class")
