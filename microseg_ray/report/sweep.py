"""Results of a search: trials as CSV, Parquet and a page with parallel coordinates."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import jinja2

from microseg_ray.files import write_text
from microseg_ray.tables import write_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from microseg_ray.fitting.search.trials import Trial, Tuned

__all__ = ["Axis", "axes_of", "write_sweep"]

_WIDTH, _HEIGHT, _TOP = 920, 360, 40


@dataclass(frozen=True)
class Axis:
    """One vertical axis of the parallel coordinates.

    Attributes:
        name: Setting or objective.
        x: Horizontal position in the drawing.
        ticks: (y, text) of each tick.
        places: y of each trial, None for a trial without a value.
    """

    name: str
    x: float
    ticks: tuple[tuple[float, str], ...]
    places: tuple[float | None, ...]


def write_sweep(tuned: Tuned, output: Path) -> Path:
    """Write trials.csv, trials.parquet and trials.html.

    Args:
        tuned: Results of the search.
        output: Folder.

    Returns:
        Path of the page.
    """
    import pyarrow as pa

    names = sorted({name for trial in tuned.trials for name in trial.values})
    rows = [_row(trial, names, tuned.objective) for trial in tuned.trials]
    write_csv(output / "trials.csv", list(rows[0]), (list(row.values()) for row in rows))
    write_parquet(output / "trials.parquet", pa.Table.from_pylist(_plain(rows, names)))
    axes = axes_of(tuned.trials, names, tuned.objective)
    text = _template().render(
        objective=tuned.objective.replace("_", " "),
        axes=axes,
        lines=[_line(axes, place) for place in range(len(rows))],
        rows=rows,
        columns=list(rows[0]),
        width=_WIDTH,
        height=_HEIGHT,
        top=_TOP,
        best=str(tuned.best),
    )
    write_text(output / "trials.html", text)
    return output / "trials.html"


def axes_of(trials: Sequence[Trial], names: Sequence[str], objective: str) -> tuple[Axis, ...]:
    """Axes of the searched settings and of the objective, from left to right.

    Numbers are placed by value, on a logarithmic scale if they span more than a factor of 30; other values by rank.

    Args:
        trials: In the order of the lines.
        names: Searched settings.
        objective: Name of the last axis.

    Example:
        >>> from microseg_ray.fitting.search.trials import Trial
        >>> trials = [Trial(str(n), {"lr": 10.0**-n}, 0.5 + n / 10, 3, 1.0, "done", None) for n in (1, 2, 3)]
        >>> [axis.name for axis in axes_of(trials, ["lr"], "mean_iou")]
        ['lr', 'mean_iou']
    """
    columns = [[trial.values.get(name) for trial in trials] for name in names] + [[trial.score for trial in trials]]
    step = (_WIDTH - 120) / max(1, len(columns) - 1)
    return tuple(
        _axis(name, 60 + place * step, values)
        for place, (name, values) in enumerate(zip([*names, objective], columns, strict=True))
    )


def _axis(name: str, x: float, values: Sequence[Any]) -> Axis:
    given = [value for value in values if value is not None]
    bottom, span = _HEIGHT - _TOP, _HEIGHT - 2.5 * _TOP
    if given and all(isinstance(value, int | float) and not isinstance(value, bool) for value in given):
        low, high = min(given), max(given)
        log = low > 0 and high / low > 30

        def share(value: float) -> float:
            if high == low:
                return 0.5
            return math.log(value / low) / math.log(high / low) if log else float((value - low) / (high - low))

        marks = [low, (math.sqrt(low * high) if log else (low + high) / 2), high]
        ticks = tuple((bottom - span * share(mark), f"{mark:.3g}") for mark in dict.fromkeys(marks))
        places = tuple(None if value is None else bottom - span * share(value) for value in values)
        return Axis(name, x, ticks, places)
    kinds = sorted({str(value) for value in given})
    heights = {kind: bottom - span * (place + 0.5) / len(kinds) for place, kind in enumerate(kinds)}
    ticks = tuple((y, kind) for kind, y in heights.items())
    return Axis(name, x, ticks, tuple(None if value is None else heights[str(value)] for value in values))


def _line(axes: Sequence[Axis], place: int) -> dict[str, Any]:
    """The polyline of one trial, with its score scaled to 0 to 1."""
    points = [(axis.x, axis.places[place]) for axis in axes]
    text = " ".join(f"{x:.1f},{y:.1f}" for x, y in points if y is not None)
    return {"points": text, "rank": place, "scored": axes[-1].places[place] is not None}


def _row(trial: Trial, names: Sequence[str], objective: str) -> dict[str, Any]:
    return {
        "trial": trial.name,
        **{name: trial.values.get(name) for name in names},
        objective: trial.score,
        "epochs": trial.epochs,
        "seconds": round(trial.seconds, 2),
        "state": trial.state,
        "checkpoint": "" if trial.checkpoint is None else str(trial.checkpoint),
        "reason": trial.reason,
    }


def _plain(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows that Parquet can hold: a column of lists, mappings or values of several kinds as JSON, numbers as they are.

    Example:
        >>> _plain([{"crop": 64, "norm": "batch"}, {"crop": "all", "norm": None}], ["crop", "norm"])
        [{'crop': '64', 'norm': 'batch'}, {'crop': '"all"', 'norm': None}]
    """
    coded = set()
    for name in names:
        kinds = {_kind(row[name]) for row in rows if row[name] is not None}
        if len(kinds) > 1 or None in kinds:
            coded.add(name)
    return [
        {name: json.dumps(value) if name in coded and value is not None else value for name, value in row.items()}
        for row in rows
    ]


def _kind(value: Any) -> type | None:
    """What a column of such values holds; None for what has no column type."""
    if isinstance(value, bool | str):
        return type(value)
    return float if isinstance(value, int | float) else None


def _template() -> jinja2.Template:
    source = (resources.files("microseg_ray.report") / "templates" / "sweep.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)
