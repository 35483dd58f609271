"""Plots of statistics for papers, each as PNG and SVG: intervals by group, size distributions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microseg_ray.figures.plots import new_figure, save_figure
from microseg_ray.files import whole
from microseg_ray.names import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from microseg_ray.files import Place

__all__ = ["label_of", "plot_correlation", "plot_intervals", "plot_sizes", "save_both"]

MOST_BARS = 40
"""Groups in a plot of intervals; with more, their names are illegible."""

_MOST_NAME = 40


def label_of(name: str) -> str:
    r"""A name as a label: matplotlib reads `$` as mathematics and hides what begins with `_`.

    Example:
        >>> label_of("_a$b"), len(label_of("x" * 99))
        (' _a\\$b', 40)
    """
    shown = text(name)
    shown = shown if len(shown) <= _MOST_NAME else f"{shown[: _MOST_NAME - 3]}..."
    shown = shown.replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def save_both(figure: Figure, stem: Place) -> tuple[Place, Place]:
    """Write STEM.png and STEM.svg; equal figures give equal bytes."""
    import matplotlib as mpl

    png, svg = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg")
    save_figure(figure, png)
    # Ids of the SVG are random without a salt, and its metadata holds the time of day.
    with mpl.rc_context({"svg.hashsalt": "microseg_ray"}), whole(svg) as partial:
        figure.savefig(partial, format="svg", metadata={"Date": None, "Creator": None})
    return png, svg


def plot_intervals(stem: Place, rows: Sequence[Mapping[str, Any]], said: str = "") -> tuple[Place, Place]:
    """Area fractions with 95 % intervals, a part of the plot for each class; a cross where the segmented fraction is another.

    Args:
        stem: Path without suffix.
        rows: With `name`, `class_name`, `estimate`, `low`, `high` and `area_fraction` as segmented (0 to 1, or None), in the
            order of the plot.
        said: A line above the plot: what is missing from the figures.

    Returns:
        The PNG and the SVG.
    """
    classes = list(dict.fromkeys(row["class_name"] for row in rows))
    names = list(dict.fromkeys(row["name"] for row in rows))
    said = said if len(names) <= MOST_BARS else "; ".join(filter(None, (said, f"the last {MOST_BARS} of {len(names)}")))
    names = names[-MOST_BARS:]
    figure = new_figure(2.0 + 2.6 * len(classes), 1.3 + 0.28 * len(names))
    panels = figure.subplots(1, len(classes), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, classes, strict=True):
        own = [row for row in rows if row["class_name"] == name and row["name"] in names]
        for row in own:
            _bar(axes, names.index(row["name"]), row)
        axes.set_title(label_of(name), fontsize=9)
        axes.set_xlabel("area fraction / %")
        axes.grid(axis="x", linewidth=0.4, color="0.85")
    panels[0].set_yticks(range(len(names)), map(label_of, names), fontsize=8)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    _say(figure, said)
    return save_both(figure, stem)


def _bar(axes: Axes, place: int, row: Mapping[str, Any]) -> None:
    if row["estimate"] is None:
        return
    value = 100 * row["estimate"]
    segmented = row.get("area_fraction")
    if segmented is not None and segmented != row["estimate"]:
        axes.plot(100 * segmented, place, "x", markersize=5, color="C1")
    if row["low"] is None or row["high"] is None:
        # Without an interval the marker is hollow.
        axes.plot(value, place, "o", markersize=4, markerfacecolor="none", color="C0")
        return
    ends = [[max(0.0, value - 100 * row["low"])], [max(0.0, 100 * row["high"] - value)]]
    axes.errorbar(value, place, xerr=ends, fmt="o", markersize=4, capsize=3, linewidth=1.2, color="C0")


def plot_sizes(stem: Place, rows: Sequence[Mapping[str, Any]], said: str = "") -> tuple[Place, Place]:
    """Size distributions by number and by area, a line for each class; a row of plots for each unit.

    Args:
        stem: Path without suffix.
        rows: Of `object_sizes.csv`, of all micrographs together.
        said: A line above the plot.
    """
    from matplotlib.ticker import LogLocator

    units = list(dict.fromkeys(row["unit"] for row in rows))
    figure = new_figure(9.6, 0.6 + 3.0 * len(units))
    panels = figure.subplots(len(units), 2, squeeze=False)
    for unit, pair in zip(units, panels, strict=True):
        for axes, key in zip(pair, ("number_share", "area_share"), strict=True):
            _sizes(axes, [row for row in rows if row["unit"] == unit], key)
            axes.set_xscale("log", base=2)
            # Few and short ones: those of small diameters would overlap.
            axes.xaxis.set_major_locator(LogLocator(base=2, numticks=7))
            axes.set_xlabel(f"equivalent diameter / {_unit(unit)}")
            axes.set_ylabel(f"share by {key.removesuffix('_share')}")
            axes.xaxis.set_major_formatter("{x:.3g}")
    if panels[0][0].get_legend_handles_labels()[0]:
        panels[0][0].legend(fontsize=7)
    _say(figure, said)
    return save_both(figure, stem)


def _sizes(axes: Axes, rows: Sequence[Mapping[str, Any]], key: str) -> None:
    for place, name in enumerate(dict.fromkeys(row["class_name"] for row in rows)):
        own = [row for row in rows if row["class_name"] == name and row[key] is not None]
        if own:
            edges = [own[0]["diameter_from"], *(row["diameter_to"] for row in own)]
            style = "-" if place < 10 else "--"
            axes.stairs([row[key] for row in own], edges, label=label_of(name), linewidth=1.4, linestyle=style)


def plot_correlation(stem: Place, rows: Sequence[Mapping[str, Any]], said: str = "") -> tuple[Place, Place]:
    """Normalised covariance against the lag, a part of the plot for each class and a line for each direction.

    Args:
        stem: Path without suffix.
        rows: Of `correlation.csv`, of one scope.
        said: A line above the plot.
    """
    classes = list(dict.fromkeys(row["class_name"] for row in rows))
    figure = new_figure(1.2 + 2.8 * len(classes), 3.2)
    panels = figure.subplots(1, len(classes), squeeze=False, sharey=True)[0]
    for axes, name in zip(panels, classes, strict=True):
        own = [row for row in rows if row["class_name"] == name and row["normalised_covariance"] is not None]
        for direction in dict.fromkeys(row["direction"] for row in own):
            line = [row for row in own if row["direction"] == direction]
            values = [row["normalised_covariance"] for row in line]
            axes.plot([row["lag"] for row in line], values, linewidth=1.2, label=direction)
        axes.axhline(0, linewidth=0.6, color="0.6")
        axes.set_title(label_of(name), fontsize=9)
        axes.set_xlabel(f"lag / {_unit(rows[0]['unit'])}")
    panels[0].set_ylabel("normalised covariance")
    if panels[0].get_legend_handles_labels()[0]:
        panels[0].legend(fontsize=7)
    _say(figure, said)
    return save_both(figure, stem)


def _unit(unit: str) -> str:
    return "\u00b5m" if unit == "um" else unit


def _say(figure: Figure, said: str) -> None:
    if said:
        figure.suptitle(text(said).replace("$", r"\$"), fontsize=8, color="#9b1c1c")
