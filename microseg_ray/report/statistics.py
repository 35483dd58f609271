"""What `measure` made of a run, for its page: tables with intervals, plots, and links to the files beside the page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microseg_ray.report.exports.job import PLOTS, published
from microseg_ray.report.exports.paper import PaperTable, paper_tables
from microseg_ray.report.exports.reading import TABLES
from microseg_ray.runs.folder import EXPORTS

if TYPE_CHECKING:
    from microseg_ray.runs.folder import Run

__all__ = ["PageStatistics", "statistics_of"]

_CAPTIONS = {
    "intervals": "Area fractions with 95 % intervals; a hollow marker has no interval",
    "sizes": "Size distributions by number and by area, border-corrected",
    "correlation": "Normalised covariance of each class by direction, of all micrographs together",
}


@dataclass(frozen=True)
class PageStatistics:
    """The part of the page.

    Attributes:
        partial: What is missing from the figures; empty if nothing is.
        tables: Those of `tables.md`.
        plots: (caption, data URI of the SVG).
        files: Files beside the page.
    """

    partial: str = ""
    tables: tuple[PaperTable, ...] = ()
    plots: tuple[tuple[str, str], ...] = ()
    files: tuple[str, ...] = ()


def statistics_of(run: Run) -> PageStatistics:
    """The statistics of a run; nothing where `measure` did not run."""
    said = published(run, len(run.failures()))
    plots = []
    for name in PLOTS:
        path = run.folder / "plots" / f"{name}.svg"
        if path.is_file():
            uri = f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
            plots.append((_CAPTIONS[name], uri))
    names = [f"{name}.{kind}" for name in TABLES for kind in ("csv", "parquet")]
    names += [name for name in EXPORTS if name != "plots"]
    names += [f"plots/{name}.{kind}" for name in PLOTS for kind in ("png", "svg")]
    files = tuple(name for name in names if (run.folder / name).is_file())
    return PageStatistics(said.partial, tuple(paper_tables(said)), tuple(plots), files)
