"""The steps on micrographs without labels within one epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from microseg_ray.errors import MicrosegError
from microseg_ray.fitting.stepping import autocast
from microseg_ray.fitting.unlabelled import ConfidentPixels, kept_statistics, ramp, sure_classes
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.fitting.precision import Precision
    from microseg_ray.fitting.state import Fit
    from microseg_ray.fitting.stepping import Stepper
    from microseg_ray.fitting.unlabelled import Views
    from microseg_ray.fitting.workers import Workers
    from microseg_ray.settings import UnlabelledSettings

__all__ = ["Agreement", "Means"]


@dataclass(frozen=True)
class Means:
    """What came of the crops without labels in one epoch.

    Attributes:
        loss: Cross entropy of the confident pixels over all pixels, without its weight.
        confident: Share of the pixels in which the teacher was confident.
    """

    loss: float
    confident: float


class Agreement:
    """Adds the gradients of crops without labels to the steps of one epoch.

    Args:
        state: The fit; its averaged model is the teacher.
        stepper: Takes the steps.
        workers: This worker among the others.
        chosen: Weight, ramp and confidence.
        precision: Of the forward passes.
        coming: The crops of each step, with the seconds that were waited for them.
    """

    def __init__(
        self,
        state: Fit,
        stepper: Stepper,
        workers: Workers,
        chosen: UnlabelledSettings,
        precision: Precision,
        coming: Iterator[tuple[Views, float]],
    ) -> None:
        if state.averaged is None:
            raise ValueError("crops without labels need averaged weights")
        self._teacher, self._model, self._stepper, self._workers = state.averaged.model, state.model, stepper, workers
        self._chosen, self._precision, self._coming = chosen, precision, coming
        self._loss = ConfidentPixels()
        # Summed losses, confident pixels, pixels, steps.
        self._sums = torch.zeros(4, dtype=torch.float64, device=workers.device)

    def step(self, done: float) -> float:
        """Add the gradients of one step's crops.

        Args:
            done: Share of the fit that is done.

        Returns:
            The seconds that were waited for the crops.
        """
        (weak, changed, outside), waited = next(self._coming)
        with torch.no_grad(), autocast(self._precision, self._workers.kind):
            logits = self._teacher(weak)
        wanted = sure_classes(logits, outside, self._chosen.confidence)
        weight = self._chosen.weight * ramp(done, self._chosen.ramp)
        with kept_statistics(self._model):
            value = self._stepper.further(changed, wanted, self._loss, weight)
        sure = (wanted != IGNORE_INDEX).sum()
        self._sums[0] += value.double()
        self._sums[1] += sure
        self._sums[2] += wanted.numel()
        self._sums[3] += 1
        return waited

    def means(self) -> Means:
        """Of the steps so far, over all workers.

        Raises:
            MicrosegError: The loss became infinite or no number.
        """
        loss, sure, pixels, steps = self._workers.total(self._sums).tolist()
        # Each worker has the value of all.
        mean = loss / max(1.0, steps)
        if not math.isfinite(mean):
            raise MicrosegError(
                f"the loss of train.unlabelled became {mean}; lower its weight or optimizer.learning_rate"
            )
        return Means(mean, sure / max(1.0, pixels))
