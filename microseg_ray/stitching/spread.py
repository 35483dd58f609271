"""Pixels of each class by each checkpoint of an ensemble, and by each symmetry of test-time augmentation, for one shard.

How far these differ is the spread of an area fraction (`statistics.spread`). A class is that of the largest score of the one
checkpoint or symmetry. A pixel counts once, in the core of its tile, however tiles are blended.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.statistics.counts import count_classes
from microseg_ray.stitching.windows import argmax_first

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.statistics.counts import SpreadKind, Spreads

__all__ = ["SpreadTally"]


@dataclass
class SpreadTally:
    """Adds up the counts of a shard.

    Attributes:
        classes: Number of classes.
        counts: What was counted.

    Example:
        >>> tally = SpreadTally(2)
        >>> tally.add("ensemble", 0, np.zeros((2, 3), np.uint8))
        >>> tally.add("ensemble", 1, np.eye(2, 3, dtype=np.uint8))
        >>> tally.found["ensemble"].tolist()
        [[6, 0], [4, 2]]
    """

    classes: int
    counts: dict[SpreadKind, dict[int, NDArray[np.int64]]] = field(default_factory=dict)

    def add(self, kind: SpreadKind, number: int, mask: NDArray[np.uint8]) -> None:
        """Count the pixels of a part of the shard, (y, x) classes, by one member or symmetry."""
        own = self.counts.setdefault(kind, {})
        own[number] = own.get(number, np.zeros(self.classes, np.int64)) + count_classes(mask, self.classes)

    def add_members(self, masks: NDArray[np.uint8]) -> None:
        """Count a part of the shard, (member, y, x), by all members."""
        for number, mask in enumerate(masks):
            self.add("ensemble", number, mask)

    def add_scores(self, number: int, scores: NDArray[np.floating[Any]]) -> None:
        """Count a part of the shard, (class, y, x), by one symmetry."""
        self.add("tta", number, argmax_first(scores))

    @property
    def found(self) -> Spreads:
        """The counts; empty where nothing was counted."""
        return {kind: np.stack([own[number] for number in sorted(own)]) for kind, own in self.counts.items()}
