"""Headings of the workbook's sheets for people: words and units in place of the names of the columns of the CSV."""

from __future__ import annotations

__all__ = ["heading"]

_SPECIAL = {
    "area_d50": "d50 by area, in `unit`",
    "area_share": "share by area",
    "area_share_up_to": "share by area, up to here",
    "area_um2_standard_uncertainty": "standard uncertainty of the area / um2",
    "chord_count": "whole chords",
    "class_index": "class number",
    "class_name": "class",
    "connectivity": "neighbours of a pixel (4 or 8)",
    "corrected_count": "objects, border corrected",
    "cut_count": "chords cut by the border",
    "density_per_mm2": "objects per area / (1/mm2)",
    "density_per_mpx": "objects per area / (1/10^6 px)",
    "euler_number": "Euler number",
    "evaluation": "test set",
    "frame_measured_share": "measured share of the frame",
    "high": "upper end of the 95 % interval",
    "hole_count": "holes",
    "inside_count": "objects inside",
    "intensity_sd": "SD of intensity",
    "low": "lower end of the 95 % interval",
    "length_share": "share by length",
    "measured_pixel_count": "measured pixels",
    "min_pixels": "smallest object / px",
    "more_micrographs_absolute": "more micrographs for +-1 % of the area",
    "more_micrographs_relative": "more micrographs for +-1 % of the fraction",
    "more_px_absolute": "more px for +-1 % of the area",
    "more_px_relative": "more px for +-1 % of the fraction",
    "more_um2_absolute": "more um2 for +-1 % of the area",
    "more_um2_relative": "more um2 for +-1 % of the fraction",
    "name": "group or micrograph",
    "number_d10": "d10 by number, in `unit`",
    "number_d50": "d50 by number, in `unit`",
    "number_d90": "d90 by number, in `unit`",
    "number_share": "share by number",
    "number_share_up_to": "share by number, up to here",
    "object_count": "objects",
    "other_name": "other class",
    "pair_count": "pairs of pixels",
    "part": "error by",
    "pixel_count": "pixels",
    "pixel_size_source": "source of the pixel size",
    "pixel_size_um_x": "pixel size along x / um",
    "pixel_size_um_y": "pixel size along y / um",
    "sd_area_fraction": "SD of area fraction",
    "specific_length_per_px": "boundary length per area / (1/px)",
    "specific_length_per_um": "boundary length per area / (1/um)",
    "unmeasured_pixel_count": "unmeasured pixels",
    **{side: f"{side} / px" for side in ("x0", "x1", "y0", "y1")},
}
_UNITS = {"_um2": "um2", "_um": "um", "_px": "px", "_deg": "degrees", "_percent": "%"}


def heading(column: str) -> str:
    """The words of a column of a table.

    Example:
        >>> [heading(name) for name in ("feret_max_um", "part", "relative_accuracy_percent", "mean")]
        ['feret max / um', 'error by', 'relative accuracy / %', 'mean']
    """
    if column in _SPECIAL:
        return _SPECIAL[column]
    ending = next((ending for ending in _UNITS if column.endswith(ending)), "")
    words = column.removesuffix(ending).replace("_", " ")
    return f"{words} / {_UNITS[ending]}" if ending else words
