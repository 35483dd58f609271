"""One step of a fit: forward, backward and update over the parts of a batch and over all workers; and counting."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from microseg_ray.evaluation.metrics import ConfusionMatrix
from microseg_ray.fitting.groups import OF_ENCODER, SHARE
from microseg_ray.models.largest import largest
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from torch import Tensor

    from microseg_ray.fitting.losses import Loss
    from microseg_ray.fitting.precision import Precision
    from microseg_ray.fitting.state import Fit
    from microseg_ray.fitting.workers import Workers

__all__ = ["StepOptions", "Stepper", "Tally", "autocast", "divergence"]


@dataclass(frozen=True)
class StepOptions:
    """How a step is computed.

    Attributes:
        precision: Of the forward pass.
        accumulate: Parts of a step.
        clip: Largest norm of the gradients, or None.
        hold: Weight of the divergence from the first model on unlabelled pixels.
    """

    precision: Precision = "bf16"
    accumulate: int = 1
    clip: float | None = None
    hold: float = 0.0


def autocast(precision: Precision, kind: str) -> torch.autocast:
    """The context in which a model runs in a precision, on a device of this kind (`cpu`, `cuda`)."""
    lower = torch.float16 if precision == "fp16" else torch.bfloat16
    return torch.autocast(kind, dtype=lower, enabled=precision != "fp32")


class Stepper:
    """Takes the steps of a fit.

    Args:
        state: The fit; its optimizer, scaler and average are used.
        runner: The model as it is called: wrapped for several workers, or compiled.
        loss: On the same device.
        options: Precision, parts of a step, clipping.
        workers: This worker among the others.
        first: The model that it is held to, frozen; needed where `options.hold` is not 0.
    """

    def __init__(
        self,
        state: Fit,
        runner: nn.Module,
        loss: Loss,
        options: StepOptions,
        workers: Workers,
        first: nn.Module | None = None,
    ) -> None:
        self._state = state
        self._runner = runner
        self._first = first
        self._loss = loss
        self._options = options
        self._workers = workers

    def start(self, rate: float, *, hold_encoder: bool = False) -> None:
        """Begin a step with this learning rate, of which each group has its share; a held encoder keeps its weights."""
        for group in self._state.optimizer.param_groups:
            group["lr"] = 0.0 if hold_encoder and group[OF_ENCODER] else rate * group[SHARE]
        self._state.optimizer.zero_grad(set_to_none=True)

    def part(self, images: Tensor, masks: Tensor, *, last: bool) -> tuple[Tensor, Tensor]:
        """Add one part's gradients.

        Returns:
            The loss of this part over all workers, a scalar, and this worker's logits; both without gradient.
        """
        waits = self._workers.distributed and not last
        silence: AbstractContextManager[object] = (
            cast("Any", self._runner).no_sync() if waits else contextlib.nullcontext()
        )
        with silence:
            return self._learn(images, masks, self._loss, self._workers.world / self._options.accumulate, held=True)

    def further(self, images: Tensor, target: Tensor, loss: Loss, weight: float) -> Tensor:
        """Add the gradients of another loss to those of the step's parts.

        Args:
            images: float (n, c, y, x).
            target: What `loss` takes.
            loss: Without weights of its own.
            weight: Beside the loss of the whole step, which has 1.

        Returns:
            The loss over all workers, without the weight and without gradient.
        """
        return self._learn(images, target, loss, self._workers.world * weight)[0]

    def _learn(
        self, images: Tensor, target: Tensor, loss: Loss, factor: float, *, held: bool = False
    ) -> tuple[Tensor, Tensor]:
        with autocast(self._options.precision, self._workers.kind):
            logits = self._runner(images)
        value = shared_value(loss, logits, target, self._workers)
        # Workers' gradients are averaged, so each worker's own is scaled up by their number.
        slope = value * factor
        if held and self._first is not None:
            with torch.no_grad(), autocast(self._options.precision, self._workers.kind):
                before = self._first(images)
            slope = slope + self._options.hold / self._options.accumulate * divergence(before, logits, target)
        self._state.scaler.scale(slope).backward()
        return value.detach(), logits.detach()

    def finish(self) -> None:
        """Update the weights, and their average."""
        state = self._state
        if self._options.clip is not None:
            state.scaler.unscale_(state.optimizer)
            nn.utils.clip_grad_norm_(state.model.parameters(), self._options.clip)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.averaged is not None:
            state.averaged.update(state.model)


def divergence(before: Tensor, after: Tensor, masks: Tensor) -> Tensor:
    """The mean Kullback-Leibler divergence of a model from an older one, over the pixels without a label.

    Learning without forgetting (Li and Hoiem 2016): what the older model says of the rest is a soft label.

    Args:
        before: Logits of the older model, (n, K, y, x).
        after: Logits of the model that is trained, of the same shape.
        masks: Class indices (n, y, x); `IGNORE_INDEX` where there is no label.

    Returns:
        A scalar; 0 where every pixel has a label.

    Example:
        >>> masks = torch.tensor([[[0, 255]]], dtype=torch.uint8)
        >>> before, after = torch.zeros(1, 2, 1, 2), torch.tensor([[[[9.0, 0]], [[0, 0]]]])
        >>> float(divergence(before, after, masks))
        0.0
    """
    old, new = (nn.functional.log_softmax(each.float(), 1) for each in (before, after))
    free = masks == IGNORE_INDEX
    found = nn.functional.kl_div(new, old, reduction="none", log_target=True).sum(1)
    return (found * free).sum() / free.sum().clamp(min=1)


def shared_value(loss: Loss, logits: Tensor, masks: Tensor, workers: Workers) -> Tensor:
    """The loss of all workers' tiles together; its gradient is that by this worker's logits."""
    sums = loss.sums(logits, masks)
    if workers.distributed:
        everyone = workers.total(sums.detach().clone())
        # The value is everyone's; the slope is this worker's share in it.
        sums = everyone + (sums - sums.detach())
    return loss.value(sums)


class Tally:
    """Counts predicted against true classes where the logits are; only the totals are copied to the CPU.

    Args:
        classes: Number of classes.
        device: Where the logits are.

    Example:
        >>> tally = Tally(2, "cpu")
        >>> tally.add(torch.tensor([[[0, 1, 255]]], dtype=torch.uint8), torch.tensor([[[[1.0, 1, 1]], [[0, 2, 0]]]]))
        >>> tally.counts.tolist()
        [[1, 0], [0, 1]]
    """

    def __init__(self, classes: int, device: str) -> None:
        self.classes = classes
        self._matrix = ConfusionMatrix.zeros(classes)
        self._cells = torch.zeros(classes**2 + 1, dtype=torch.int64, device=device)

    def add(self, masks: Tensor, logits: Tensor) -> None:
        """Count a batch: masks (n, y, x) uint8, logits (n, K, y, x)."""
        guess = largest(logits)
        if guess.device.type == "cpu":
            self._matrix.update(masks.numpy(), guess.numpy())
            return
        cells = masks.long() * self.classes + guess
        cells = torch.where(masks == IGNORE_INDEX, self.classes**2, cells).flatten()
        self._cells.scatter_add_(0, cells, torch.ones_like(cells))

    @property
    def counts(self) -> Tensor:
        """int64 (K, K) on the device, of this worker."""
        own = torch.from_numpy(self._matrix.counts).to(self._cells.device)
        return own + self._cells[:-1].view(self.classes, self.classes)

    def merged(self, workers: Workers) -> ConfusionMatrix:
        """The counts of all workers."""
        return ConfusionMatrix(workers.total(self.counts).cpu().numpy())
