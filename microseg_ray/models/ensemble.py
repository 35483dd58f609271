"""One or several checkpoints as one model. No torch is loaded to read their cards.

Several checkpoints are an ensemble: their probabilities are averaged in every pixel. What they must share is compared before
anything is computed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microseg_ray.errors import CheckpointError
from microseg_ray.models import ENSEMBLE
from microseg_ray.models.card import Footprint, ModelCard, ReceptiveField, read_card_and_digest, require_pixel_model
from microseg_ray.sources.agreement import class_order_objection

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn

__all__ = ["Checkpoints", "Described", "describe", "folders", "load_model"]

Checkpoints = str | os.PathLike[str] | tuple[str, ...]
"""The folder of a checkpoint, or the folders of several whose probabilities are averaged."""

_SAME_SCALE = 0.1
"""Share by which the pixel sizes of members may differ."""
_FLOAT32 = 4


@dataclass(frozen=True)
class Described:
    """A model, from its checkpoints' cards.

    Attributes:
        card: Of the checkpoint, or of all of them together.
        digest: The identity of the model, as 64 hex digits.
        members: Folder and `model_digest` of each checkpoint of an ensemble; empty for a single checkpoint.
    """

    card: ModelCard
    digest: str
    members: tuple[tuple[str, str], ...] = ()


def folders(checkpoints: Checkpoints) -> tuple[str, ...]:
    """The folders, one or several.

    Example:
        >>> folders("model/best"), folders(("a/best", "b/best"))
        (('model/best',), ('a/best', 'b/best'))
    """
    return checkpoints if isinstance(checkpoints, tuple) else (str(checkpoints),)


def describe(checkpoints: Checkpoints) -> Described:
    """Read the cards of checkpoints that predict together.

    The digest of an ensemble is SHA-256 over those of its members in their order, in which the sums are rounded.

    Args:
        checkpoints: One folder or several.

    Raises:
        CheckpointError: One cannot be used, or they have not the same classes in order, channels, scaling of intensities,
            bit depth or pixel size, or one is named twice; the message names the two that differ and what to do.

    Example:
        >>> describe(("/nowhere", "/there"))
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    places = folders(checkpoints)
    found = [read_card_and_digest(place) for place in places]
    for place, (card, _) in zip(places, found, strict=True):
        require_pixel_model(place, card)
    if len(found) == 1:
        return Described(*found[0])
    for index, place in enumerate(places[1:], 1):
        _require_same((places[0], place), (found[0][0], found[index][0]))
    digests = [digest for _, digest in found]
    twice = next((place for place, digest in zip(places, digests, strict=True) if digests.count(digest) > 1), None)
    if twice is not None:
        raise CheckpointError(f"{twice}: the same model is given twice, so that it would count double; name it once")
    whole = hashlib.sha256(json.dumps([ENSEMBLE, *digests]).encode()).hexdigest()
    return Described(_together([card for card, _ in found]), whole, tuple(zip(places, digests, strict=True)))


def load_model(checkpoints: Checkpoints) -> tuple[nn.Module, Described]:
    """The model of one checkpoint, or the ensemble of several, on the CPU in evaluation mode.

    Raises:
        CheckpointError: As `describe`, and as `models.checkpoint.load_checkpoint`.
    """
    from microseg_ray.models.checkpoint import load_checkpoint

    described = describe(checkpoints)
    members = [load_checkpoint(place)[0] for place in folders(checkpoints)]
    if len(members) == 1:
        return members[0], described
    from microseg_ray.models.architectures.ensemble import Ensemble

    return Ensemble(members).eval(), described


def _require_same(places: tuple[str, str], cards: tuple[ModelCard, ModelCard]) -> None:
    """Refuse an ensemble of models that do not answer the same question about the same pixels."""
    first, other = cards
    problem = class_order_objection(other.classes, first.classes, places[0])
    if not problem and other.in_channels != first.in_channels:
        problem = f"it sees {other.in_channels} channels, {places[0]} sees {first.in_channels}"
    if not problem and other.scaling != first.scaling:
        problem = (
            f"its intensities are scaled by {_scaling(other)}, those of {places[0]} by {_scaling(first)}, so that one file would "
            "be two different images"
        )
    if not problem and first.scaling.kind == "dtype" and _bits(other) != _bits(first) and None not in map(_bits, cards):
        problem = f"it was trained on images of {_bits(other)} bits, {places[0]} on {_bits(first)}"
    problem = problem or _scale_problem(places[0], first, other)
    if problem:
        raise CheckpointError(
            f"{places[1]}: {problem}; average only checkpoints that were trained on the same classes, channels, scaling and "
            "pixel size"
        )


def _scale_problem(place: str, first: ModelCard, other: ModelCard) -> str:
    ours, theirs = first.pixel_size_um, other.pixel_size_um
    if ours is None or theirs is None:
        same = ours is theirs
    else:
        same = max(abs(there / here - 1) for here, there in zip(ours, theirs, strict=True)) <= _SAME_SCALE
    return "" if same else f"its pixel size is {_shown(theirs)}, that of {place} is {_shown(ours)}"


def _shown(size: tuple[float, float] | None) -> str:
    return "not known" if size is None else f"{size[0]:g} x {size[1]:g} um"


def _scaling(card: ModelCard) -> str:
    return ", ".join(f"{key} {value}" for key, value in card.scaling.model_dump().items() if value is not None)


def _bits(card: ModelCard) -> int | None:
    return None if card.intensities is None else card.intensities.bits


def _together(cards: Sequence[ModelCard]) -> ModelCard:
    """The card of an ensemble: what it sees, and what it takes in memory."""
    fields = [card.receptive_field for card in cards]
    prints = [card.footprint for card in cards]
    # One member is computed after the other; their logits stay, are copied and scaled, and come out too.
    kept = _FLOAT32 * len(cards[0].classes) * 4 * (len(cards) + 1)
    known = all(each.fp32 and each.bf16 for each in prints)
    return cards[0].model_copy(
        update={
            "architecture": ENSEMBLE,
            "options": {"members": [{"architecture": card.architecture, "options": card.options} for card in cards]},
            "intensities": next((card.intensities for card in cards if card.intensities is not None), None),
            "receptive_field": ReceptiveField(
                radius=max(field.radius for field in fields),
                stride=math.lcm(*(field.stride for field in fields)),
                tile_dependent=tuple(dict.fromkeys(layer for field in fields for layer in field.tile_dependent)),
            ),
            "footprint": Footprint(
                parameter_bytes=sum(each.parameter_bytes for each in prints),
                fp32=max(each.fp32 for each in prints) + kept if known else 0.0,
                bf16=max(each.bf16 for each in prints) + kept if known else 0.0,
            ),
            "training": {},
            "metrics": {},
        }
    )
