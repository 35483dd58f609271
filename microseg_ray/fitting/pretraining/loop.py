"""The epochs of a pre-training: hide, predict, step; then the weights that `train` starts from."""

from __future__ import annotations

import copy
import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.fitting.ahead import prepared_ahead
from microseg_ray.fitting.batches import Preparation, Tiles, prepared
from microseg_ray.fitting.history import EpochReport
from microseg_ray.fitting.precision import precision_of, settled
from microseg_ray.fitting.pretraining.masking import Reconstruction, hidden_blocks, hide, targets
from microseg_ray.fitting.pretraining.writing import write_weights
from microseg_ray.fitting.sampling import BatchOrder, batches_of
from microseg_ray.fitting.schedules import learning_rate
from microseg_ray.fitting.setup import fresh_fit, start_weights
from microseg_ray.fitting.state import Fit, identity_of, save_state, saved_state
from microseg_ray.fitting.stepping import StepOptions, Stepper, autocast
from microseg_ray.fitting.synced_norm import synchronise
from microseg_ray.models.skeleton import model_skeleton
from microseg_ray.tiles.store import TileStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from microseg_ray.fitting.sampling import Batch
    from microseg_ray.fitting.workers import Workers
    from microseg_ray.settings import PretrainSettings

    OnStep = Callable[[int, int, int], None]

__all__ = ["check_pretraining", "reconstruct"]

_NORM_BATCHES = 16
"""Batches of whole crops from which the statistics of the batch norms are taken anew."""


@dataclass(frozen=True)
class _Job:
    """What is the same in all epochs."""

    settings: PretrainSettings
    workers: Workers
    data: Tiles
    on_step: OnStep

    def batches(self, epoch: int) -> list[Batch]:
        """This worker's share of the batches of an epoch."""
        order = BatchOrder(self.settings.batch, self.settings.seed, self.settings.steps_per_epoch)
        return [parts[0] for parts in batches_of(order, len(self.data.rows), epoch, self.workers)]

    def images(self, batch: Batch, epoch: int) -> Tensor:
        """Augmented crops of a batch: float32 (n, c, side, side)."""
        how = Preparation(self.settings.seed, self.settings.augmentation, None, self.settings.channels_last)
        return prepared(self.data, batch, how, epoch, self.workers.device)[0]

    def hidden(self, batch: Batch, epoch: int) -> tuple[Tensor, Tensor]:
        """Crops with hidden squares, and what is to be predicted there."""
        images, masking = self.images(batch, epoch), self.settings.masking
        blocks = -(-images.shape[-1] // masking.block)
        key = self.settings.seed, epoch
        hidden = hidden_blocks(key, self.data.rows[batch.places], batch.turns, blocks, masking.share)
        hidden = hidden.to(images.device)
        return hide(images, hidden, masking.block), targets(images, hidden, masking.block)


def check_pretraining(settings: PretrainSettings, workers: Workers) -> TileStore:
    """Open the squares and find out whether these settings suit them.

    Raises:
        SettingsError: Too few squares for the workers, or a side that the network does not take.
        StoreError: The squares cannot be read.
    """
    store = TileStore.open(settings.store)
    channels, model = store.spec.channels, settings.model
    stride = int(model_skeleton(model.name, channels, channels, model.options).stride)  # type: ignore[arg-type]
    if store.spec.side % stride:
        raise SettingsError(
            f"pretrain.tile: {store.spec.side} px is no multiple of the model's stride {stride}; choose a multiple"
        )
    if min(settings.batch, store.spec.tiles) < workers.world:
        raise SettingsError(
            f"pretrain.batch: {settings.batch} squares ({store.spec.tiles} drawn) cannot be shared by {workers.world} workers"
        )
    return store


def reconstruct(
    settings: PretrainSettings,
    workers: Workers,
    report: Callable[[EpochReport], bool | None],
    on_step: OnStep = lambda *_: None,
) -> str:
    """Pre-train, or go on, and write the weights after each epoch.

    Args:
        settings: The job's settings; the squares are drawn.
        workers: This worker among the others.
        report: Called by every rank after each epoch, once its state is saved. If it returns True on any rank, the fit
            stops; the same settings resume it later.
        on_step: Called with (epoch, step, steps) after every step.

    Returns:
        Why it ended before its last epoch; empty where it did not.

    Raises:
        SettingsError: The output holds a fit of other settings, or settings do not suit the squares.
        MicrosegError: The loss became infinite or no number.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    settings = settled(settings, gpu=workers.kind == "cuda")
    store = check_pretraining(settings, workers)
    state = fresh_fit(settings, (store.spec.channels, store.spec.channels), workers)
    identity = identity_of(settings, store)
    saved = saved_state(settings, store)
    if saved is None:
        start_weights(state, settings.model.start, settings.output, "pretrain")
    else:
        state.restore(saved)
    job = _Job(settings, workers, Tiles(store, store.rows("train"), settings.held_bytes), on_step)
    options = StepOptions(precision_of(settings), 1, settings.clip)
    stepper = Stepper(state, _runner(state.model, workers), Reconstruction(), options, workers)
    while state.epoch < settings.epochs:
        row = _epoch(state, stepper, job)
        state.history.append(row)
        state.epoch += 1
        ready = _with_whole_crops(state.model, job)
        if workers.rank == 0:
            with workers.writing():
                write_weights(settings, store, ready, row)
                save_state(state, settings, identity, [])
        if workers.any_true(bool(report(row))) and state.epoch < settings.epochs:
            return "stopped from outside"
    return ""


def _runner(model: nn.Module, workers: Workers) -> nn.Module:
    if not workers.distributed:
        return model
    synchronise(model)
    return nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)


def _epoch(state: Fit, stepper: Stepper, job: _Job) -> EpochReport:
    """One pass over the squares."""
    settings, workers = job.settings, job.workers
    began = time.monotonic()
    torch.manual_seed(int(np.random.SeedSequence([settings.seed, state.epoch, workers.rank]).generate_state(1)[0]))
    state.model.train()
    total = torch.zeros((), dtype=torch.float64, device=workers.device)
    batches, wait = job.batches(state.epoch), 0.0
    with closing(prepared_ahead(partial(job.hidden, epoch=state.epoch), batches)) as coming:
        for step, ((images, wanted), waited) in enumerate(coming):
            done, steps = state.epoch * len(batches) + step, settings.epochs * len(batches)
            stepper.start(
                learning_rate(settings.optimizer, done, steps, settings.epochs),
                hold_encoder=done < settings.optimizer.hold_encoder * steps,
            )
            total += stepper.part(images, wanted, last=True)[0]
            wait += waited
            if not torch.isfinite(total):
                raise MicrosegError(
                    f"the loss became {float(total)} in epoch {state.epoch + 1}; lower optimizer.learning_rate, or check the "
                    "images for extreme intensities (scaling)"
                )
            stepper.finish()
            job.on_step(state.epoch + 1, step + 1, len(batches))
    loss = float(total) / len(batches)
    return EpochReport(
        epoch=state.epoch + 1,
        loss=loss,
        val_loss=None,
        train_mean_iou=None,
        val_mean_iou=None,
        pixel_accuracy=None,
        class_iou=(),
        learning_rate=float(state.optimizer.param_groups[0]["lr"]),
        seconds=time.monotonic() - began,
        score=-loss,
        best=-loss > state.best_score,
        data_wait=wait / len(batches),
    )


@torch.no_grad()
def _with_whole_crops(model: nn.Module, job: _Job) -> nn.Module:
    """A copy whose batch norms have the statistics of whole crops; those of crops with hidden squares are other ones.

    Every worker must call it: the statistics are those of all workers' crops.
    """
    copied = copy.deepcopy(model).train()
    norms = [module for module in copied.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        # The plain mean over the batches.
        norm.momentum = None
    if norms:
        for batch in job.batches(0)[:_NORM_BATCHES]:
            with autocast(precision_of(job.settings), job.workers.kind):
                copied(job.images(batch, 0))
    return copied.eval()
