"""Checkpoints: a folder with the weights and everything needed to use them; whole or absent, nothing pickled."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from microseg_ray.errors import CheckpointError, SettingsError
from microseg_ray.files import whole_folder
from microseg_ray.models.card import CARD_FILE, DIGEST_KEY, WEIGHTS_FILE, ModelCard, read_card_and_checksum, read_part
from microseg_ray.models.skeleton import model_skeleton
from microseg_ray.recognition import is_checkpoint

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["load_checkpoint", "save_checkpoint"]

_DAMAGED = "copy the checkpoint again or train anew"


def save_checkpoint(folder: str | os.PathLike[str], model: nn.Module, card: ModelCard) -> None:
    """Write a checkpoint so that it is whole or absent; one that is there already is replaced.

    Both files are written and synced in a hidden folder beside it, which is then renamed. A kill between the two renames
    of a replacement leaves the older one under a hidden name, which the error of `load_checkpoint` then names.

    Args:
        folder: Where; its parents are made.
        model: The model that `card` describes, unwrapped (not DistributedDataParallel's shell), on any device.
        card: Must fit the model.

    Raises:
        CheckpointError: The model is not what the card says, a weight is NaN or infinite, or the folder holds something
            else than a checkpoint.
        OSError: The disk is full or the place cannot be written.

    Example:
        >>> import tempfile
        >>> from microseg_ray.models import build_model
        >>> from microseg_ray.models.card import ReceptiveField
        >>> from microseg_ray.settings import ClassSpec
        >>> model = build_model("unet", 1, 2, {"width": 2, "depth": 1})
        >>> card = ModelCard(
        ...     architecture="unet",
        ...     options={"width": 2, "depth": 1},
        ...     in_channels=1,
        ...     classes=(ClassSpec(name="clay"), ClassSpec(name="pore")),
        ...     receptive_field=ReceptiveField(radius=10, stride=2),
        ... )
        >>> with tempfile.TemporaryDirectory() as place:
        ...     save_checkpoint(f"{place}/best", model, card)
        ...     load_checkpoint(f"{place}/best")[1] == card
        True
    """
    target = Path(folder).absolute()
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    _check_tensors(folder, tensors, _skeleton(folder, card))
    if target.is_file() or (target.is_dir() and any(target.iterdir()) and not (target / CARD_FILE).exists()):
        raise CheckpointError(f"{folder}: exists and is no checkpoint, so it is not replaced; choose another folder")
    weights = save(tensors)
    document = card.model_dump(mode="json") | {DIGEST_KEY: hashlib.sha256(weights).hexdigest()}
    text = json.dumps(_without_nan(document), indent=2, allow_nan=False) + "\n"
    with whole_folder(target, is_checkpoint) as partial:
        partial.mkdir()
        (partial / WEIGHTS_FILE).write_bytes(weights)
        (partial / CARD_FILE).write_bytes(text.encode())


def load_checkpoint(folder: str | os.PathLike[str]) -> tuple[nn.Module, ModelCard]:
    """The model of a checkpoint on the CPU in evaluation mode, and its card.

    Nothing is unpickled. The weights are checked before they are used: checksum, names, shapes, types, and that every
    one is finite; a card that claims a huge model allocates nothing.

    Raises:
        CheckpointError: Folder or file missing, truncated or changed, unknown architecture or option, weights that do
            not fit the architecture; the message names folder and key and says what to do.

    Example:
        >>> load_checkpoint("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    card, expected = read_card_and_checksum(folder)
    model = _skeleton(folder, card)
    content = read_part(folder, WEIGHTS_FILE)
    # Hashed and parsed from the same bytes, so that nothing can change in between.
    if hashlib.sha256(content).hexdigest() != expected:
        raise CheckpointError(
            f"{folder}: {WEIGHTS_FILE} is not the file that was saved (its SHA-256 is not the {DIGEST_KEY} of {CARD_FILE}): "
            f"truncated, damaged or exchanged; {_DAMAGED}"
        )
    try:
        tensors = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: {WEIGHTS_FILE} is not a safetensors file ({error}); {_DAMAGED}") from error
    _check_tensors(folder, tensors, model)
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.eval(), card


def _skeleton(folder: str | os.PathLike[str], card: ModelCard) -> nn.Module:
    """The model that a card describes, without memory for its weights."""
    try:
        model = model_skeleton(card.architecture, card.in_channels, len(card.classes), card.options)
    except SettingsError as error:
        advice = "install the microseg_ray that wrote it"
        raise CheckpointError(
            f"{folder}: {CARD_FILE} describes no model that can be built: {error}; {advice}"
        ) from error
    stride = getattr(model, "stride", card.receptive_field.stride)
    if stride != card.receptive_field.stride:
        raise CheckpointError(
            f"{folder}: {CARD_FILE}: receptive_field.stride is {card.receptive_field.stride}, but the model's is {stride}; "
            "measure it again with measure_receptive_field"
        )
    return model


def _check_tensors(folder: str | os.PathLike[str], found: Mapping[str, Tensor], model: nn.Module) -> None:
    wanted: dict[str, Tensor] = model.state_dict()
    problem = ""
    for name in sorted(set(found) - set(wanted)):
        problem = problem or f"the architecture has no tensor {name!r}"
    # In the model's own order, so that the first layer at fault is named.
    for name, tensor in wanted.items():
        problem = problem or _misfit(name, found.get(name), tensor)
    if problem:
        raise CheckpointError(f"{folder}: {problem}; the weights and {CARD_FILE} do not belong together: {_DAMAGED}")
    for name, tensor in found.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(
                f"{folder}: tensor {name!r} holds NaN or infinity: the training diverged; train with a lower learning rate"
            )


def _misfit(name: str, found: Tensor | None, wanted: Tensor) -> str:
    """What keeps a tensor from taking its place in the model; empty where nothing does."""
    if found is None:
        return f"the weights have no tensor {name!r}"
    if found.shape != wanted.shape:
        return f"tensor {name!r} has the shape {tuple(found.shape)}, the architecture has {tuple(wanted.shape)}"
    if found.dtype != wanted.dtype:
        return f"tensor {name!r} is {found.dtype}, not {wanted.dtype}"
    return ""


def _without_nan(value: object) -> object:
    """JSON has no NaN; a metric that is undefined is null."""
    match value:
        case dict():
            return {key: _without_nan(item) for key, item in value.items()}
        case list():
            return [_without_nan(item) for item in value]
        case float() if value != value or value in (float("inf"), float("-inf")):  # noqa: PLR0124
            return None
        case _:
            return value
