"""Writes workbook, tables to paste and plots of a run, from its tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.figures.statistics import plot_correlation, plot_intervals, plot_sizes
from microseg_ray.files import name_below, write_text
from microseg_ray.outputs import Kind
from microseg_ray.report.exports.paper import PARTS, latex, markdown, paper_tables, place_name, shown_intervals
from microseg_ray.report.exports.reading import Published, rows_of
from microseg_ray.report.exports.workbook import write_workbook
from microseg_ray.runs.store.glance import glance

if TYPE_CHECKING:
    from microseg_ray.files import Place
    from microseg_ray.runs.folder import Run

__all__ = ["PLOTS", "Exports", "published", "write_exports"]

PLOTS = ("intervals", "sizes", "correlation")
"""Plots of a run; each is plots/NAME.png and plots/NAME.svg."""


@dataclass(frozen=True)
class Exports:
    """What was written.

    Attributes:
        written: Files, relative to the run's folder.
        notes: What did not fit, and what is missing.
    """

    written: tuple[str, ...]
    notes: tuple[str, ...]


def published(run: Run, set_aside: int) -> Published:
    """What is said of a run everywhere: whether figures are missing.

    Args:
        run: The run.
        set_aside: Inputs that were quarantined.
    """
    known = rows_of(run.folder, "groups", lambda row: row["scope"] == "archive")
    unfinished = (
        int(known[0]["unfinished_micrographs"])
        if known
        else sum(not glance(run.store_path(name)).finished for name in run.names())
    )
    return Published(run.folder, run.identity.model_digest, unfinished, set_aside)


def write_exports(run: Run, set_aside: int, sheet_rows: int) -> Exports:
    """Write RUN/statistics.xlsx, tables.md, tables.tex and plots/, from the tables that are there.

    Args:
        run: The run; locked by the caller.
        set_aside: Inputs that were quarantined.
        sheet_rows: Rows of a sheet of the workbook, at most.

    Raises:
        StoreError: The disk is full.
    """
    folder, said = run.folder, published(run, set_aside)
    names = ["statistics.xlsx", "tables.md", "tables.tex"]
    run.claim(dict.fromkeys(names, Kind.FILE))
    notes = write_workbook(folder / "statistics.xlsx", said, sheet_rows)
    tables = paper_tables(said)
    write_text(folder / "tables.md", markdown(tables, said))
    write_text(folder / "tables.tex", latex(tables, said))
    names += _plots(run, said)
    return Exports(tuple(names), (*notes, *filter(None, (said.partial,))))


def _plots(run: Run, said: Published) -> list[str]:
    folder = run.folder
    intervals = rows_of(folder, "intervals", lambda row: row["scope"] != "micrograph" and row["part"] in PARTS)
    shown: list[dict[str, Any]] = [{**row, "name": place_name(row)} for row in shown_intervals(intervals)]
    sizes = rows_of(folder, "object_sizes", lambda row: not row["micrograph"])
    curves = rows_of(folder, "correlation", lambda row: row["scope"] == "archive")
    written: list[Place] = []
    for name, draw, rows in (
        ("intervals", plot_intervals, shown),
        ("sizes", plot_sizes, sizes),
        ("correlation", plot_correlation, curves),
    ):
        if rows:
            run.claim({f"plots/{name}.{kind}": Kind.FILE for kind in ("png", "svg")})
            (folder / "plots").mkdir(exist_ok=True)
            written += draw(folder / "plots" / name, rows, said.partial)
    return [name_below(path, folder) for path in written]
