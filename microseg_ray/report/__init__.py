"""HTML reports: one self-contained page per run or search."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microseg_ray.figures.pictures import scale_bar_um, thumbnail
    from microseg_ray.report.page import Panel, RunReport, write_run_report
    from microseg_ray.report.run import Shown, report_run

__all__ = ["Panel", "RunReport", "Shown", "report_run", "scale_bar_um", "thumbnail", "write_run_report"]

_PLACES = {
    "Panel": "report.page",
    "RunReport": "report.page",
    "Shown": "report.run",
    "report_run": "report.run",
    "scale_bar_um": "figures.pictures",
    "thumbnail": "figures.pictures",
    "write_run_report": "report.page",
}
"""Imported when asked for: the viewer lies in this package and needs none of it."""


def __getattr__(name: str) -> Any:
    if name in _PLACES:
        return getattr(import_module(f"microseg_ray.{_PLACES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
