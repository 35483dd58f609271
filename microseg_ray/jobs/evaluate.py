"""The evaluate job: prints the classification report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from microseg_ray.files import place
from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine, shown
from microseg_ray.names import text

if TYPE_CHECKING:
    from microseg_ray.evaluation.result import Evaluation
    from microseg_ray.settings import EvaluateSettings

__all__ = ["evaluate"]

SHOWN_SECTIONS = 20
SHOWN_DISAGREEMENTS = 3


def evaluate(settings: EvaluateSettings, _start: StartRay) -> int:
    """Compare masks and print the classification report."""
    from microseg_ray.evaluation import job as evaluation
    from microseg_ray.evaluation.metrics import classification_report

    with progress_bar() as bar:
        result = evaluation.evaluate(settings, lambda done, total: bar.update("micrographs", done, total))
    console.print(classification_report(result.pooled, result.classes))
    document = result.document()
    table = Table(
        "", "pixel accuracy", "mean IoU", "micro IoU", "coverage", *(f"IoU {escape(name)}" for name in result.classes)
    )
    for key in ("pooled", "per_image"):
        figures = document[key]
        ious = [shown(figures["classes"][name]["iou"]) for name in result.classes]
        overall = [shown(figures[name]) for name in ("pixel_accuracy", "mean_iou", "micro_iou", "coverage")]
        table.add_row(key, *overall, *ious)
    console.print(table)
    console.print(_class_table(result, document))
    if result.pooled.withheld.any():
        share = 100 * (1 - result.pooled.coverage)
        console.print(
            f"[yellow]{int(result.pooled.withheld.sum())} labelled pixels ({share:.2f} %) are predicted as 255: they are "
            f"withheld, and {_counted(result)}[/]"
        )
    _print_intervals(result, document["intervals"], "95 % intervals over {units} {of}")
    if result.comparison is not None:
        _print_intervals(result, document["comparison"], "this minus the other one, 95 % intervals over {units} {of}")
        for note in result.comparison.notes():
            console.print(f"[yellow]{escape(note)}[/]")
    _print_calibration(document)
    _print_sections(result)
    _print_disagreements(result)
    for note in result.notes:
        console.print(f"[yellow]{escape(note)}[/]")
    console.print(f"{len(result.per_image)} micrographs; {escape(str(place(settings.output) / 'metrics.json'))}")
    return quarantine(result.failures, place(settings.output) / "failures.csv", result.accounts)


def _class_table(result: Evaluation, document: dict[str, Any]) -> Table:
    scores = document["scores"]
    columns = [
        "class",
        "boundary F1",
        "area error",
        "bias",
        *(["AUPR", "threshold for F1", "F1 there"] if scores else []),
    ]
    table = Table(*columns)
    for name in result.classes:
        areas = document["areas"]["classes"][name]
        line = [
            escape(name),
            shown(document["boundary"]["pooled"]["classes"][name]["f1"]),
            shown(areas["mean_absolute_error"]),
            shown(areas["bias"]),
        ]
        if scores:
            figures = scores["classes"][name]
            chosen = (figures["chosen"] or {}).get("f1") or {"threshold": None, "f1": None}
            line += [shown(figures["aupr"]), shown(chosen["threshold"]), shown(chosen["f1"])]
        table.add_row(*line)
    return table


def _counted(result: Evaluation) -> str:
    if result.pooled.withheld_is_wrong:
        return "accuracy, IoU, F1 and recall count them as wrong"
    return "no figure above counts them (withheld: wrong counts them as wrong)"


def _print_intervals(result: Evaluation, document: dict[str, Any] | None, title: str) -> None:
    """Accuracy, mean IoU and IoU of each class, with their intervals."""
    if document is None:
        return
    if document["reason"]:
        console.print(f"{'intervals' if document['resamples'] else 'no interval'}: {document['reason']}")
    if not document["resamples"]:
        return
    table = Table("", "pixel accuracy", "mean IoU", *(f"IoU {escape(name)}" for name in result.classes))
    table.title = escape(title.format(units=document["units"], of=document["of"]))
    shown_figures = [document["pixel_accuracy"], document["mean_iou"]]
    shown_figures += [document["classes"][name]["iou"] for name in result.classes]
    table.add_row("value", *(shown(figure["value"]) for figure in shown_figures))
    table.add_row("from", *(shown(figure["low"]) for figure in shown_figures))
    table.add_row("to", *(shown(figure["high"]) for figure in shown_figures))
    console.print(table)


def _print_calibration(document: dict[str, Any]) -> None:
    found, scores = document["calibration"], document["scores"]
    if scores is None:
        return
    error = shown(scores["expected_calibration_error"])
    if found["split"] is None:
        console.print(f"calibration error {error}; no threshold or temperature chosen: {escape(found['reason'])}")
        return
    console.print(
        f"calibration error {error}, {shown(scores['expected_calibration_error_tempered'])} with temperature "
        f"{found['temperature']:.4f}, chosen on split {escape(found['split'])}"
    )


def _print_disagreements(result: Evaluation) -> None:
    """The first places where label and prediction disagree."""
    if not result.disagreements:
        return
    console.print(f"label and prediction disagree in places, {len(result.disagreements)} listed in disagreements.csv:")
    for row in result.disagreements[:SHOWN_DISAGREEMENTS]:
        sure = "" if row["confidence"] is None else f", sure by {row['confidence']:.2f}"
        console.print(
            f"  {escape(text(row['micrograph']))} at (y, x) = ({row['y0']}, {row['x0']}): labelled {escape(row['label'])}, "
            f"predicted {escape(row['prediction'])}, {row['pixel_count']} px{sure}",
            soft_wrap=True,
        )


def _print_sections(result: Evaluation) -> None:
    rows = [(name, row) for name, found in result.sections.items() for row in found]
    for name, row in rows[:SHOWN_SECTIONS]:
        console.print(
            f"{escape(name)}, section {row.section} at (y, x) = ({row.y0}, {row.x0}): {escape(row.class_name)}, "
            f"{row.pixel_count} px"
        )
    if len(rows) > SHOWN_SECTIONS:
        console.print(f"... and {len(rows) - SHOWN_SECTIONS} more rows in sections.csv")
