"""Fitting a model to a tile store: data order, steps, validation, state. Torch, but no Ray.

Everything random is a function of (seed, epoch, tile), so a fit that was killed and resumed, or that runs on another
number of workers, sees the same batches with the same augmentation. One worker is the reference: the loss of a step is
the mean over the whole global batch, however it is shared out.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from microseg_ray.augmentation import augment, draw
from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.losses import WeightedCrossEntropy, class_weights_from_counts
from microseg_ray.metrics import ConfusionMatrix
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard
from microseg_ray.models.checkpoint import save_checkpoint
from microseg_ray.models.footprint import measure_footprint
from microseg_ray.models.predictor import largest, model_input
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.stores import TileStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from microseg_ray.settings import TrainSettings

__all__ = ["Crew", "EpochReport", "Fit", "check_fit", "fit", "identity_of", "saved_state"]

STATE_FILE = "state.pt"
# Below this a split is held in memory; above it tiles are read from disk batch by batch, one batch ahead.
HELD_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Crew:
    """Who takes part: this worker's rank, how many there are, and its device."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def distributed(self) -> bool:
        """Whether there is anyone to talk to."""
        return self.world > 1

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all workers."""
        if self.distributed:
            torch.distributed.all_reduce(tensor)
        return tensor


@dataclass(frozen=True)
class EpochReport:
    """What is known after an epoch; one row of metrics.csv.

    Attributes:
        epoch: Epochs done, from 1.
        loss: Mean training loss.
        train_mean_iou: On the augmented training batches, as they were seen.
        val_mean_iou: On the validation split; None without one.
        pixel_accuracy: Of the split that selects: validation, else training.
        class_iou: Per class, of the same split; None where a class is absent.
        learning_rate: At the epoch's end.
        seconds: Of this epoch.
        best: Whether this is the best epoch so far.
    """

    epoch: int
    loss: float
    train_mean_iou: float | None
    val_mean_iou: float | None
    pixel_accuracy: float | None
    class_iou: tuple[float | None, ...]
    learning_rate: float
    seconds: float
    best: bool

    @property
    def score(self) -> float:
        """What selects the best checkpoint: validation mean IoU, or the training one where nothing is set aside."""
        value = self.train_mean_iou if self.val_mean_iou is None else self.val_mean_iou
        return -1.0 if value is None else value


@dataclass
class Fit:
    """The state of a fit: everything that a resumed one needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    history: list[EpochReport] = field(default_factory=list)

    @property
    def best_score(self) -> float:
        """The best score so far."""
        return max((row.score for row in self.history), default=-math.inf)


def identity_of(settings: TrainSettings, store: TileStore) -> str:
    """sha256 of everything that decides the weights; a fit resumes only what has the same.

    Args:
        settings: The job's settings; where it runs and how many workers share a batch do not count.
        store: The tile store.
    """
    return hashlib.sha256(json.dumps([_deciding(settings), store.digest], sort_keys=True).encode()).hexdigest()


def _deciding(settings: TrainSettings) -> dict[str, Any]:
    """The settings that decide the weights."""
    chosen = settings.resolved()
    for key in ("tiles", "output", "workers", "ray", "max_failures", "overwrite", "threads", "gpu"):
        chosen.pop(key)
    return chosen


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
    _resume(state, saved_state(settings, store))
    model = state.model
    wrapped = nn.parallel.DistributedDataParallel(model) if crew.distributed else model
    loss = _loss(settings, store).to(crew.device)
    card = _card(settings, store, model)
    train_data = _Tiles(store, store.rows("train"))
    rows = store.rows("val")
    val_data = _Tiles(store, rows) if len(rows) else None
    while state.epoch < settings.epochs:
        began = time.monotonic()
        mean_loss, seen = _epoch(wrapped, state, loss, train_data, settings, crew, on_step)
        _agree(model, crew)
        judged = seen if val_data is None else _validate(model, val_data, settings, crew, len(store.spec.classes))
        row = _row(state, mean_loss, seen, None if val_data is None else judged, time.monotonic() - began)
        state.history.append(row)
        state.epoch += 1
        if crew.rank == 0:
            _save(state, settings, identity, card, judged.as_metrics([item.name for item in store.spec.classes]))
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
        [0.0002, 0.001, 0.000504, 0.0]
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


class _Tiles:
    """Tiles of one split, in memory where they fit."""

    def __init__(self, store: TileStore, rows: NDArray[np.int64]) -> None:
        self.rows = rows
        self._store = store
        tile_bytes = store.spec.side**2 * (store.spec.channels * np.dtype(store.spec.dtype).itemsize + 1)
        self._held = store.read(rows) if len(rows) * tile_bytes <= HELD_BYTES else None

    def read(self, places: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scaled images (n, c, y, x) float32, masks (n, y, x) uint8 and limits, by place in the split."""
        if self._held is not None:
            images, masks, limits = (part[places] for part in self._held)
        else:
            images, masks, limits = self._store.read(self.rows[places])
        scaled = model_input(
            torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(limits), self._store.spec.scaling.clahe
        )
        return scaled, torch.from_numpy(np.ascontiguousarray(masks)), torch.from_numpy(limits)


def _steps(settings: TrainSettings, tiles: int) -> int:
    return settings.steps_per_epoch or max(1, tiles // settings.batch)


def _batches(settings: TrainSettings, tiles: int, epoch: int, crew: Crew) -> list[NDArray[np.int64]]:
    """This rank's places in the split for every step of an epoch; shares of one global order."""
    steps, size = _steps(settings, tiles), min(settings.batch, tiles)
    order: list[NDArray[np.int64]] = []
    rounds = 0
    while sum(map(len, order)) < steps * size:
        generator = np.random.default_rng(np.random.SeedSequence([settings.seed, epoch, rounds]))
        order.append(generator.permutation(tiles).astype(np.int64))
        rounds += 1
    places = np.concatenate(order)
    return [places[step * size : (step + 1) * size][crew.rank :: crew.world] for step in range(steps)]


def _epoch(
    model: nn.Module,
    state: Fit,
    loss: WeightedCrossEntropy,
    data: _Tiles,
    settings: TrainSettings,
    crew: Crew,
    on_step: Callable[[int, int, int], None],
) -> tuple[float, ConfusionMatrix]:
    """One pass; the mean loss and the confusion of what was seen, over all workers."""
    model.train()
    batches = _batches(settings, len(data.rows), state.epoch, crew)
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


def _validate(model: nn.Module, data: _Tiles, settings: TrainSettings, crew: Crew, classes: int) -> ConfusionMatrix:
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


def _save(state: Fit, settings: TrainSettings, identity: str, card: ModelCard, metrics: dict[str, Any]) -> None:
    """Checkpoints first, then the state that counts them, then the tables: each whole or absent."""
    output = Path(settings.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    row = state.history[-1]
    done = card.model_copy(update={"metrics": {"epoch": row.epoch, "selected_by": _selector(row), **metrics}})
    model = state.model
    was_training = model.training
    if row.best:
        save_checkpoint(output / "best", model, done)
    save_checkpoint(output / "last", model, done)
    model.train(was_training)
    partial = output / f"{STATE_FILE}.partial"
    torch.save(
        {
            "identity": identity,
            "settings": _deciding(settings),
            "epoch": state.epoch,
            "model": model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "history": [vars(item) for item in state.history],
        },
        partial,
    )
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.replace(output / STATE_FILE)
    write_history(output / "metrics.csv", state.history, [item.name for item in card.classes])


def _selector(row: EpochReport) -> str:
    return "train mean IoU (no validation split)" if row.val_mean_iou is None else "validation mean IoU"


def saved_state(settings: TrainSettings, store: TileStore) -> dict[str, Any] | None:
    """The state that an interrupted or finished fit left in the output, None where there is none.

    Raises:
        SettingsError: It cannot be read, or is of other settings or other tiles; the message says which.
    """
    path = Path(settings.output).absolute() / STATE_FILE
    if settings.overwrite or not path.exists():
        return None
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises half a dozen types for a damaged file.
        raise SettingsError(
            f"{path}: cannot be read ({error}); give another output, or --overwrite to start afresh"
        ) from error
    if saved["identity"] != identity_of(settings, store):
        older, now = saved.get("settings", {}), _deciding(settings)
        differing = [
            f"{key}: {older[key]} there, {now[key]} now" for key in now if key in older and older[key] != now[key]
        ]
        named = "; ".join(differing) or "other tiles"
        raise SettingsError(
            f"train.output: {path.parent} holds a fit of other settings or other tiles ({named}), and fits are never "
            "mixed; give another output, or --overwrite to start afresh"
        )
    return saved


def _resume(state: Fit, saved: dict[str, Any] | None) -> None:
    if saved is None:
        return
    state.model.load_state_dict(saved["model"])
    state.optimizer.load_state_dict(saved["optimizer"])
    state.epoch = int(saved["epoch"])
    state.history = [EpochReport(**{**row, "class_iou": tuple(row["class_iou"])}) for row in saved["history"]]


def write_history(path: Path, history: list[EpochReport], classes: list[str]) -> None:
    """metrics.csv, a row per epoch, whole or not at all."""
    partial = path.with_suffix(".csv.partial")
    with partial.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        names = [
            "epoch",
            "loss",
            "train_mean_iou",
            "val_mean_iou",
            "pixel_accuracy",
            "learning_rate",
            "seconds",
            "best",
        ]
        writer.writerow([*names, *(f"iou_{name}" for name in classes)])
        for row in history:
            values = vars(row)
            writer.writerow([*(values[name] for name in names), *row.class_iou])
    partial.replace(path)
