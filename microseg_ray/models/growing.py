"""Weights of a checkpoint for a model of more classes: what is known stays, only the rows of the new classes are new."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from microseg_ray.errors import CheckpointError
from microseg_ray.files import whole
from microseg_ray.models import build_model
from microseg_ray.models.checkpoint import load_checkpoint

if TYPE_CHECKING:
    import os
    from pathlib import Path

__all__ = ["write_grown_weights"]


def write_grown_weights(checkpoint: str | os.PathLike[str], classes: int, target: Path, seed: int = 0) -> None:
    """Write the weights of a checkpoint with room for further classes, which come after the known ones.

    Tensors with a row for each class get rows of a fresh model for the new ones; all others are copied.

    Args:
        checkpoint: The checkpoint's folder.
        classes: How many classes there are now.
        target: The safetensors file that is written.
        seed: Of the new rows.

    Raises:
        CheckpointError: It cannot be read, has more classes, or a tensor fits neither way.

    Example:
        >>> write_grown_weights("/nowhere", 3, "grown.safetensors")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    model, card = load_checkpoint(checkpoint)
    known = len(card.classes)
    if classes < known:
        raise CheckpointError(f"{checkpoint}: has {known} classes, and {classes} are wanted; name its classes, too")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        grown = build_model(card.architecture, card.in_channels, classes, card.options).state_dict()
    for name, older in model.state_dict().items():
        if older.shape == grown[name].shape:
            grown[name] = older
        elif older.shape[0] == known and grown[name].shape == (classes, *older.shape[1:]):
            grown[name][:known] = older
        else:
            raise CheckpointError(f"{checkpoint}: tensor {name!r} cannot be given further classes; train a new model")
    with whole(target) as partial:
        save_file({name: tensor.contiguous() for name, tensor in grown.items()}, partial)
