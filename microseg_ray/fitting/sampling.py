"""Which tiles make which batch: one global order that is a function of seed and epoch alone, shared out to the workers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.fitting.batches import Crew
    from microseg_ray.settings import TrainSettings

__all__ = ["Batch", "batches_of", "epoch_order", "steps_of"]

_BY_CLASS = 1
"""Tells the stream of the draws by class from that of the shuffles."""


@dataclass(frozen=True)
class Batch:
    """Tiles that are seen together.

    Attributes:
        places: int64 (n,), places in the split.
        focus: int64 (n,), the class that a tile was drawn for, -1 where it was not drawn for one.
        turns: int64 (n,), how often the tile came before in this epoch.
    """

    places: NDArray[np.int64]
    focus: NDArray[np.int64]
    turns: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)

    def every(self, start: int, step: int) -> Batch:
        """Each `step`-th tile from `start` on."""
        return Batch(self.places[start::step], self.focus[start::step], self.turns[start::step])


def steps_of(settings: TrainSettings, tiles: int) -> int:
    """Steps of an epoch: as set, or as many whole batches as there are tiles for."""
    return settings.steps_per_epoch or max(1, tiles // settings.batch)


def batches_of(
    settings: TrainSettings, tiles: int, epoch: int, crew: Crew, counts: NDArray[np.int64] | None = None
) -> list[list[Batch]]:
    """What this rank sees in an epoch: for every step its share of each of the step's parts.

    Args:
        settings: `batch`, `accumulate`, `sampling`, `steps_per_epoch` and `seed` count.
        tiles: Tiles of the split.
        epoch: From 0.
        crew: This worker among the others.
        counts: int64 (tile, class), for sampling by class area.
    """
    parts = settings.accumulate
    return [
        [batch.every(part, parts).every(crew.rank, crew.world) for part in range(parts)]
        for batch in epoch_order(settings, tiles, epoch, counts)
    ]


def epoch_order(
    settings: TrainSettings, tiles: int, epoch: int, counts: NDArray[np.int64] | None = None
) -> list[Batch]:
    """The batches of one epoch, over all workers.

    Every tile comes once before any comes again; a batch is never larger than the split. With `sampling: class_area` the
    first tiles of each batch are drawn for a class each, and the rest goes on in that order. A batch holds a tile of every
    class that the split has if it has at least as many tiles as there are such classes; smaller batches take the classes
    in turn.

    Raises:
        ValueError: Sampling by class area without counts.
    """
    steps, size = steps_of(settings, tiles), min(settings.batch, tiles)
    drawn = _drawn_by_class(settings, epoch, steps, size, counts)
    rest = iter(_shuffled(settings.seed, tiles, epoch, steps * size))
    seen: Counter[int] = Counter()
    batches = []
    for own in drawn:
        places = [*(place for place, _ in own), *(next(rest) for _ in range(size - len(own)))]
        turns = []
        for place in places:
            turns.append(seen[place])
            seen[place] += 1
        focus = [*(index for _, index in own), *[-1] * (size - len(own))]
        batches.append(Batch(*(np.array(column, np.int64) for column in (places, focus, turns))))
    return batches


def _shuffled(seed: int, tiles: int, epoch: int, needed: int) -> list[int]:
    order: list[int] = []
    rounds = 0
    while len(order) < needed:
        generator = np.random.default_rng(np.random.SeedSequence([seed, epoch, rounds]))
        order += generator.permutation(tiles).tolist()
        rounds += 1
    return order


def _drawn_by_class(
    settings: TrainSettings, epoch: int, steps: int, size: int, counts: NDArray[np.int64] | None
) -> list[list[tuple[int, int]]]:
    """(place, class) of the tiles of each step that are drawn for a class."""
    chosen = settings.sampling
    if chosen.kind == "uniform":
        return [[] for _ in range(steps)]
    if counts is None:
        raise ValueError("sampling by class area needs the pixel counts of the tiles")
    present = np.flatnonzero(counts.sum(axis=0))
    if not present.size:
        return [[] for _ in range(steps)]
    wanted = min(size, max(len(present), math.ceil(chosen.share * size)))
    odds = np.where(counts > 0, counts.astype(np.float64) ** chosen.power, 0)
    odds /= np.maximum(odds.sum(axis=0), 1e-300)
    ladders = odds.cumsum(axis=0)
    drawn = []
    for step in range(steps):
        generator = np.random.default_rng(np.random.SeedSequence([settings.seed, epoch, step, _BY_CLASS]))
        # Where a batch is too small for all classes, the next one goes on where this one ends.
        classes = present[(step * wanted + np.arange(wanted)) % len(present)]
        marks = generator.random(wanted)
        places = [
            int(np.searchsorted(ladders[:, index], mark * ladders[-1, index], side="right"))
            for index, mark in zip(classes, marks, strict=True)
        ]
        drawn.append([(min(place, len(counts) - 1), int(index)) for place, index in zip(places, classes, strict=True)])
    return drawn
