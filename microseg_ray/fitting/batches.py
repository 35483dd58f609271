"""The tiles of a split, and the batches of augmented tiles on the device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from microseg_ray.fitting.augmentation import aim, augment, draw, paste_objects
from microseg_ray.models.scaling import model_input

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.fitting.sampling import Batch
    from microseg_ray.settings import AugmentSettings
    from microseg_ray.tiles.store import TileStore

__all__ = ["Preparation", "Tiles", "prepared"]

HELD_BYTES = 2 * 1024**3


class Tiles:
    """Tiles of one split: in memory where they fit, else read from the store batch by batch."""

    def __init__(self, store: TileStore, rows: NDArray[np.int64], held_bytes: int = HELD_BYTES) -> None:
        self.rows = rows
        self._store = store
        tile_bytes = store.spec.side**2 * (store.spec.channels * np.dtype(store.spec.dtype).itemsize + 1)
        self._held = store.read(rows) if len(rows) * tile_bytes <= held_bytes else None

    @property
    def held(self) -> bool:
        """Whether the tiles are in memory."""
        return self._held is not None

    def raw(self, places: NDArray[np.int64]) -> tuple[NDArray[np.generic], NDArray[np.uint8], NDArray[np.float64]]:
        """Images (n, c, y, x) as stored, masks (n, y, x) and limits (n, 2), by place in the split."""
        if self._held is not None:
            images, masks, limits = self._held
            return images[places], masks[places], limits[places]
        return self._store.read(self.rows[places])

    def read(self, places: NDArray[np.int64], device: str = "cpu") -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Scaled images (n, c, y, x) float32, masks (n, y, x) uint8 and limits, on a device.

        The integers of the source are copied to the device and scaled there: they are smaller than floats.
        """
        images, masks, limits = (_sent(part, device) for part in self.raw(places))
        return model_input(images, limits, self._store.spec.scaling.clahe), masks, limits


@dataclass(frozen=True)
class Preparation:
    """How the tiles of a batch are changed before the model sees them.

    Attributes:
        seed: Seed of the augmentation.
        augmentation: Ranges of the augmentation.
        crop: Side of the crops in pixels; None takes whole tiles.
        channels_last: Memory layout of the images.
        counts: int64 (tile, class) of the split, for `copy_paste`; None where there are no labels.
    """

    seed: int
    augmentation: AugmentSettings
    crop: int | None = None
    channels_last: bool = True
    counts: NDArray[np.int64] | None = None


def prepared(data: Tiles, batch: Batch, how: Preparation, epoch: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Augmented images float32 (n, c, side, side) and masks uint8 (n, side, side) of a batch, on the device.

    Args:
        data: The split.
        batch: Which of its tiles.
        how: How they are changed.
        epoch: From 0.
        device: Where the pixels are changed.
    """
    images, masks, _ = data.read(batch.places, device)
    if how.augmentation.copy_paste and how.counts is not None:
        keys = [
            (how.seed, epoch, tile, turn)
            for tile, turn in zip(data.rows[batch.places].tolist(), batch.turns.tolist(), strict=True)
        ]

        def read(place: int) -> tuple[torch.Tensor, torch.Tensor]:
            given, labels, _ = data.read(np.array([place]), device)
            return given[0], labels[0]

        paste_objects(images, masks, keys, how.counts, how.augmentation.copy_paste, read)
    side = how.crop or images.shape[-1]
    drawn = draw(how.seed, epoch, data.rows[batch.places], how.augmentation, batch.turns, side)
    # A tile that was drawn for a class is no use if the crop misses it.
    aimed = side < images.shape[-1] and bool((batch.focus >= 0).any())
    targets = aim(masks.cpu().numpy(), batch.focus, drawn) if aimed else None
    images, masks = augment(images, masks, drawn, side, targets)
    layout = torch.channels_last if how.channels_last else torch.contiguous_format
    return images.contiguous(memory_format=layout), masks


def _sent(array: NDArray[np.generic], device: str) -> torch.Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if torch.device(device).type == "cuda":
        # Only a copy from pinned memory overlaps with computation.
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)
