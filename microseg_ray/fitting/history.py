"""metrics.csv: a row per epoch of a fit."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    import os


__all__ = ["EpochReport", "read_history", "write_history"]

HISTORY_FILE = "metrics.csv"
_COLUMNS = (
    *("epoch", "loss", "val_loss", "train_mean_iou", "val_mean_iou", "pixel_accuracy", "learning_rate"),
    *("seconds", "data_wait", "best"),
)
_OF_UNLABELLED = ("unlabelled_loss", "confident")


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch; one row of metrics.csv.

    Attributes:
        epoch: Epochs done, from 1.
        loss: Mean training loss.
        val_loss: On the validation split, as one batch; None without one.
        train_mean_iou: On the augmented training batches, as they were seen.
        val_mean_iou: On the validation split; None without one.
        pixel_accuracy: Of the split that selects: validation, else training.
        class_iou: Per class, of the same split; None where a class is absent.
        learning_rate: At the epoch's end.
        seconds: Of this epoch.
        score: What selects the best epoch; higher is better, so a loss is negative. -inf where it is undefined.
        best: Whether this is the best epoch so far.
        data_wait: Seconds that a training step waited for its tiles, mean of the epoch, on the first worker.
        unlabelled_loss: Of the crops of `train.unlabelled`, without its weight; None without.
        confident: Share of their pixels in which the averaged weights were confident; None without.
    """

    epoch: int
    loss: float
    val_loss: float | None
    train_mean_iou: float | None
    val_mean_iou: float | None
    pixel_accuracy: float | None
    class_iou: tuple[float | None, ...]
    learning_rate: float
    seconds: float
    score: float
    best: bool
    # Fits of earlier versions did not measure it.
    data_wait: float = 0.0
    unlabelled_loss: float | None = None
    confident: float | None = None


def read_history(output: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The finished epochs of a fit as texts by column; empty where there is none.

    Example:
        >>> read_history("/nowhere")
        []
    """
    path = Path(output) / HISTORY_FILE
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def write_history(output: str | os.PathLike[str], history: list[EpochReport], classes: list[str]) -> None:
    """Write metrics.csv, whole or not at all."""
    more = _OF_UNLABELLED if any(row.confident is not None for row in history) else ()
    columns = (*_COLUMNS, *more)
    rows = ([*(vars(row)[name] for name in columns), *row.class_iou] for row in history)
    header = [*columns, *(f"iou_{name}" for name in classes)]
    write_csv(Path(output) / HISTORY_FILE, header, rows, line_end="\r\n")
