"""The parts of metrics.json, in the shape that docs/evaluation.md gives; keys are added, never renamed or removed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.evaluation.metrics import (
    CRITERIA,
    BoundaryCounts,
    Reliability,
    ScoreHistogram,
    score_statistics,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from microseg_ray.evaluation.judging import Calibration, Scores, Tally

__all__ = ["boundary_document", "calibration_document", "scores_document"]


def calibration_document(calibration: Calibration, names: Sequence[str]) -> dict[str, Any]:
    """What was chosen on the calibration split, and the figures there."""
    temperature = calibration.temperature
    return {
        "split": calibration.split,
        "micrographs": calibration.micrographs,
        "temperature": temperature.value,
        "pixels": temperature.pixels,
        "nll_before": temperature.nll_before,
        "nll_after": temperature.nll_after,
        "thresholds": {
            name: {
                criterion: None if best is None else dict(best)
                for criterion, best in calibration.thresholds[index].items()
            }
            for index, name in enumerate(names)
        },
    }


def boundary_document(
    total: Tally, tallies: Iterable[Tally], tolerance: float | str, names: Sequence[str]
) -> dict[str, Any]:
    """Boundary figures over all micrographs, and their mean over micrographs.

    Args:
        total: All micrographs together.
        tallies: Each micrograph.
        tolerance: As it was set, in pixels or `auto`.
        names: The classes.
    """
    own = [tally.boundary for tally in tallies]
    return {
        "tolerance_px": tolerance,
        "pooled": _boundary_figures(total.boundary, names),
        "per_image": {
            "mean_f1": plain(_mean(_mean(counts.f1) for counts in own)),
            "classes": {
                name: {"f1": plain(_mean(counts.f1[index] for counts in own))} for index, name in enumerate(names)
            },
        },
    }


def _boundary_figures(counts: BoundaryCounts, names: Sequence[str]) -> dict[str, Any]:
    columns = {"f1": counts.f1, "precision": counts.precision, "recall": counts.recall}
    classes = {
        name: {key: plain(values[index]) for key, values in columns.items()} | {"support": int(counts.true[index])}
        for index, name in enumerate(names)
    }
    return {"mean_f1": plain(_mean(counts.f1)), "classes": classes}


def scores_document(scores: Scores, calibration: Calibration | None, names: Sequence[str]) -> dict[str, Any]:
    """Figures of probabilities. `best` is the best that this very split allows; `chosen` is what may be quoted.

    Args:
        scores: All micrographs together.
        calibration: What was chosen on another split, or None.
        names: The classes.
    """
    classes = {}
    for index, name in enumerate(names):
        found = score_statistics(scores.histogram.curve(index))
        classes[name] = {
            "aupr": found["aupr"],
            "auc": found["auc"],
            "expected_calibration_error": plain(scores.reliability.expected_error(index + 1)),
            "chosen": _chosen(calibration, scores.histogram, index),
            "best": {criterion: found[criterion] for criterion in CRITERIA},
        }
    values = [figures["aupr"] for figures in classes.values() if figures["aupr"] is not None]
    return {
        "bins": scores.histogram.bins,
        "mean_aupr": sum(values) / len(values) if values else None,
        "expected_calibration_error": plain(scores.reliability.expected_error(0)),
        "expected_calibration_error_tempered": _error_of(scores.tempered),
        "classes": classes,
    }


def _chosen(calibration: Calibration | None, histogram: ScoreHistogram, index: int) -> dict[str, Any] | None:
    """The thresholds chosen on the other split, and their metrics on this one."""
    if calibration is None:
        return None
    curve = histogram.curve(index)
    chosen: dict[str, Any] = {}
    for criterion, best in calibration.thresholds[index].items():
        chosen[criterion] = None
        if best is not None:
            threshold = float(best["threshold"])
            chosen[criterion] = {"threshold": threshold, **curve.at(threshold)}
    return chosen


def _error_of(reliability: Reliability | None) -> float | None:
    return None if reliability is None else plain(reliability.expected_error(0))


def plain(value: float) -> float | None:
    """A float for JSON, None for nan.

    Example:
        >>> plain(float("nan")), plain(0.5)
        (None, 0.5)
    """
    return None if np.isnan(value) else float(value)


def _mean(values: Iterable[float] | NDArray[np.float64]) -> float:
    defined = [float(value) for value in values if not np.isnan(value)]
    return sum(defined) / len(defined) if defined else float("nan")
