"""Matplotlib plots, drawn without a display; equal numbers give equal bytes."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError, ObjectStoreError
from microseg_ray.files import place, whole

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from microseg_ray.files import Where


__all__ = ["new_figure", "plot_confusion", "plot_training", "save_figure"]

_DPI = 120
_LABELLED_CLASSES = 12  # with more classes, the numbers in the cells of a confusion matrix are illegible
_LEFT_OUT = ("epoch", "step", "seconds", "data_wait", "time", "learning_rate", "best", "samples_per_second")


def plot_confusion(path: Where, counts: NDArray[np.int64], names: Sequence[str], counted: str = "pixels") -> None:
    """Plot the confusion matrix twice: as counts, and as shares of each true class.

    Args:
        path: PNG to write.
        counts: (K, K) true class, predicted class.
        names: Class names.
        counted: Unit of the counts: pixels, or micrographs.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_confusion(f"{folder}/a.png", np.array([[3, 1], [0, 4]]), ["clay", "pore"])
        ...     Path(f"{folder}/a.png").stat().st_size > 1000
        True
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    side = max(3.6, 0.55 * len(names) + 1.6)
    figure = new_figure(2 * side, side)
    for number, (values, title) in enumerate(((counts, counted), (shares, "share of the true class")), 1):
        axes = figure.add_subplot(1, 2, number)
        axes.imshow(np.nan_to_num(shares), cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")
        axes.set_title(title)
        if len(names) <= _LABELLED_CLASSES:
            for row, column in np.ndindex(*counts.shape):
                text = _cell(values[row, column])
                color = "white" if np.nan_to_num(shares[row, column]) > 0.5 else "black"
                axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    save_figure(figure, path)


def plot_training(path: Where, metrics: Where | Sequence[Mapping[str, Any]]) -> None:
    """Plot loss and metrics by epoch, with the best epoch marked.

    Args:
        path: PNG to write.
        metrics: `metrics.csv` of a train output, or its rows. Columns whose name contains `loss` go into the left plot,
            other numbers from 0 to 1 into the right plot; times and rates are left out.

    Raises:
        InputError: The file is missing or has no epoch.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> rows = [{"epoch": 1, "loss": 0.9, "val_mean_iou": 0.4}, {"epoch": 2, "loss": 0.5, "val_mean_iou": ""}]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_training(f"{folder}/curves.png", rows)
        ...     Path(f"{folder}/curves.png").stat().st_size > 1000
        True
    """
    rows = _rows(metrics) if not isinstance(metrics, list | tuple) else list(metrics)
    columns = _columns(rows)
    epochs = columns.pop("epoch", np.arange(1, len(rows) + 1, dtype=float))
    losses = {name: values for name, values in columns.items() if "loss" in name}
    shares = {
        name: values
        for name, values in columns.items()
        if name not in losses and np.nanmin(values) >= 0 and np.nanmax(values) <= 1
    }
    best = [number for number, row in enumerate(rows) if str(row.get("best", "")).lower() in {"1", "true"}]
    figure = new_figure(9.6, 3.8)
    for column, (name, drawn) in enumerate((("loss", losses), ("metrics", shares)), 1):
        axes = figure.add_subplot(1, 2, column)
        for label, values in drawn.items():
            axes.plot(
                epochs, values, linewidth=1.2, marker="o" if len(rows) < 30 else None, markersize=2.5, label=label
            )
        if best:
            axes.axvline(epochs[best[-1]], color="0.6", linestyle=":", label=f"best: epoch {epochs[best[-1]]:g}")
        axes.set(xlabel="epoch", title=name)
        if column == 2:
            axes.set_ylim(0, 1)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
    save_figure(figure, path)


def _rows(metrics: Any) -> list[dict[str, Any]]:
    try:
        with place(metrics).open(encoding="utf-8", newline="") as handle:
            rows: list[dict[str, Any]] = list(csv.DictReader(handle))
    except ObjectStoreError:
        raise
    except OSError as error:
        raise InputError(metrics, f"cannot be read ({error.strerror})", "give metrics.csv of a train output") from error
    if not rows:
        raise InputError(metrics, "holds no epoch", "give metrics.csv of a train output")
    return rows


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """Numeric columns; an empty cell is a gap, and a column without numbers is left out."""
    columns = {}
    for name in rows[0]:
        if name in _LEFT_OUT and name != "epoch":
            continue
        try:
            values = np.array([_number(row.get(name)) for row in rows])
        except ValueError:
            continue
        if not np.isnan(values).all():
            columns[name] = values
    return columns


def _number(value: Any) -> float:
    return float("nan") if value is None or value == "" else float(value)


def _cell(value: Any) -> str:
    if isinstance(value, np.integer):
        return f"{int(value):,}" if value < 1_000_000 else f"{float(value):.3g}"
    return "-" if np.isnan(value) else f"{value:.3f}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of `width` x `height` inches."""
    from matplotlib.figure import Figure

    # Not pyplot, which keeps figures until they are closed and selects a display.
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, path: Where) -> None:
    """Write a figure as PNG, atomically; equal figures give equal bytes."""
    with whole(path) as partial:
        # Without matplotlib's version in the metadata, the bytes depend on the numbers alone.
        figure.savefig(partial, format="png", dpi=_DPI, metadata={"Software": None})
