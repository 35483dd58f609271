"""A run's tables for other programs and for papers: workbook, LaTeX and Markdown, plots."""

from microseg_ray.report.exports.job import Exports, write_exports

__all__ = ["Exports", "write_exports"]
