"""The model card: everything that inference needs to know beside the weights. No torch in here.

A checkpoint is a folder of two files, `model.safetensors` (weights) and `model.json` (the card and the SHA-256 of the
weights). Both are plain data; nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError

from microseg_ray.errors import CheckpointError
from microseg_ray.files import ObjectPath, content_of, place
from microseg_ray.models import CLASSIFIERS
from microseg_ray.settings import ClassSpec, Frozen, Scaling
from microseg_ray.sources.agreement import Intensities
from microseg_ray.versions import versions

if TYPE_CHECKING:
    from microseg_ray.files import Where

__all__ = [
    "CARD_FILE",
    "FORMAT_VERSION",
    "NO_PIXELS",
    "WEIGHTS_FILE",
    "ModelCard",
    "ReceptiveField",
    "model_digest",
    "read_card",
    "read_card_and_checksum",
    "read_card_and_digest",
    "require_pixel_model",
]

CARD_FILE = "model.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT_VERSION = 1
DIGEST_KEY = "weights_sha256"
"""Beside the card in `model.json`: safetensors has no checksum of its own, and a flipped bit loads silently."""

NO_PIXELS = {
    "format_version": "how model.json is written; the fields say what is meant",
    "footprint": "predicts memory; the tile that follows from it is bound to the run by itself",
    "training": "how the weights came about; a classifier's `views` are counted",
    "metrics": "how good the model is",
    "versions": "what the checkpoint was written with; what computes a run is bound to the run",
}
"""The fields of a card that decide no pixel, and why: every other field is part of `model_digest`."""

_MAX_CARD_BYTES = 16 << 20
_ADVICE = "give a folder that the train job wrote, such as OUTPUT/best"


class ReceptiveField(Frozen):
    """What a model sees around a pixel.

    `radius`: pixels beyond a stride x stride block of outputs that its logits can depend on. `stride`: pixels that tile
    origins and sides are multiples of. `tile_dependent`: layers that see the whole tile, whatever the radius says.

    Example:
        >>> ReceptiveField(radius=44, stride=8).halo
        48
    """

    radius: int = Field(ge=0)
    stride: int = Field(ge=1)
    tile_dependent: tuple[str, ...] = ()

    @property
    def halo(self) -> int:
        """The radius rounded up to the stride: with this halo tiles predict what the whole image does."""
        return -(-self.radius // self.stride) * self.stride


class Footprint(Frozen):
    """What a model takes in memory: bytes of its parameters, and of its activations per input pixel.

    `fp32` and `bf16`: bytes per pixel of the input at the fullest moment of a forward pass; 0 where not measured.

    Example:
        >>> Footprint(parameter_bytes=1000, fp32=640.0, bf16=320.0).bf16
        320.0
    """

    parameter_bytes: int = Field(default=0, ge=0)
    fp32: float = Field(default=0.0, ge=0)
    bf16: float = Field(default=0.0, ge=0)


class ModelCard(Frozen):
    """Everything that inference needs to know about a model, but its weights.

    `options` are the architecture's own; `pixel_size_um` is the (y, x) pixel size in micrometres that it was trained at,
    if known; `intensities` are those of the training tiles; `training` and `metrics` are kept for the reader.

    Example:
        >>> card = ModelCard(
        ...     architecture="unet",
        ...     options={"width": 4, "depth": 2},
        ...     in_channels=1,
        ...     classes=(ClassSpec(name="clay"), ClassSpec(name="pore")),
        ...     receptive_field=ReceptiveField(radius=20, stride=4),
        ... )
        >>> card.scaling.kind, len(card.classes)
        ('dtype', 2)
    """

    format_version: int = FORMAT_VERSION
    architecture: str = Field(min_length=1)
    options: dict[str, Any] = Field(default_factory=dict)
    in_channels: int = Field(ge=1, le=4096)
    classes: tuple[ClassSpec, ...] = Field(min_length=1, max_length=255)
    scaling: Scaling = Scaling()
    pixel_size_um: tuple[float, float] | None = None
    intensities: Intensities | None = None
    receptive_field: ReceptiveField
    footprint: Footprint = Footprint()
    training: dict[str, Any] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=versions)


def read_card(folder: Where) -> ModelCard:
    """The card of a checkpoint.

    Raises:
        CheckpointError: Folder or file missing, not valid JSON, keys unknown, missing or impossible, or a newer format;
            the message names folder, file and key.

    Example:
        >>> read_card("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    return read_card_and_digest(folder)[0]


def read_card_and_digest(folder: Where) -> tuple[ModelCard, str]:
    """The card of a checkpoint and its `model_digest`.

    Raises:
        CheckpointError: As `read_card`.

    Example:
        >>> read_card_and_digest("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    card, checksum = read_card_and_checksum(folder)
    return card, model_digest(card, checksum)


def model_digest(card: ModelCard, weights_sha256: str) -> str:
    """The identity of a model: SHA-256 over its weights and all fields of its card that decide pixels, as 64 hex digits.

    Runs, classifications, exports and areas.csv are bound to it. `NO_PIXELS` lists the fields that do not count; a field
    that is None does not count either, so that a card without it keeps its digest when a field is added.

    Args:
        card: The card.
        weights_sha256: SHA-256 of the file of weights, as `model.json` states it.

    Example:
        >>> card = ModelCard(
        ...     architecture="unet",
        ...     in_channels=1,
        ...     classes=(ClassSpec(name="clay"), ClassSpec(name="pore")),
        ...     receptive_field=ReceptiveField(radius=20, stride=4),
        ... )
        >>> equalised = card.model_copy(update={"scaling": Scaling(clahe=0.02)})
        >>> model_digest(card, "f0") == model_digest(equalised, "f0")
        False
        >>> model_digest(card, "f0") == model_digest(card.model_copy(update={"metrics": {"mean_iou": 0.9}}), "f0")
        True
    """
    fields = {
        key: value for key, value in card.model_dump(mode="json").items() if key not in NO_PIXELS and value is not None
    }
    # What a classifier sees of a micrograph is recorded with its training.
    counted = {**fields, "views": card.training.get("views"), DIGEST_KEY: weights_sha256}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, allow_nan=False).encode()).hexdigest()


def read_card_and_checksum(folder: Where) -> tuple[ModelCard, str]:
    """The card of a checkpoint and the SHA-256 that its file of weights must have.

    Raises:
        CheckpointError: As `read_card`.

    Example:
        >>> read_card_and_checksum("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    where = f"{folder}: {CARD_FILE}"
    try:
        document = json.loads(read_part(folder, CARD_FILE, _MAX_CARD_BYTES))
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{where} is not valid JSON ({error}); copy the checkpoint again or train anew"
        ) from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{where} must hold keys, not a {type(document).__name__}; {_ADVICE}")
    written = document.get("format_version")
    if not isinstance(written, int) or isinstance(written, bool) or not 1 <= written <= FORMAT_VERSION:
        raise CheckpointError(
            f"{where}: format_version {written!r} is not one that this microseg_ray reads (1 to {FORMAT_VERSION}); "
            "install the microseg_ray that wrote it"
        )
    digest = document.pop(DIGEST_KEY, None)
    if not isinstance(digest, str):
        raise CheckpointError(f"{where}: {DIGEST_KEY} is missing, so the weights cannot be checked; {_ADVICE}")
    try:
        return ModelCard.model_validate(document), digest
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in problem["loc"])
        raise CheckpointError(f"{where}: {key}: {problem['msg']}; {_ADVICE}") from error


def read_part(folder: Where, name: str, limit: int | None = None) -> bytes:
    """The bytes of one file of a checkpoint; of one in an object store a copy is kept on this machine.

    Raises:
        CheckpointError: Folder or file missing, unreadable, or larger than `limit` bytes.
        ObjectStoreError: The store cannot be reached.

    Example:
        >>> read_part("/nowhere", "model.json")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    root = place(folder)
    if isinstance(root, ObjectPath):
        return _object_part(root, name, limit)
    if not root.is_dir():
        kept = sorted(root.parent.glob(f".{root.name}.*.old")) if root.name else []
        advice = f"a save was interrupted here: rename {kept[-1]} to {root}" if kept else _ADVICE
        raise CheckpointError(f"{folder}: no such checkpoint folder; {advice}")
    path = root / name
    try:
        if limit is not None and path.stat().st_size > limit:
            raise CheckpointError(f"{folder}: {name} is larger than {limit} bytes; {_ADVICE}")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: {name} is missing, so this is no whole checkpoint; {_ADVICE}") from error
    except OSError as error:
        raise CheckpointError(f"{folder}: {name} cannot be read ({error.strerror}); check its permissions") from error


def _object_part(root: ObjectPath, name: str, limit: int | None) -> bytes:
    path = root / name
    try:
        if limit is not None and path.stat().st_size > limit:
            raise CheckpointError(f"{root}: {name} is larger than {limit} bytes; {_ADVICE}")
        return content_of(path)
    except FileNotFoundError as error:
        what = f"{name} is missing, so this is no whole checkpoint" if root.is_dir() else "no such checkpoint folder"
        raise CheckpointError(f"{root}: {what}; {_ADVICE}") from error


def require_pixel_model(folder: Where, card: ModelCard) -> None:
    """Refuse a classifier where masks are to be predicted.

    Raises:
        CheckpointError: The card is that of a model of whole micrographs.

    Example:
        >>> size = {"height": 64, "width": 64, "dropout": 0.0}
        >>> classes = (ClassSpec(name="coarse"), ClassSpec(name="fine"))
        >>> sight = ReceptiveField(radius=0, stride=1)
        >>> card = ModelCard(
        ...     architecture="coarse_fine", options=size, in_channels=3, classes=classes, receptive_field=sight
        ... )
        >>> require_pixel_model("model/best", card)
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: model/best: coarse_fine is a classifier: it gives one class for a whole ...
    """
    if card.architecture in CLASSIFIERS:
        raise CheckpointError(
            f"{folder}: {card.architecture} is a classifier: it gives one class for a whole micrograph and no mask; use the "
            "`classify` job with it, or give a checkpoint of the train job"
        )
