"""Which tiles make which batch: one order that is a function of seed and epoch alone, divided among the workers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.settings import SamplingSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.fitting.workers import Workers

__all__ = ["Batch", "BatchOrder", "batches_of", "epoch_order"]

_UNIFORM = SamplingSettings()
_BY_CLASS = 1
"""Separates the random stream of the draws by class from that of the shuffles."""


@dataclass(frozen=True)
class BatchOrder:
    """What the order of the batches depends on, besides the tiles and the epoch.

    Attributes:
        batch: Tiles of a step, over all workers.
        seed: Seed of the shuffles and draws.
        steps_per_epoch: None takes as many whole batches as there are tiles for.
        accumulate: Parts that a step is computed in.
        sampling: Uniform, or by class area.

    Example:
        >>> BatchOrder(batch=4, seed=0).steps(10), BatchOrder(batch=4, seed=0, steps_per_epoch=7).steps(10)
        (2, 7)
    """

    batch: int
    seed: int
    steps_per_epoch: int | None = None
    accumulate: int = 1
    sampling: SamplingSettings = _UNIFORM

    def steps(self, tiles: int) -> int:
        """Steps of an epoch over so many tiles."""
        return self.steps_per_epoch or max(1, tiles // self.batch)


@dataclass(frozen=True)
class Batch:
    """The tiles of one step.

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


def batches_of(
    order: BatchOrder, tiles: int, epoch: int, workers: Workers, counts: NDArray[np.int64] | None = None
) -> list[list[Batch]]:
    """The share of one worker in an epoch: for every step, its tiles of each part of the step.

    Args:
        order: How batches are made.
        tiles: Tiles of the split.
        epoch: From 0.
        workers: This worker among the others.
        counts: int64 (tile, class), for sampling by class area.
    """
    parts = order.accumulate
    return [
        [batch.every(part, parts).every(workers.rank, workers.world) for part in range(parts)]
        for batch in epoch_order(order, tiles, epoch, counts)
    ]


def epoch_order(order: BatchOrder, tiles: int, epoch: int, counts: NDArray[np.int64] | None = None) -> list[Batch]:
    """The batches of one epoch, over all workers.

    Every tile comes once before any comes again; a batch is never larger than the split. With `sampling: class_area` the
    first tiles of each batch are drawn for a class each, and the rest goes on in that order. A batch holds a tile of every
    class that the split has if it has at least as many tiles as there are such classes; smaller batches take the classes
    in turn, across batches and epochs, so that every class is drawn equally often.

    Raises:
        ValueError: Sampling by class area without counts.
    """
    steps, size = order.steps(tiles), min(order.batch, tiles)
    drawn = _drawn_by_class(order, epoch, steps, size, counts)
    rest = iter(_shuffled(order.seed, tiles, epoch, steps * size))
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
    order: BatchOrder, epoch: int, steps: int, size: int, counts: NDArray[np.int64] | None
) -> list[list[tuple[int, int]]]:
    """(place, class) of the tiles of each step that are drawn for a class."""
    chosen = order.sampling
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
        generator = np.random.default_rng(np.random.SeedSequence([order.seed, epoch, step, _BY_CLASS]))
        # The next batch continues the cycle of classes where this one ends, and so does the first of the next epoch:
        # cycles that began anew would never draw the last classes where an epoch is short.
        classes = present[((epoch * steps + step) * wanted + np.arange(wanted)) % len(present)]
        marks = generator.random(wanted)
        places = [
            int(np.searchsorted(ladders[:, index], mark * ladders[-1, index], side="right"))
            for index, mark in zip(classes, marks, strict=True)
        ]
        drawn.append([(min(place, len(counts) - 1), int(index)) for place, index in zip(places, classes, strict=True)])
    return drawn
