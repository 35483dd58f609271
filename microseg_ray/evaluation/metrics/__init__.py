"""Metrics of predicted masks and probabilities, from counts that can be merged in any order.

`confusion`: masks against masks. `scores`: probabilities against masks, from histograms of constant size.
`calibration`: reliability of the probabilities, and temperature scaling. `boundary`: boundary F1. `areas`: errors of
the area fractions.
"""

from microseg_ray.evaluation.metrics.areas import AreaErrors, area_fraction_errors, percentages
from microseg_ray.evaluation.metrics.boundary import BoundaryCounts, boundary_counts
from microseg_ray.evaluation.metrics.calibration import PixelSample, Reliability, Temperature, fit_temperature
from microseg_ray.evaluation.metrics.confusion import ConfusionMatrix, classification_report, mean_of
from microseg_ray.evaluation.metrics.resampling import Units, difference_intervals, figure_intervals, units_of
from microseg_ray.evaluation.metrics.scores import (
    CRITERIA,
    ScoreHistogram,
    ThresholdCurve,
    exact_curve,
    score_statistics,
)

__all__ = [
    "CRITERIA",
    "AreaErrors",
    "BoundaryCounts",
    "ConfusionMatrix",
    "PixelSample",
    "Reliability",
    "ScoreHistogram",
    "Temperature",
    "ThresholdCurve",
    "Units",
    "area_fraction_errors",
    "boundary_counts",
    "classification_report",
    "difference_intervals",
    "exact_curve",
    "figure_intervals",
    "fit_temperature",
    "mean_of",
    "percentages",
    "score_statistics",
    "units_of",
]
