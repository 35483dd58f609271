"""The epochs of a fit: steps, validation, the checkpoint's card."""

from __future__ import annotations

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from microseg_ray.augmentation import augment, draw
from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.fitting.batches import Crew, Tiles, batches_of
from microseg_ray.fitting.state import EpochReport, Fit, identity_of, resume, save, saved_state
from microseg_ray.losses import WeightedCrossEntropy, class_weights_from_counts
from microseg_ray.metrics import ConfusionMatrix
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard
from microseg_ray.models.footprint import measure_footprint
from microseg_ray.models.predictor import largest
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.stores import TileStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from microseg_ray.settings import TrainSettings

__all__ = ["check_fit", "fit", "learning_rate"]


def fit(
    settings: TrainSettings,
    crew: Crew,
    report: Callable[[EpochReport], None],
    on_step: Callable[[int, int, int], None] = lambda *_: None,
) -> None:
    """Train, or go on training, and write checkpoints.

    Args:
        settings: The job's settings.
        crew: This worker among the others.
        report: Called by every rank after each epoch.
        on_step: Called with (epoch, step, steps) after every step.

    Raises:
        SettingsError: The output holds a fit of other settings, or the batch does not suit the workers or the store.
        StoreError: The tile store cannot be read.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    store = check_fit(settings, crew)
    state = _fresh(settings, store, crew)
    identity = identity_of(settings, store)
    resume(state, saved_state(settings, store))
    model = state.model
    wrapped = nn.parallel.DistributedDataParallel(model) if crew.distributed else model
    loss = _loss(settings, store).to(crew.device)
    card = _card(settings, store, model)
    train_data = Tiles(store, store.rows("train"))
    rows = store.rows("val")
    val_data = Tiles(store, rows) if len(rows) else None
    while state.epoch < settings.epochs:
        began = time.monotonic()
        mean_loss, seen = _epoch(wrapped, state, loss, train_data, settings, crew, on_step)
        _agree(model, crew)
        judged = seen if val_data is None else _validate(model, val_data, settings, crew, len(store.spec.classes))
        row = _row(state, mean_loss, seen, None if val_data is None else judged, time.monotonic() - began)
        state.history.append(row)
        state.epoch += 1
        if crew.rank == 0:
            save(state, settings, identity, card, judged.as_metrics([item.name for item in store.spec.classes]))
        report(row)


def check_fit(settings: TrainSettings, crew: Crew) -> TileStore:
    """Open the tile store and find out whether these settings suit it.

    Raises:
        SettingsError: No training tiles, or depth, batch or class weights that do not fit.
        StoreError: The tile store cannot be read.
    """
    store = TileStore.open(settings.tiles)
    tiles = len(store.rows("train"))
    if tiles == 0:
        raise SettingsError(f"train.tiles: {settings.tiles} has no tiles in split train; its splits are {store.splits}")
    stride = 2**settings.model.depth
    if store.spec.side % stride:
        raise SettingsError(
            f"train.model.depth: {settings.model.depth} poolings need tiles of a multiple of {stride} px, the store's are "
            f"{store.spec.side}; lower depth, or tile again with another tile size"
        )
    if min(settings.batch, tiles) < crew.world:
        raise SettingsError(
            f"train.batch: {settings.batch} tiles ({tiles} in the store) cannot be shared by {crew.world} workers"
        )
    weights = settings.class_weights
    if isinstance(weights, tuple) and len(weights) != len(store.spec.classes):
        raise SettingsError(f"train.class_weights: {len(weights)} weights for {len(store.spec.classes)} classes")
    return store


def _fresh(settings: TrainSettings, store: TileStore, crew: Crew) -> Fit:
    torch.manual_seed(settings.seed)
    options = settings.model.model_dump(exclude={"name"})
    model = build_model(settings.model.name, store.spec.channels, len(store.spec.classes), options)
    model = model.to(crew.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Fit(model, _optimizer(model, settings))


def _optimizer(model: nn.Module, settings: TrainSettings) -> torch.optim.Optimizer:
    chosen = settings.optimizer
    # Norms and biases set scale and offset; decaying them only hinders.
    decayed = [value for value in model.parameters() if value.ndim > 1]
    plain = [value for value in model.parameters() if value.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": chosen.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    match chosen.name:
        case "adamw":
            return torch.optim.AdamW(groups, lr=chosen.learning_rate)
        case "sgd":
            return torch.optim.SGD(
                groups, lr=chosen.learning_rate, momentum=chosen.momentum, nesterov=chosen.momentum > 0
            )


def learning_rate(settings: TrainSettings, step: int, steps: int) -> float:
    """The rate of one step.

    Args:
        settings: `optimizer.schedule`, `.warmup` and `.learning_rate` count.
        step: From 0, over the whole fit.
        steps: Steps of the whole fit.

    Example:
        >>> from microseg_ray.settings import TrainSettings
        >>> settings = TrainSettings.model_construct(optimizer=TrainSettings.model_fields["optimizer"].default)
        >>> [round(learning_rate(settings, step, 100), 6) for step in (0, 4, 52, 99)]
        [0.0002, 0.001, 0.000508, 0.0]
    """
    chosen = settings.optimizer
    rising = math.ceil(chosen.warmup * steps)
    if step < rising:
        return chosen.learning_rate * (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    match chosen.schedule:
        case "constant":
            return chosen.learning_rate
        case "poly":
            return chosen.learning_rate * float((1 - done) ** 0.9)
        case "cosine":
            return chosen.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def _loss(settings: TrainSettings, store: TileStore) -> WeightedCrossEntropy:
    weights = settings.class_weights
    if weights == "none":
        return WeightedCrossEntropy()
    if isinstance(weights, tuple):
        return WeightedCrossEntropy(weights)
    return WeightedCrossEntropy(class_weights_from_counts(store.tile_counts("train"), weights))


def _epoch(
    model: nn.Module,
    state: Fit,
    loss: WeightedCrossEntropy,
    data: Tiles,
    settings: TrainSettings,
    crew: Crew,
    on_step: Callable[[int, int, int], None],
) -> tuple[float, ConfusionMatrix]:
    """One pass; the mean loss and the confusion of what was seen, over all workers."""
    model.train()
    batches = batches_of(settings, len(data.rows), state.epoch, crew)
    steps_in_all = settings.epochs * len(batches)
    matrix = ConfusionMatrix.zeros(_classes_of(state.model))
    losses = 0.0

    def load(places: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor]:
        images, masks, _ = data.read(places)
        if settings.augment:
            images, masks = augment(images, masks, draw(settings.seed, state.epoch, data.rows[places], 0.1, 0.1))
        return images.contiguous(memory_format=torch.channels_last), masks

    # One batch is prepared while the one before it is computed.
    with ThreadPoolExecutor(1) as ahead:
        coming: Future[tuple[torch.Tensor, torch.Tensor]] = ahead.submit(load, batches[0])
        for step in range(len(batches)):
            images, masks = (part.to(crew.device, non_blocking=True) for part in coming.result())
            if step + 1 < len(batches):
                coming = ahead.submit(load, batches[step + 1])
            for group in state.optimizer.param_groups:
                group["lr"] = learning_rate(settings, state.epoch * len(batches) + step, steps_in_all)
            with _autocast(settings, crew):
                logits = model(images)
            value = _step(state, loss, logits, masks, crew)
            losses += value
            matrix.update(masks.cpu().numpy(), largest(logits.detach()).cpu().numpy())
            on_step(state.epoch + 1, step + 1, len(batches))
    return losses / len(batches), _merged(matrix, crew)


def _step(state: Fit, loss: WeightedCrossEntropy, logits: torch.Tensor, masks: torch.Tensor, crew: Crew) -> float:
    total, share = loss.parts(logits, masks)
    everyone = crew.total(share.detach().clone()).clamp(min=torch.finfo(share.dtype).tiny)
    # Workers' gradients are averaged, so each worker's part of the global mean is scaled up by their number.
    state.optimizer.zero_grad(set_to_none=True)
    (total / everyone * crew.world).backward()
    state.optimizer.step()
    value = float(crew.total((total / everyone).detach().clone()))
    if not math.isfinite(value):
        raise MicrosegError(
            f"the loss became {value} in epoch {state.epoch + 1}; lower optimizer.learning_rate, or check the images for "
            "extreme intensities (scaling)"
        )
    return value


def _validate(model: nn.Module, data: Tiles, settings: TrainSettings, crew: Crew, classes: int) -> ConfusionMatrix:
    model.eval()
    matrix = ConfusionMatrix.zeros(classes)
    places = np.arange(len(data.rows))[crew.rank :: crew.world]
    size = max(1, settings.batch // crew.world)
    with torch.inference_mode(), _autocast(settings, crew):
        for start in range(0, len(places), size):
            images, masks, _ = data.read(places[start : start + size])
            logits = model(images.to(crew.device).contiguous(memory_format=torch.channels_last))
            matrix.update(masks.numpy(), largest(logits).cpu().numpy())
    return _merged(matrix, crew)


def _merged(matrix: ConfusionMatrix, crew: Crew) -> ConfusionMatrix:
    counts = torch.from_numpy(np.ascontiguousarray(matrix.counts)).to(crew.device)
    return ConfusionMatrix(crew.total(counts).cpu().numpy())


def _autocast(settings: TrainSettings, crew: Crew) -> torch.autocast:
    kind = "cuda" if crew.device.startswith("cuda") else "cpu"
    return torch.autocast(kind, dtype=torch.bfloat16, enabled=settings.precision == "bf16")


def _agree(model: nn.Module, crew: Crew) -> None:
    """Batch norms have seen each worker's own tiles last; the chief's statistics are the ones that are saved."""
    if crew.distributed:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, 0)


def _classes_of(model: nn.Module) -> int:
    return int(model.classes)  # type: ignore[arg-type]


def _row(state: Fit, loss: float, seen: ConfusionMatrix, judged: ConfusionMatrix | None, seconds: float) -> EpochReport:
    selecting = seen if judged is None else judged
    row = EpochReport(
        epoch=state.epoch + 1,
        loss=loss,
        train_mean_iou=_plain(seen.mean_iou),
        val_mean_iou=None if judged is None else _plain(judged.mean_iou),
        pixel_accuracy=_plain(selecting.pixel_accuracy),
        class_iou=tuple(_plain(float(value)) for value in selecting.iou),
        learning_rate=float(state.optimizer.param_groups[0]["lr"]),
        seconds=seconds,
        best=False,
    )
    return EpochReport(**{**vars(row), "best": row.score > state.best_score})


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _card(settings: TrainSettings, store: TileStore, model: nn.Module) -> ModelCard:
    was_training = model.training
    model.eval()
    card = ModelCard(
        architecture=settings.model.name,
        options=settings.model.model_dump(exclude={"name"}),
        in_channels=store.spec.channels,
        classes=store.spec.classes,
        scaling=store.spec.scaling,
        pixel_size_um=store.spec.pixel_size_um,
        receptive_field=measure_receptive_field(model, store.spec.channels),
        footprint=measure_footprint(model, store.spec.channels),
        training={"settings": settings.resolved(), "tile_store": store.digest},
    )
    model.train(was_training)
    return card
