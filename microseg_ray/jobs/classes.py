"""The table of precision and recall by class that classifier and classify print."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import console, shown

__all__ = ["print_class_metrics"]


def print_class_metrics(metrics: dict[str, Any], title: str) -> None:
    """Print precision, recall and F1 of each class, and the accuracy.

    Args:
        metrics: As the classification returns them.
        title: Of the table.
    """
    table = Table("class", "precision", "recall", "F1", "micrographs", title=title)
    for name, figures in metrics["classes"].items():
        values = (shown(figures[key]) for key in ("precision", "recall", "f1"))
        table.add_row(escape(name), *values, str(figures["support"]))
    console.print(table)
    rule = metrics.get("one_feature_rule")
    beside = f"; one threshold on the mean gradient: {shown(rule['accuracy'])}" if rule else ""
    console.print(f"accuracy {shown(metrics['accuracy'])} of {metrics['micrographs']} micrographs{beside}")
