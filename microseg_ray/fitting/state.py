"""The state of a fit on disk: what a resumed one goes on from, and what it must not be mixed with."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.files import delete_folder, rotate, whole
from microseg_ray.fitting.history import EpochReport, write_history
from microseg_ray.fitting.precision import settled
from microseg_ray.models.checkpoint import save_checkpoint
from microseg_ray.recognition import is_checkpoint
from microseg_ray.tiles.store import TileStore

if TYPE_CHECKING:
    from microseg_ray.fitting.averaging import Averaged
    from microseg_ray.fitting.schedules import Progress
    from microseg_ray.models.card import ModelCard
    from microseg_ray.settings import TrainSettings
    from microseg_ray.settings.epochs import EpochSettings

__all__ = [
    "OLDER_STATE_FILE",
    "STATE_FILE",
    "Fit",
    "go_on",
    "identity_of",
    "save_checkpoints",
    "save_state",
    "saved_state",
]

_log = logging.getLogger(__name__)

STATE_FILE = "state.pt"
OLDER_STATE_FILE = "state.before.pt"
"""Of the epoch before: gone on from where the last one cannot be read."""
KEPT_FOLDER = "epochs"
UNLABELLED_FOLDER = "unlabelled"
"""Of the squares of `train.unlabelled`, in the output."""

_NOT_DECIDING = (
    *("tiles", "output", "workers", "ray", "max_failures", "overwrite", "threads", "gpu"),
    *("channels_last", "compile", "held_bytes", "keep", "mlflow", "classes", "allow_empty_classes", "archive"),
)
"""Settings of where and how fast a fit runs, and of what it logs; all others decide its weights."""


@dataclass
class Fit:
    """The state of a fit: everything that a resumed one needs."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    progress: Progress
    scaler: torch.amp.GradScaler
    averaged: Averaged | None = None
    epoch: int = 0
    history: list[EpochReport] = field(default_factory=list)

    @property
    def best_score(self) -> float:
        """The best score so far."""
        return max((row.score for row in self.history), default=-math.inf)

    @property
    def kept(self) -> nn.Module:
        """The model that is validated and saved: the averaged one where there is one."""
        return self.model if self.averaged is None else self.averaged.model

    def document(self) -> dict[str, Any]:
        """Plain values and tensors, for `restore`."""
        averaged = self.averaged
        return {
            "epoch": self.epoch,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": self.progress.state(),
            "scaler": self.scaler.state_dict(),
            "averaged": None if averaged is None else {"model": averaged.model.state_dict(), "steps": averaged.steps},
            "history": [vars(item) for item in self.history],
        }

    def restore(self, saved: dict[str, Any]) -> None:
        """Go on from what `document` gave; the options of the optimizer stay those of now."""
        self.model.load_state_dict(saved["model"])
        options = [
            {key: value for key, value in group.items() if key != "params"} for group in self.optimizer.param_groups
        ]
        self.optimizer.load_state_dict(saved["optimizer"])
        for group, chosen in zip(self.optimizer.param_groups, options, strict=True):
            group.update(chosen)
        self.progress.restore(saved["progress"])
        if saved["scaler"] and self.scaler.is_enabled():
            self.scaler.load_state_dict(saved["scaler"])
        if self.averaged is not None:
            if saved["averaged"] is None:
                self.averaged.reset(self.model)
            else:
                self.averaged.model.load_state_dict(saved["averaged"]["model"])
                self.averaged.steps = int(saved["averaged"]["steps"])
        self.epoch = int(saved["epoch"])
        self.history = [EpochReport(**{**row, "class_iou": tuple(row["class_iou"])}) for row in saved["history"]]


def identity_of(settings: EpochSettings, store: TileStore) -> str:
    """sha256 of everything that decides the weights; a fit resumes only what has the same.

    Args:
        settings: The job's settings; where it runs and how many workers share a batch do not count.
        store: The tile store.
    """
    chosen = _deciding(settings)
    parts: list[Any] = [chosen, store.digest]
    if chosen.get("unlabelled") is None:
        # As before there was this setting.
        chosen.pop("unlabelled", None)
    else:
        place = Path(settings.output).absolute() / UNLABELLED_FOLDER
        parts.append(TileStore.open(place).digest if (place / "tiles.parquet").exists() else "")
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _deciding(settings: EpochSettings) -> dict[str, Any]:
    """The settings that decide the weights."""
    chosen = settled(settings, gpu=settings.on_gpu).resolved()
    for key in _NOT_DECIDING:
        chosen.pop(key, None)
    if chosen.get("unlabelled"):
        # Its squares count, wherever their archive lies.
        chosen["unlabelled"].pop("archive")
    if not chosen.get("hold"):
        # Fits of versions without it go on.
        chosen.pop("hold", None)
    # A setting that was left open counts with its resolved value.
    chosen["model"] |= settings.model.options
    return chosen


def save_checkpoints(state: Fit, settings: TrainSettings, card: ModelCard, metrics: dict[str, Any]) -> None:
    """OUTPUT/last, OUTPUT/best where this epoch is the best, and the best few in OUTPUT/epochs; each whole or absent.

    Args:
        state: After an epoch; the averaged weights are saved where there are any.
        settings: `output`, `keep` and `select` count.
        card: Of the model.
        metrics: Kept in the checkpoint.
    """
    output = Path(settings.output).absolute()
    output.mkdir(parents=True, exist_ok=True)
    row = state.history[-1]
    done = card.model_copy(update={"metrics": {"epoch": row.epoch, "selected_by": _selector(row, settings), **metrics}})
    model = state.kept
    was_training = model.training
    ranked = sorted(state.history, key=lambda item: (-item.score, item.epoch))[: settings.keep]
    places = [output / "last"]
    if row.best:
        places.append(output / "best")
    if row in ranked:
        places.append(output / KEPT_FOLDER / f"{row.epoch:04d}")
    for place in places:
        save_checkpoint(place, model, done)
    model.train(was_training)
    wanted = {f"{item.epoch:04d}" for item in ranked}
    for folder in (output / KEPT_FOLDER).glob("[0-9]*"):
        if folder.name not in wanted and is_checkpoint(folder):
            delete_folder(folder)


def save_state(state: Fit, settings: EpochSettings, identity: str, classes: list[str]) -> None:
    """What a resumed fit goes on from, then the table; after the checkpoints that it counts.

    Args:
        state: After an epoch.
        settings: `output` counts; all of them are kept for whoever asks why a fit was refused.
        identity: From `identity_of`.
        classes: Names of the classes, for the table's columns.
    """
    output = Path(settings.output).absolute()
    with whole(output / STATE_FILE) as partial:
        torch.save({"identity": identity, "settings": _deciding(settings), **state.document()}, partial)
        if (output / STATE_FILE).exists():
            rotate(output / STATE_FILE, output / OLDER_STATE_FILE)
    write_history(output, state.history, classes)


def _selector(row: EpochReport, settings: TrainSettings) -> str:
    name = {"mean_iou": "mean IoU", "pixel_accuracy": "pixel accuracy"}.get(settings.select, settings.select)
    return f"train {name} (no validation split)" if row.val_loss is None else f"validation {name}"


def go_on(state: Fit, settings: TrainSettings, saved: dict[str, Any] | None) -> bool:
    """Take a fit to where it was, or to where the fit of `init_from` was; nothing where there is neither.

    Returns:
        Whether there was one.

    Raises:
        SettingsError: `init_from` holds no fit, or one of another model or optimizer.
    """
    if saved is not None:
        state.restore(saved)
        return True
    if settings.init_from is None:
        return False
    path = Path(settings.init_from) / STATE_FILE
    try:
        state.restore(torch.load(path, map_location="cpu", weights_only=True))
    except FileNotFoundError as error:
        raise SettingsError(
            f"train.init_from: {settings.init_from} holds no fit ({STATE_FILE}); give the output of a train job"
        ) from error
    except Exception as error:
        # torch raises half a dozen types for a damaged file or for weights that do not fit.
        raise SettingsError(
            f"train.init_from: {path} cannot be used ({_short(error)}); it must be a fit of the same model and optimizer"
        ) from error
    return True


def _short(error: Exception) -> str:
    """Two lines of an error: torch lists every tensor that does not fit."""
    return " ".join(line.strip() for line in str(error).splitlines()[:2])


def _loaded(path: Path) -> dict[str, Any]:
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch.load raises half a dozen types for a damaged file.
        raise SettingsError(
            f"{path}: cannot be read ({_short(error)}); give another output, or --overwrite to start afresh"
        ) from error
    return saved


def saved_state(settings: EpochSettings, store: TileStore) -> dict[str, Any] | None:
    """The state that an interrupted or finished fit left in the output, None where there is none.

    Where it cannot be read, that of the epoch before is taken, and a warning is logged.

    Raises:
        SettingsError: Neither can be read, or it is of other settings or other tiles; the message says which.
    """
    folder = Path(settings.output).absolute()
    # A kill between the two renames of `save_state` leaves the older one alone.
    found = [folder / name for name in (STATE_FILE, OLDER_STATE_FILE) if (folder / name).exists()]
    if settings.overwrite or not found:
        return None
    path, *before = found
    try:
        saved = _loaded(path)
    except SettingsError as error:
        if not before:
            raise
        saved = _loaded(before[0])
        _log.warning("%s; gone on from the epoch before (%s)", error, OLDER_STATE_FILE)
    if saved["identity"] != identity_of(settings, store):
        older, now = {"unlabelled": None, **saved.get("settings", {})}, _deciding(settings)
        differing = [
            f"{key}: {older[key]} there, {now[key]} now" for key in now if key in older and older[key] != now[key]
        ]
        named = "; ".join(differing) or "other tiles"
        raise SettingsError(
            f"{settings.job}.output: {path.parent} holds a fit of other settings or other tiles ({named}), and fits are never "
            "mixed; give another output, or --overwrite to start afresh"
        )
    return saved
