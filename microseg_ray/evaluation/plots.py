"""Plots of probabilities against truth: reliability, precision over recall."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microseg_ray.figures.plots import new_figure, save_figure

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.evaluation.metrics import Reliability, ThresholdCurve
    from microseg_ray.files import Where


__all__ = ["plot_precision_recall", "plot_reliability"]


def plot_reliability(
    path: Where, curves: Mapping[str, Reliability], title: str = "confidence of the predicted class"
) -> None:
    """How often predictions of a confidence were right, beside how often they should be.

    Args:
        path: PNG that is written.
        curves: By what they are called in the legend, such as `as predicted` and `temperature 1.31`.
        title: Above the plot.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from microseg_ray.evaluation.metrics import Reliability
        >>> curve = Reliability.zeros(2)
        >>> curve.update(np.array([0, 1], np.uint8), np.array([[0.7, 0.2], [0.3, 0.8]]), np.array([0, 1], np.uint8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_reliability(f"{folder}/a.png", {"as predicted": curve})
        ...     Path(f"{folder}/a.png").stat().st_size > 1000
        True
    """
    figure = new_figure(4.4, 5.4)
    grid = figure.add_gridspec(2, 1, height_ratios=(3, 1))
    axes, below = figure.add_subplot(grid[0]), figure.add_subplot(grid[1])
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1, linestyle="--", label="perfect")
    for name, curve in curves.items():
        axes.plot(
            curve.confidence(0),
            curve.observed(0),
            marker="o",
            markersize=3,
            label=f"{name} (ECE {curve.expected_error(0):.4f})",
        )
        pixels = curve.counts[0, 0]
        below.stairs(pixels / max(1, int(pixels.sum())), curve.edges)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="share that is right", title=title)
    axes.legend(loc="upper left", fontsize=8)
    below.set(xlim=(0, 1), xlabel="confidence", ylabel="share of pixels")
    save_figure(figure, path)


def plot_precision_recall(path: Where, curves: Mapping[str, ThresholdCurve]) -> None:
    """Precision over recall of each class, one against the rest, with the average precision.

    Args:
        path: PNG that is written.
        curves: By class name.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np
        >>> from microseg_ray.evaluation.metrics import exact_curve
        >>> curve = exact_curve(np.array([True, False]), np.array([0.8, 0.1]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     plot_precision_recall(f"{folder}/a.png", {"pore": curve})
        ...     Path(f"{folder}/a.png").stat().st_size > 1000
        True
    """
    figure = new_figure(4.8, 4.4)
    axes = figure.add_subplot(1, 1, 1)
    for name, curve in curves.items():
        if curve.positives:
            label = f"{name} (AUPR {curve.average_precision:.4f})"
            axes.plot(curve.recall, curve.precision, linewidth=1.2, label=label)
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall", ylabel="precision", title="each class against the rest")
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", fontsize=8)
    save_figure(figure, path)
