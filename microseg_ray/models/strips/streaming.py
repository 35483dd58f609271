"""What a plan must know of a checkpoint's network in strips, from its card alone: no weights are read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from torch import nn

from microseg_ray.errors import MicrosegError
from microseg_ray.models.skeleton import model_of_zeros
from microseg_ray.models.strips.reason import NotStreamableError
from microseg_ray.models.strips.schedule import Schedule
from microseg_ray.models.strips.trace import traced

if TYPE_CHECKING:
    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.strips.trace import Node

__all__ = ["Streaming", "streaming_of"]


@dataclass(frozen=True)
class Streaming:
    """Strips of one height of one network.

    Attributes:
        rows: Image rows of a strip.
        first: Rows of the first strip.
        lag: Rows by which finished rows lie behind those fed.
        again: Rows above its own that a strip reads.
        kept_numbers: Numbers kept between two strips, per column.
    """

    rows: int
    first: int
    lag: int
    again: int
    kept_numbers: float


def streaming_of(card: ModelCard, rows: int) -> Streaming:
    """The strips of a checkpoint's network.

    Args:
        card: The checkpoint's.
        rows: Image rows of a strip.

    Raises:
        NotStreamableError: It needs the whole image or tile; the message says through which layer.
    """
    field = card.receptive_field
    if card.scaling.clahe is not None:
        raise NotStreamableError("CLAHE equalises each tile by itself")
    if field.tile_dependent:
        raise NotStreamableError(f"the model sees the whole tile through {', '.join(field.tile_dependent[:3])}")
    options = json.dumps(dict(card.options), sort_keys=True)
    return _streaming(card.architecture, options, card.in_channels, len(card.classes), field.stride, rows)


@lru_cache(maxsize=16)
def _streaming(architecture: str, options: str, channels: int, classes: int, stride: int, rows: int) -> Streaming:
    nodes, early = _network(architecture, options, channels, classes, stride)
    schedule = Schedule(nodes, stride, rows, early)
    return Streaming(rows, schedule.first, schedule.lag, schedule.again, schedule.kept_numbers)


@lru_cache(maxsize=4)
def _network(
    architecture: str, options: str, channels: int, classes: int, stride: int
) -> tuple[list[Node], frozenset[int]]:
    """The network's operations, and which are computed early: what all heights of strips share."""
    try:
        model = model_of_zeros(architecture, channels, classes, json.loads(options))
    except MicrosegError as error:
        raise NotStreamableError(f"its layers cannot be looked at here ({error})") from error
    nodes = traced(nn.Sequential(model).eval(), channels, stride)
    return nodes, Schedule(nodes, stride, 0).fewest_kept
