"""The state of a fit on disk: what a resumed one goes on from, and what it must not be mixed with."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.models.checkpoint import save_checkpoint

if TYPE_CHECKING:
    from microseg_ray.models.card import ModelCard
    from microseg_ray.settings import TrainSettings
    from microseg_ray.stores import TileStore

__all__ = ["STATE_FILE", "EpochReport", "Fit", "identity_of", "resume", "save", "saved_state", "write_history"]


STATE_FILE = "state.pt"


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


def save(state: Fit, settings: TrainSettings, identity: str, card: ModelCard, metrics: dict[str, Any]) -> None:
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


def resume(state: Fit, saved: dict[str, Any] | None) -> None:
    """Take a fit to where a saved state left it; nothing where there is none."""
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
