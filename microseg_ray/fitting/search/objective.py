"""The objective of a search: what one fit reports after each epoch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microseg_ray.fitting.history import read_history
from microseg_ray.settings import EvaluateSettings, settings_from

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from microseg_ray.settings import TuneSettings

__all__ = ["HIGHER_IS_BETTER", "Objective"]

HIGHER_IS_BETTER = {"mean_iou": True, "area_error": False}


class Objective:
    """Metrics of the fit in one folder; the area error is measured only where there is a new best checkpoint.

    Args:
        settings: The search.
        folder: Output of the fit.

    Example:
        >>> from microseg_ray.settings import TuneSettings
        >>> chosen = TuneSettings(tiles="t", output="o", search={"model.width": [2, 4]})
        >>> objective = Objective(chosen, "fit")
        >>> [objective.after({"epoch": 1, "val_mean_iou": 0.5})["mean_iou"], objective.after({"epoch": 1})]
        [0.5, None]
    """

    def __init__(self, settings: TuneSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._epoch = 0
        self._best = float("-inf")
        self._area: float | None = None

    def resumed(self) -> dict[str, Any] | None:
        """Metrics of the last epoch of a fit that was done before, so that it is not computed again; else None."""
        history = read_history(self._folder)
        for row in history[:-1]:
            self._best = max(self._best, _mean_iou(row))
            self._epoch = int(row["epoch"])
        return self.after(history[-1]) if history else None

    def after(self, row: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """Metrics after an epoch; None where the epoch was reported before."""
        if row is None or int(row["epoch"]) <= self._epoch:
            return None
        self._epoch = int(row["epoch"])
        improved = _mean_iou(row) > self._best
        self._best = max(self._best, _mean_iou(row))
        metrics = {"mean_iou": self._best, "epoch": self._epoch, "folder": str(self._folder)}
        if self._settings.objective == "area_error":
            if improved or self._area is None:
                self._area = _area_error(self._settings, self._folder)
            metrics["area_error"] = self._area
        return metrics


def _mean_iou(row: Mapping[str, Any]) -> float:
    value = row["val_mean_iou"]
    return -1.0 if value in {None, ""} else float(value)


def _area_error(settings: TuneSettings, folder: Path) -> float:
    """Mean absolute error of the area fractions on the whole micrographs of split val."""
    from microseg_ray.evaluation.job import evaluate
    from microseg_ray.tiles.store import TileStore

    classes = [item.model_dump() for item in TileStore.open(settings.tiles).spec.classes]
    chosen = settings_from(
        EvaluateSettings,
        {
            # The leak audit of the training splits has no part in the evaluation.
            **settings.data.model_dump(exclude={"audit"}),
            "checkpoint": str(folder / "best"),
            "split": "val",
            "output": str(folder / "areas"),
            "classes": classes,
            "figures": False,
            "probabilities": False,
            "threads": settings.threads,
            "precision": "fp32" if settings.precision == "fp32" else "bf16",
        },
    )
    return float(evaluate(chosen).areas.mean_absolute_error)
