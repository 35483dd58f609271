"""The demo, as the command line runs it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import (
    StartRay,
    console,
    progress_bar,
    quarantine,
)

if TYPE_CHECKING:
    from microseg_ray.settings import DemoSettings


def demo(settings: DemoSettings, start: StartRay) -> int:
    """Everything on simulated micrographs, measured areas beside the true ones."""
    from microseg_ray import demo as demonstration
    from microseg_ray.metrics import classification_report

    began = time.monotonic()
    with progress_bar() as bar:
        shown = demonstration.demo(settings, bar.update, start)
    table = Table("micrograph", "class", "measured fraction", "true fraction", "difference", "area um2")
    for row in shown.segmented.areas:
        true = shown.truth[row.micrograph, row.class_name]
        measured = row.area_fraction or 0.0
        area = "-" if row.area_um2 is None else f"{row.area_um2:.1f}"
        table.add_row(row.micrograph, row.class_name, f"{measured:.5f}", f"{true:.5f}", f"{measured - true:+.5f}", area)
    console.print(table)
    console.print(classification_report(shown.evaluation.pooled, shown.evaluation.classes))
    engine = shown.segmented.plan
    console.print(f"seams: {engine.verdict}; tile {engine.engine.tile}, halo {engine.engine.halo}")
    console.print(f"held-out mean IoU: {shown.evaluation.pooled.mean_iou:.4f}")
    console.print(f"page: {escape(str(shown.page))}")
    console.print(f"demo finished in {time.monotonic() - began:.0f} s")
    return quarantine(shown.segmented.ledger.failures, shown.segmented.run.folder / "failures.csv")
