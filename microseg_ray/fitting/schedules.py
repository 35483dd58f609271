"""Learning rates by step, and how the score of an epoch changes them: plateaus, early stopping."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.settings import EarlyStoppingSettings, OptimizerSettings

__all__ = ["Progress", "Waiting", "learning_rate"]


def learning_rate(chosen: OptimizerSettings, step: int, steps: int, epochs: int = 1, dropped: float = 1.0) -> float:
    """The rate of one step.

    Args:
        chosen: Rate and schedule.
        step: From 0, over the whole fit; `steps` is the end.
        steps: Steps of the whole fit.
        epochs: Epochs of the whole fit; the schedule `step` counts in them.
        dropped: Factor of the rate after the plateaus so far.

    Example:
        >>> from microseg_ray.settings import OptimizerSettings
        >>> [round(learning_rate(OptimizerSettings(), step, 100), 6) for step in (0, 4, 52, 99)]
        [0.0002, 0.001, 0.000508, 0.0]
    """
    rate, end = chosen.learning_rate, chosen.end_rate
    rising = math.ceil(chosen.warmup * steps)
    if step < rising:
        return rate * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    match chosen.schedule:
        case "constant":
            return rate
        case "poly":
            return end + (rate - end) * float((1 - done) ** chosen.power)
        case "cosine":
            return end + (rate - end) * 0.5 * (1 + math.cos(math.pi * done))
        case "step":
            epoch = step * epochs // steps
            return rate * chosen.factor ** sum(epoch >= milestone for milestone in chosen.milestones)
        case "plateau":
            return min(rate, max(rate * dropped, chosen.plateau.min_rate))


@dataclass
class Waiting:
    """Counts epochs without a better score.

    Attributes:
        best: The best score so far.
        epochs: Epochs since.
        since_reset: Epochs since, or since patience ran out last.

    Example:
        >>> waiting = Waiting()
        >>> [waiting.update(score, min_delta=0.1, patience=2) for score in (0.5, 0.55, 0.58, 0.7, 0.7, 0.7, 0.7, 0.7)]
        [False, False, True, False, False, True, False, True]
    """

    best: float = -math.inf
    epochs: int = 0
    since_reset: int = 0

    def update(self, score: float, min_delta: float, patience: int) -> bool:
        """Add the score of an epoch (higher is better); returns whether patience ran out in this epoch."""
        if score > self.best + min_delta:
            self.best, self.epochs, self.since_reset = score, 0, 0
            return False
        self.epochs += 1
        self.since_reset += 1
        if self.since_reset < patience:
            return False
        self.since_reset = 0
        return True


class Progress:
    """The consequences of the scores so far: the factor of the learning rate, and whether to stop.

    Args:
        chosen: `plateau` is used where the schedule is `plateau`.
        early_stopping: When to stop, or None.
    """

    def __init__(self, chosen: OptimizerSettings, early_stopping: EarlyStoppingSettings | None) -> None:
        self._plateau = chosen.plateau if chosen.schedule == "plateau" else None
        self._early = early_stopping
        self._rate = chosen.learning_rate
        self.dropped = 1.0
        self.stopped = ""
        self._on_plateau = Waiting()
        self._before_end = Waiting()

    def update(self, score: float) -> bool:
        """Add the score of an epoch; returns whether to restore the weights of the best epoch."""
        back = False
        if self._plateau is not None:
            chosen = self._plateau
            if self._on_plateau.update(score, chosen.min_delta, chosen.patience):
                self.dropped = max(self.dropped * chosen.factor, chosen.min_rate / self._rate)
                back = chosen.restore_best
            if chosen.giveup is not None and self._on_plateau.epochs >= chosen.patience * chosen.giveup:
                self.stopped = f"no better score in {self._on_plateau.epochs} epochs (optimizer.plateau.giveup)"
        if self._early is not None and self._before_end.update(score, self._early.min_delta, self._early.patience):
            self.stopped = f"no better score in {self._before_end.epochs} epochs (early_stopping)"
        return back

    def state(self) -> dict[str, Any]:
        """Plain values, for `restore`."""
        return {
            "dropped": self.dropped,
            "stopped": self.stopped,
            "plateau": asdict(self._on_plateau),
            "early": asdict(self._before_end),
        }

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self.dropped, self.stopped = float(saved["dropped"]), str(saved["stopped"])
        self._on_plateau, self._before_end = Waiting(**saved["plateau"]), Waiting(**saved["early"])
