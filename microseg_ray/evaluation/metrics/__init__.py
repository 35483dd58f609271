"""What predicted masks and probabilities are worth, in counts that can be merged in any order.

`confusion`: masks against masks. `scores`: probabilities against masks, from histograms whose size does not grow with
the data. `calibration`: whether a probability of 0.9 is right nine times in ten, and the temperature that mends it.
`boundary`: whether borders lie where they should. `areas`: what the errors do to the area fractions.
"""

from microseg_ray.evaluation.metrics.areas import AreaErrors, area_fraction_errors, percentages
from microseg_ray.evaluation.metrics.boundary import BoundaryCounts, boundary_counts
from microseg_ray.evaluation.metrics.calibration import PixelSample, Reliability, Temperature, fit_temperature
from microseg_ray.evaluation.metrics.confusion import ConfusionMatrix, classification_report, mean_of
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
    "area_fraction_errors",
    "boundary_counts",
    "classification_report",
    "exact_curve",
    "fit_temperature",
    "mean_of",
    "percentages",
    "score_statistics",
]
