"""The start of a fit: checked settings, the model, optimizer, loss and card."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from microseg_ray.errors import SettingsError
from microseg_ray.files import write_json
from microseg_ray.fitting.averaging import Averaged
from microseg_ray.fitting.groups import parameter_groups
from microseg_ray.fitting.losses import Loss, build_loss, class_weights_from_counts
from microseg_ray.fitting.schedules import Progress
from microseg_ray.fitting.state import Fit
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard
from microseg_ray.models.footprint import measure_footprint
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.models.skeleton import model_skeleton
from microseg_ray.models.weights import load_weights
from microseg_ray.sources.agreement import Intensities, class_order_objection, empty_classes, used_bits
from microseg_ray.sources.specimen.profile import PERCENTILES
from microseg_ray.tiles.store import TileStore

if TYPE_CHECKING:
    from torch import nn

    from microseg_ray.fitting.workers import Workers
    from microseg_ray.settings import EarlyStoppingSettings, LossSettings, OptimizerSettings, TrainSettings
    from microseg_ray.settings.epochs import EpochSettings

__all__ = [
    "card_of",
    "check_fit",
    "compiled",
    "first_model",
    "fresh",
    "fresh_fit",
    "loss_of",
    "optimizer_of",
    "start_weights",
]

_LOG = logging.getLogger(__name__)

_SAMPLED_TILES = 64

WEIGHTS_REPORT = "weights.json"

_CHOICES = ("mean_iou", "loss", "pixel_accuracy")


def check_fit(settings: TrainSettings, workers: Workers) -> TileStore:
    """Open the tile store and find out whether these settings suit it.

    Raises:
        SettingsError: No training tiles, or crop, depth, batch, class weights or selection that do not fit.
        StoreError: The tile store cannot be read.
    """
    store = TileStore.open(settings.tiles)
    tiles = len(store.rows("train"))
    if tiles == 0:
        raise SettingsError(f"train.tiles: {settings.tiles} has no tiles in split train; its splits are {store.splits}")
    _check_classes(settings, store)
    _check_sides(settings, store)
    shares = workers.world * settings.accumulate
    if min(settings.batch, tiles) < shares:
        raise SettingsError(
            f"train.batch: {settings.batch} tiles ({tiles} in the store) cannot be shared by {workers.world} workers"
            + (f" in {settings.accumulate} parts (accumulate)" if settings.accumulate > 1 else "")
        )
    weights = settings.class_weights
    if isinstance(weights, tuple) and len(weights) != len(store.spec.classes):
        raise SettingsError(f"train.class_weights: {len(weights)} weights for {len(store.spec.classes)} classes")
    choices = [*_CHOICES, *(f"iou_{item.name}" for item in store.spec.classes)]
    if settings.select not in choices:
        raise SettingsError(f"train.select: {settings.select!r} is none of {', '.join(choices)}")
    return store


def _check_classes(settings: TrainSettings, store: TileStore) -> None:
    """The classes of the config must be those of the store, in order, and each must have training pixels."""
    reason = class_order_objection(settings.classes, store.spec.classes, f"the tile store {settings.tiles}")
    if reason:
        raise SettingsError(f"train.classes: {reason}: correct `classes`, or tile again")
    lacking = empty_classes(store.tile_counts("train").sum(axis=0), store.spec.classes)
    if lacking and not settings.allow_empty_classes:
        raise SettingsError(
            f"train.tiles: {settings.tiles} has no training pixel of class {', '.join(lacking)}, so the model cannot learn "
            "it: masks must hold 0, 1, 2 ... in the order of `classes`, and 255 means no class; renumber the masks and "
            "tile again, leave the class out, or set train.allow_empty_classes"
        )


def _check_sides(settings: TrainSettings, store: TileStore) -> None:
    """Tiles and crops must be multiples of the model's stride, and a crop must fit a tile."""
    model, spec = settings.model, store.spec
    stride = int(model_skeleton(model.name, spec.channels, len(spec.classes), model.options).stride)  # type: ignore[arg-type]
    side = store.spec.side
    if side % stride:
        raise SettingsError(
            f"train.model.depth: {stride.bit_length() - 1} poolings need tiles of a multiple of {stride} px, the store's are "
            f"{side}; lower depth, or tile again with another tile size"
        )
    if settings.crop is not None and (settings.crop > side or settings.crop % stride):
        raise SettingsError(
            f"train.crop: {settings.crop} px must be a multiple of the model's stride {stride} and no more than the store's "
            f"tiles of {side} px"
        )


def start_weights(state: Fit, weights: str | None, output: str, job: str = "train") -> None:
    """Fill a fresh model from `model.weights`, where given, and write what was matched to OUTPUT/weights.json.

    Args:
        state: A fit before its first step.
        weights: `model.start` of the settings; None leaves the model as it is.
        output: Of the job.
        job: Its name, for the note.

    Raises:
        InputError: The file cannot be used.
    """
    if weights is None:
        return
    loaded = load_weights(state.model, weights)
    if loaded.note:
        _LOG.warning("%s.model.weights: %s", job, loaded.note)
    if state.averaged is not None:
        state.averaged.reset(state.model)
    document = {"summary": str(loaded), **asdict(loaded)}
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / WEIGHTS_REPORT, document)


def fresh(settings: TrainSettings, store: TileStore, workers: Workers) -> Fit:
    """A fit before its first step, the same on every worker."""
    state = fresh_fit(settings, (store.spec.channels, len(store.spec.classes)), workers, settings.early_stopping)
    if settings.averaging is not None:
        state.averaged = Averaged(state.model, settings.averaging)
    return state


def fresh_fit(
    settings: EpochSettings,
    channels: tuple[int, int],
    workers: Workers,
    early_stopping: EarlyStoppingSettings | None = None,
) -> Fit:
    """A network with initial weights, and what its fit needs; the same on every worker.

    Args:
        settings: `seed`, `model`, `optimizer`, `precision` and `channels_last` count.
        channels: What goes in and what comes out: channels and classes.
        workers: This worker among the others.
        early_stopping: When to stop, or None.
    """
    torch.manual_seed(settings.seed)
    model = build_model(settings.model.name, *channels, settings.model.options)
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    model = model.to(workers.device, memory_format=layout)  # type: ignore[call-overload]
    return Fit(
        model,
        optimizer_of(model, settings.optimizer),
        Progress(settings.optimizer, early_stopping),
        torch.amp.GradScaler(workers.kind, enabled=settings.precision == "fp16"),
    )


def first_model(settings: TrainSettings, store: TileStore, workers: Workers) -> nn.Module:
    """The model of `model.weights` as it was before the first step, frozen; also in a fit that goes on."""
    chosen = settings.model
    model: nn.Module = build_model(chosen.name, store.spec.channels, len(store.spec.classes), chosen.options)
    load_weights(model, str(chosen.start))
    return model.to(workers.device).eval().requires_grad_(False)


def optimizer_of(model: nn.Module, chosen: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer; norms and biases are not decayed, and an encoder may have a rate of its own."""
    groups = parameter_groups(model, chosen)
    options: dict[str, Any] = {"lr": chosen.learning_rate}
    if chosen.eps is not None and chosen.name != "sgd":
        options["eps"] = chosen.eps
    match chosen.name:
        case "adamw":
            return torch.optim.AdamW(groups, betas=chosen.betas, **options)
        case "adam":
            return torch.optim.Adam(groups, betas=chosen.betas, **options)
        case "sgd":
            nesterov = chosen.nesterov and chosen.momentum > 0
            return torch.optim.SGD(groups, momentum=chosen.momentum, nesterov=nesterov, **options)
        case "rmsprop":
            return torch.optim.RMSprop(groups, alpha=chosen.rho, momentum=chosen.momentum, **options)
        case "adadelta":
            return torch.optim.Adadelta(groups, rho=chosen.rho, **options)


def loss_of(
    chosen: LossSettings,
    weights: Literal["none", "inverse", "median", "inverse_percent"] | tuple[float, ...],
    store: TileStore,
) -> Loss:
    """The loss, with class weights as given or computed from the pixel counts of the tile store."""
    if weights == "none":
        return build_loss(chosen)
    if isinstance(weights, tuple):
        return build_loss(chosen, weights)
    return build_loss(chosen, class_weights_from_counts(store.tile_counts("train"), weights))


def compiled(model: nn.Module, device: str) -> nn.Module:
    """The model through `torch.compile` where that works on this device, else the model itself."""
    try:
        torch.compile(torch.sin)(torch.ones(8, device=device))
    except Exception as error:  # noqa: BLE001 - a missing compiler or driver raises an error of its own type
        reason = str(error).strip().splitlines()
        _LOG.warning(
            "train.compile: torch.compile does not work here (%s); training goes on without it, slower but the same",
            reason[0] if reason else type(error).__name__,
        )
        return model
    ready: nn.Module = torch.compile(model)  # type: ignore[assignment]
    return ready


def _intensities(store: TileStore) -> Intensities:
    """The distribution of what is trained on, after scaling: as the store says, else of up to 64 of its tiles."""
    profile = store.spec.intensities
    if profile is not None:
        first, median, last = (profile.percentiles[PERCENTILES.index(percent)] for percent in (1.0, 50.0, 99.0))
        bits = used_bits(profile.dtype, 2**profile.bits - 1)
        return Intensities(dtype=profile.dtype, bits=bits, percentiles=(first, median, last))
    rows = store.rows("train")
    images, _, limits = store.read(rows[np.unique(np.linspace(0, len(rows) - 1, _SAMPLED_TILES).astype(int))])
    low, high = (limits[:, side, None, None, None] for side in (0, 1))
    return Intensities.of(store.spec.dtype, float(images.max()), (images.astype(np.float64) - low) / (high - low))


def card_of(settings: TrainSettings, store: TileStore, model: nn.Module) -> ModelCard:
    """The card of the checkpoints, without metrics."""
    was_training = model.training
    model.eval()
    card = ModelCard(
        architecture=settings.model.name,
        options=settings.model.options,
        in_channels=store.spec.channels,
        classes=store.spec.classes,
        scaling=store.spec.scaling,
        pixel_size_um=store.spec.pixel_size_um,
        intensities=_intensities(store),
        receptive_field=measure_receptive_field(model, store.spec.channels),
        footprint=measure_footprint(model, store.spec.channels),
        training={"settings": settings.resolved(), "tile_store": store.digest},
    )
    model.train(was_training)
    return card
