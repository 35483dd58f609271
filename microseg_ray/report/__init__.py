"""What a run found, on one self-contained HTML page."""

from microseg_ray.report.page import Panel, RunReport, write_run_report
from microseg_ray.report.pictures import scale_bar_um, thumbnail

__all__ = ["Panel", "RunReport", "scale_bar_um", "thumbnail", "write_run_report"]
