"""How good a classifier is on micrographs whose class is known: one folder with figures and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from microseg_ray.evaluation.metrics import ConfusionMatrix
from microseg_ray.figures import plot_confusion
from microseg_ray.files import write_json
from microseg_ray.names import text
from microseg_ray.tables import write_arrow_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

VERDICT_FILES = ("metrics.json", "classes.csv", "classes.parquet", "confusion.png")

__all__ = ["VERDICT_FILES", "Verdict", "judged", "write_table", "write_verdict"]

_DIGITS = 6  # of a probability: fewer than float32 holds, so that a last bit does not change a table


@dataclass(frozen=True)
class Verdict:
    """The class of one micrograph.

    Attributes:
        micrograph: Its name.
        probabilities: (K,) that add up to 1.
        views: How many views they are the mean of.
        shape: (height, width) of the file.
        truth: Index of the true class, where it is known.
    """

    micrograph: str
    probabilities: NDArray[np.float64]
    views: int
    shape: tuple[int, int]
    truth: int | None = None

    @property
    def label(self) -> int:
        """Index of the most probable class; the first of equal ones."""
        return int(np.argmax(self.probabilities))


def judged(verdicts: Sequence[Verdict], classes: Sequence[str]) -> tuple[ConfusionMatrix, dict[str, Any]]:
    """Confusion matrix (of micrographs) and metrics.json of verdicts whose truth is known.

    Args:
        verdicts: Those without a truth are left out.
        classes: Names.

    Example:
        >>> sure = Verdict("a.png", np.array([0.9, 0.1]), 1, (8, 8), truth=0)
        >>> judged([sure], ["coarse", "fine"])[1]["accuracy"]
        1.0
    """
    known = [(item.truth, item) for item in verdicts if item.truth is not None]
    matrix = ConfusionMatrix.zeros(len(classes))
    matrix.update(np.array([truth for truth, _ in known], np.uint8), np.array([v.label for _, v in known], np.uint8))
    figures = matrix.as_metrics(classes)["classes"]
    losses = [-float(np.log(max(item.probabilities[truth], 1e-12))) for truth, item in known]
    document = {
        "accuracy": matrix.pixel_accuracy if known else None,
        "log_loss": float(np.mean(losses)) if known else None,
        "micrographs": len(known),
        "confusion_matrix": matrix.counts.tolist(),
        "classes": {
            name: {key: figures[name][key] for key in ("precision", "recall", "f1", "support")} for name in classes
        },
    }
    return matrix, document


def write_verdict(
    folder: Path, verdicts: Sequence[Verdict], classes: Sequence[str], extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write metrics.json, classes.csv, classes.parquet and confusion.png into a folder.

    Args:
        folder: Made where missing.
        verdicts: With their truth.
        classes: Names.
        extra: Further keys of metrics.json.

    Returns:
        metrics.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    matrix, document = judged(verdicts, classes)
    document |= extra or {}
    write_table(folder, verdicts, classes)
    plot_confusion(folder / "confusion.png", matrix.counts, classes, "micrographs")
    write_json(folder / "metrics.json", document)
    return document


def write_table(folder: Path, verdicts: Sequence[Verdict], classes: Sequence[str]) -> None:
    """Write classes.csv and classes.parquet, a row per micrograph, each whole or not at all.

    Columns: micrograph, class, probability, probability_CLASS for each class, views, height, width, and truth where
    it is known of any.
    """
    columns: dict[str, Any] = {
        "micrograph": [text(item.micrograph) for item in verdicts],
        "class": [classes[item.label] for item in verdicts],
        "probability": [round(float(item.probabilities[item.label]), _DIGITS) for item in verdicts],
    }
    for index, name in enumerate(classes):
        columns[f"probability_{name}"] = [round(float(item.probabilities[index]), _DIGITS) for item in verdicts]
    columns["views"] = [item.views for item in verdicts]
    columns["height"] = [item.shape[0] for item in verdicts]
    columns["width"] = [item.shape[1] for item in verdicts]
    if any(item.truth is not None for item in verdicts):
        columns["truth"] = [None if item.truth is None else classes[item.truth] for item in verdicts]
    table = pa.table({name: pa.array(values, _kind(name)) for name, values in columns.items()})
    write_arrow_csv(folder / "classes.csv", table)
    write_parquet(folder / "classes.parquet", table)


def _kind(column: str) -> pa.DataType:
    if column.startswith("probability"):
        return pa.float64()
    return pa.int64() if column in {"views", "height", "width"} else pa.string()
