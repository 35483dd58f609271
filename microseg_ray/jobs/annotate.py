"""The annotate job: prints class fractions and what was left out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.files import place
from microseg_ray.jobs.console import DONE, STOPPED, StartRay, console, progress_bar, quarantine, shown

if TYPE_CHECKING:
    from microseg_ray.annotations import AnnotationReport
    from microseg_ray.settings import AnnotateSettings

__all__ = ["annotate"]

_LISTED = 10


def annotate(settings: AnnotateSettings, _start: StartRay) -> int:
    """Turn annotations into masks; print class fractions and what was left out."""
    from microseg_ray.annotations import READERS
    from microseg_ray.annotations import annotate as write_masks
    from microseg_ray.quarantine import Failure

    with progress_bar() as bar:
        report = write_masks(settings, bar.update)
    output = place(settings.output)
    table = Table("class", "regions", "pixels", "fraction")
    for name, pixels, fraction in zip(report.classes, report.pixels, report.fractions, strict=True):
        regions = str(report.regions[name]) if report.format in READERS else "-"
        table.add_row(escape(name), regions, str(pixels), shown(fraction))
    if report.ignored:
        table.add_row("(ignored)", "-", str(report.ignored), "-")
    console.print(table)
    where = escape(str(output))
    console.print(f"{len(report.masks)} masks of {report.images} images ({report.format}) in {where}")
    if report.format not in READERS:
        _print_empty_classes(report, settings)
    _list_problems(report)
    failures = [Failure(*failure) for failure in report.failures]
    code = quarantine(failures, output / "failures.csv", report.accounting)
    if settings.strict and report.problems:
        console.print("[red]strict:[/] " + ", ".join(f"{count} {name}" for name, count in report.problems.items()))
        return STOPPED
    return code or DONE


def _print_empty_classes(report: AnnotationReport, settings: AnnotateSettings) -> None:
    """A note on classes without a pixel in annotation images: they may have other numbers or colours."""
    from microseg_ray.sources.agreement import empty_class_objection, empty_classes

    values = {**dict(enumerate(report.pixels)), 255: report.ignored}
    note = empty_class_objection(empty_classes(report.pixels, settings.classes), values, "annotation image")
    if note:
        console.print(f"[yellow]{escape(note)}[/]")


def _list_problems(report: AnnotationReport) -> None:
    counted = {
        "regions drawn as default_class": report.defaulted_classes,
        "regions of unknown class, not drawn": report.unknown_classes,
        "pixels that fit no rule, ignored": report.unmatched_pixels,
        "shapes without an area, not drawn": report.ignored_shapes,
    }
    for title, counts in counted.items():
        _show(title, sum(counts.values()), [f"{name}: {count}" for name, count in counts.most_common()])
    if report.unknown_classes:
        console.print("  [dim]map values with --class_values, or all of them with --default_class NAME[/]")
    listed: dict[str, list[str]] = {
        "regions of other pages, not drawn": [f"{place}: {page}" for place, page in report.other_pages],
        "images without regions": report.images_without_regions,
        "images without annotation": report.images_without_annotation,
        "annotations without image": [f"{place}: {reason}" for place, reason in report.annotations_without_image],
        "names refused": [f"{place}: {reason}" for place, reason in report.refused_names],
        "regions clipped at the border": report.clipped_regions,
        "regions skipped": [f"{place}: {reason}" for place, reason in report.skipped_regions],
    }
    for title, lines in listed.items():
        _show(title, len(lines), lines)


def _show(title: str, total: int, lines: list[str]) -> None:
    if not lines:
        return
    console.print(f"[yellow]{total} {title}[/]:")
    for line in lines[:_LISTED]:
        console.print(f"  {escape(line)}")
    if len(lines) > _LISTED:
        console.print(f"  ... and {len(lines) - _LISTED} more, in report.json")
