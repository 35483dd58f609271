"""HTML reports: one self-contained page per run or search."""

from microseg_ray.figures.pictures import scale_bar_um, thumbnail
from microseg_ray.report.page import Panel, RunReport, write_run_report
from microseg_ray.report.run import Shown, report_run

__all__ = ["Panel", "RunReport", "Shown", "report_run", "scale_bar_um", "thumbnail", "write_run_report"]
