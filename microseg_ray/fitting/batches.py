"""Which worker sees which tiles in which step: shares of one order that is a function of seed and epoch alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from microseg_ray.models.predictor import model_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.settings import TrainSettings
    from microseg_ray.stores import TileStore

__all__ = ["Crew", "Tiles", "batches_of"]


# Below this a split is held in memory; above it tiles are read from disk batch by batch, one batch ahead.
HELD_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Crew:
    """Who takes part: this worker's rank, how many there are, and its device."""

    rank: int = 0
    world: int = 1
    device: str = "cpu"

    @property
    def distributed(self) -> bool:
        """Whether there is anyone to talk to."""
        return self.world > 1

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor over all workers."""
        if self.distributed:
            torch.distributed.all_reduce(tensor)
        return tensor


class Tiles:
    """Tiles of one split, in memory where they fit."""

    def __init__(self, store: TileStore, rows: NDArray[np.int64]) -> None:
        self.rows = rows
        self._store = store
        tile_bytes = store.spec.side**2 * (store.spec.channels * np.dtype(store.spec.dtype).itemsize + 1)
        self._held = store.read(rows) if len(rows) * tile_bytes <= HELD_BYTES else None

    def read(self, places: NDArray[np.int64]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scaled images (n, c, y, x) float32, masks (n, y, x) uint8 and limits, by place in the split."""
        if self._held is not None:
            images, masks, limits = (part[places] for part in self._held)
        else:
            images, masks, limits = self._store.read(self.rows[places])
        scaled = model_input(
            torch.from_numpy(np.ascontiguousarray(images)), torch.from_numpy(limits), self._store.spec.scaling.clahe
        )
        return scaled, torch.from_numpy(np.ascontiguousarray(masks)), torch.from_numpy(limits)


def steps_of(settings: TrainSettings, tiles: int) -> int:
    """Steps of an epoch: as set, or as many whole batches as there are tiles for."""
    return settings.steps_per_epoch or max(1, tiles // settings.batch)


def batches_of(settings: TrainSettings, tiles: int, epoch: int, crew: Crew) -> list[NDArray[np.int64]]:
    """This rank's places in the split for every step of an epoch; shares of one global order."""
    steps, size = steps_of(settings, tiles), min(settings.batch, tiles)
    order: list[NDArray[np.int64]] = []
    rounds = 0
    while sum(map(len, order)) < steps * size:
        generator = np.random.default_rng(np.random.SeedSequence([settings.seed, epoch, rounds]))
        order.append(generator.permutation(tiles).astype(np.int64))
        rounds += 1
    places = np.concatenate(order)
    return [places[step * size : (step + 1) * size][crew.rank :: crew.world] for step in range(steps)]
