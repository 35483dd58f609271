"""The epochs of a fit: steps, validation, checkpoints, when to stop."""

from __future__ import annotations

import itertools
import math
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from microseg_ray.errors import MicrosegError
from microseg_ray.evaluation.metrics.undefined import none_if_undefined
from microseg_ray.fitting.ahead import prepared_ahead
from microseg_ray.fitting.batches import Preparation, Tiles, prepared
from microseg_ray.fitting.groups import encoder_of
from microseg_ray.fitting.history import EpochReport
from microseg_ray.fitting.precision import precision_of, settled
from microseg_ray.fitting.sampling import BatchOrder, batches_of
from microseg_ray.fitting.schedules import learning_rate
from microseg_ray.fitting.setup import card_of, check_fit, compiled, first_model, fresh, loss_of, start_weights
from microseg_ray.fitting.state import Fit, go_on, identity_of, save_checkpoints, save_state, saved_state
from microseg_ray.fitting.stepping import StepOptions, Stepper, Tally, autocast
from microseg_ray.fitting.synced_norm import freeze_norms, synchronise
from microseg_ray.fitting.teaching import Agreement, Means
from microseg_ray.fitting.unlabelled import Unlabelled
from microseg_ray.models.checkpoint import load_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from microseg_ray.evaluation.metrics import ConfusionMatrix
    from microseg_ray.fitting.losses import Loss
    from microseg_ray.fitting.workers import Workers
    from microseg_ray.settings import TrainSettings

    OnStep = Callable[[int, int, int], None]

__all__ = ["fit"]

_LOSSES_IN_FLIGHT = 50
"""Steps on a GPU between reads of the loss; each read waits for the GPU."""


@dataclass(frozen=True)
class _Job:
    """What is the same in all epochs."""

    settings: TrainSettings
    workers: Workers
    loss: Loss
    train: Tiles
    counts: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    val: Tiles | None
    classes: tuple[str, ...]
    on_step: OnStep
    unlabelled: Unlabelled | None

    @property
    def order(self) -> BatchOrder:
        """How the labelled tiles make batches."""
        settings = self.settings
        return BatchOrder(
            settings.batch, settings.seed, settings.steps_per_epoch, settings.accumulate, settings.sampling
        )


def fit(
    settings: TrainSettings,
    workers: Workers,
    report: Callable[[EpochReport], bool | None],
    on_step: OnStep = lambda *_: None,
) -> str:
    """Train, or go on training, and write checkpoints.

    Args:
        settings: The job's settings.
        workers: This worker among the others.
        report: Called by every rank after each epoch, once its state is saved. If it returns True on any rank, the fit
            stops; the same settings resume it later.
        on_step: Called with (epoch, step, steps) after every step.

    Returns:
        Why the fit ended before its last epoch; empty where it did not.

    Raises:
        SettingsError: The output holds a fit of other settings, or the batch does not suit the workers or the store.
        StoreError: The tile store cannot be read.
        MicrosegError: The loss became infinite or no number.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    settings = settled(settings, gpu=workers.kind == "cuda")
    store = check_fit(settings, workers)
    state = fresh(settings, store, workers)
    identity = identity_of(settings, store)
    if not go_on(state, settings, saved_state(settings, store)):
        start_weights(state, settings.model.start, settings.output)
    # Before the model is wrapped; what it measures depends on the architecture, not on the weights.
    card = card_of(settings, store, state.model)
    classes = tuple(item.name for item in store.spec.classes)
    rows = store.rows("val")
    job = _Job(
        settings,
        workers,
        loss_of(settings.loss, settings.class_weights, store).to(workers.device),
        Tiles(store, store.rows("train"), settings.held_bytes),
        store.tile_counts("train"),
        Tiles(store, rows, settings.held_bytes) if len(rows) else None,
        classes,
        on_step,
        Unlabelled.open(settings, store, workers),
    )
    options = StepOptions(precision_of(settings), settings.accumulate, settings.clip, settings.hold)
    held_to = first_model(settings, store, workers) if settings.hold else None
    stepper = Stepper(state, _runner(state.model, settings, workers), job.loss, options, workers, held_to)
    while state.epoch < settings.epochs and not state.progress.stopped:
        row, judged = _epoch(state, stepper, job)
        back = state.progress.update(row.score)
        state.history.append(row)
        state.epoch += 1
        if workers.rank == 0:
            with workers.writing():
                save_checkpoints(state, settings, card, judged.as_metrics(list(classes)))
        if back and not row.best:
            _go_back(state, settings, workers)
        if workers.rank == 0:
            with workers.writing():
                save_state(state, settings, identity, list(classes))
        if workers.any_true(bool(report(row))) and state.epoch < settings.epochs:
            return "stopped from outside"
    return state.progress.stopped


def _runner(model: nn.Module, settings: TrainSettings, workers: Workers) -> nn.Module:
    """The model as it is called in training."""
    _freeze(model, settings)
    if settings.freeze_batch_norm is not True and workers.distributed:
        synchronise(model)
    ready = compiled(model, workers.device) if settings.compile else model
    if not workers.distributed:
        return ready
    # Batch statistics are the same everywhere already.
    return nn.parallel.DistributedDataParallel(ready, broadcast_buffers=False)


def _freeze(model: nn.Module, settings: TrainSettings) -> None:
    """Freeze the batch norms of the whole model or of its encoder, or none."""
    if settings.freeze_batch_norm == "encoder":
        freeze_norms(encoder_of(model, "train.freeze_batch_norm"))
    elif settings.freeze_batch_norm:
        freeze_norms(model)


def _epoch(state: Fit, stepper: Stepper, job: _Job) -> tuple[EpochReport, ConfusionMatrix]:
    """One pass over the training batches, then validation."""
    began = time.monotonic()
    loss, seen, wait, means = _train(state, stepper, job)
    val_loss, judged = (None, seen) if job.val is None else _validate(state.kept, job.val, job)
    row = _row(state, job, (loss, val_loss), (seen, judged), (time.monotonic() - began, wait))
    return row if means is None else replace(row, unlabelled_loss=means.loss, confident=means.confident), judged


def _train(state: Fit, stepper: Stepper, job: _Job) -> tuple[float, ConfusionMatrix, float, Means | None]:
    """The mean loss and the confusion of what was seen, over all workers; the seconds that a step of this one waited.

    Last, what came of micrographs without labels.
    """
    settings, workers = job.settings, job.workers
    # Dropout draws from torch's own stream: a resumed epoch must begin it where the whole fit did.
    torch.manual_seed(int(np.random.SeedSequence([settings.seed, state.epoch, workers.rank]).generate_state(1)[0]))
    state.model.train()
    _freeze(state.model, settings)
    tally = Tally(len(job.classes), workers.device)
    losses = torch.zeros((), dtype=torch.float64, device=workers.device)
    steps, waited = 0, 0.0
    with _agreement(state, stepper, job) as agree:
        for step, of, parts in _prepared_steps(state, job):
            done, steps_in_all = state.epoch * of + step, settings.epochs * of
            rate = learning_rate(settings.optimizer, done, steps_in_all, settings.epochs, state.progress.dropped)
            stepper.start(rate, hold_encoder=done < settings.optimizer.hold_encoder * steps_in_all)
            for place, ((images, masks), wait) in enumerate(parts):
                waited += wait
                value, logits = stepper.part(images, masks, last=place == settings.accumulate - 1)
                losses += value / settings.accumulate
                tally.add(masks, logits)
            if agree is not None:
                waited += agree.step(done / steps_in_all)
            if workers.kind == "cpu" or step % _LOSSES_IN_FLIGHT == 0 or step == of - 1:
                _refuse_infinite(float(losses), state.epoch)
            stepper.finish()
            steps += 1
            job.on_step(state.epoch + 1, step + 1, of)
    return float(losses) / steps, tally.merged(workers), waited / steps, None if agree is None else agree.means()


@contextmanager
def _agreement(state: Fit, stepper: Stepper, job: _Job) -> Iterator[Agreement | None]:
    """What is learnt from micrographs without labels in one epoch; None where nothing is."""
    if job.unlabelled is None or state.averaged is None:
        yield None
        return
    steps = job.order.steps(len(job.train.rows))
    with closing(job.unlabelled.ahead(state.epoch, steps, job.workers)) as coming:
        precision = precision_of(job.settings)
        yield Agreement(state, stepper, job.workers, job.unlabelled.chosen, precision, coming)


def _prepared_steps(
    state: Fit, job: _Job
) -> Iterator[tuple[int, int, Iterator[tuple[tuple[torch.Tensor, torch.Tensor], float]]]]:
    """Yield each step, the number of steps, and its parts with the seconds that were waited for each."""
    settings, workers = job.settings, job.workers
    how = Preparation(settings.seed, settings.augmentation, settings.crop, settings.channels_last, job.counts)
    steps = batches_of(job.order, len(job.train.rows), state.epoch, workers, job.counts)
    prepare = partial(prepared, job.train, how=how, epoch=state.epoch, device=workers.device)
    with closing(prepared_ahead(prepare, [batch for parts in steps for batch in parts])) as coming:
        for step, parts in enumerate(steps):
            yield step, len(steps), itertools.islice(coming, len(parts))


def _refuse_infinite(value: float, epoch: int) -> None:
    if not math.isfinite(value):
        raise MicrosegError(
            f"the loss became {value} in epoch {epoch + 1}; lower optimizer.learning_rate, or check the images for "
            "extreme intensities (scaling)"
        )


def _validate(model: nn.Module, data: Tiles, job: _Job) -> tuple[float, ConfusionMatrix]:
    """Loss and confusion of a whole split, over all workers."""
    settings, workers = job.settings, job.workers
    was_training = model.training
    model.eval()
    tally = Tally(len(job.classes), workers.device)
    sums: torch.Tensor | None = None
    places = np.arange(len(data.rows))
    size = max(1, settings.batch // (workers.world * settings.accumulate))
    own = places[workers.rank :: workers.world]
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    with torch.inference_mode():
        for start in range(0, max(len(own), 1), size):
            # A worker without a tile still takes part in the sum, with zeros of the same length.
            chosen = own[start : start + size] if len(own) else places[:1]
            images, masks, _ = data.read(chosen, workers.device)
            with autocast(precision_of(settings), workers.kind):
                logits = model(images.contiguous(memory_format=layout))
            part = job.loss.sums(logits, masks).double()
            if not len(own):
                part.zero_()
            else:
                tally.add(masks, logits)
            sums = part if sums is None else sums + part
    model.train(was_training)
    if sums is None:
        raise MicrosegError("validation saw no tile")
    # The loss of the split as if it were one batch.
    return float(job.loss.value(workers.total(sums))), tally.merged(workers)


def _go_back(state: Fit, settings: TrainSettings, workers: Workers) -> None:
    """Restore the weights of the best epoch on all workers, and reset the moments of the optimizer."""
    if workers.rank == 0:
        best, _ = load_checkpoint(f"{settings.output}/best")
        state.model.load_state_dict(best.state_dict())
    if workers.distributed:
        for tensor in state.model.state_dict().values():
            torch.distributed.broadcast(tensor, 0)
    state.optimizer.state.clear()
    if state.averaged is not None:
        state.averaged.reset(state.model)


def _row(
    state: Fit,
    job: _Job,
    losses: tuple[float, float | None],
    matrices: tuple[ConfusionMatrix, ConfusionMatrix],
    times: tuple[float, float],
) -> EpochReport:
    loss, val_loss = losses
    seen, judged = matrices
    ious = [float(value) for value in judged.iou]
    match job.settings.select:
        case "mean_iou":
            score = judged.mean_iou
        case "pixel_accuracy":
            score = judged.pixel_accuracy
        case "loss":
            score = -(loss if val_loss is None else val_loss)
        case name:
            score = ious[job.classes.index(name.removeprefix("iou_"))]
    score = -math.inf if math.isnan(score) else float(score)
    return EpochReport(
        epoch=state.epoch + 1,
        loss=loss,
        val_loss=val_loss,
        train_mean_iou=none_if_undefined(seen.mean_iou),
        val_mean_iou=None if val_loss is None else none_if_undefined(judged.mean_iou),
        pixel_accuracy=none_if_undefined(judged.pixel_accuracy),
        class_iou=tuple(none_if_undefined(value) for value in ious),
        learning_rate=float(state.optimizer.param_groups[0]["lr"]),
        seconds=times[0],
        score=score,
        best=score > state.best_score or not state.history,
        data_wait=times[1],
    )
