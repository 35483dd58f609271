"""Learning from micrographs without labels beside labelled tiles: an averaged teacher labels what it is sure of.

The teacher is the average of the weights so far (Tarvainen, Valpola: Mean teachers are better role models, NeurIPS 2017). It
sees a crop that was moved only; the model learns the teacher's class of each pixel in which the teacher is confident, from the
same crop with changed intensities and holes (Sohn et al.: FixMatch, simplifying semi-supervised learning with consistency and
confidence, NeurIPS 2020).
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from microseg_ray.errors import SettingsError
from microseg_ray.fitting.ahead import prepared_ahead
from microseg_ray.fitting.augmentation import Draw, augment, draw, relight
from microseg_ray.fitting.batches import Tiles
from microseg_ray.fitting.losses.pixels import Loss, ratio
from microseg_ray.fitting.sampling import BatchOrder, batches_of
from microseg_ray.fitting.state import UNLABELLED_FOLDER
from microseg_ray.settings import IGNORE_INDEX, AugmentSettings
from microseg_ray.tiles.store import TileStore
from microseg_ray.tiles.unlabelled import Drawing, Drawn, draw_squares

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from torch import Tensor

    from microseg_ray.fitting.sampling import Batch
    from microseg_ray.fitting.workers import Workers
    from microseg_ray.settings import TrainSettings, UnlabelledSettings

__all__ = ["ConfidentPixels", "Unlabelled", "draw_unlabelled", "kept_statistics", "ramp", "sure_classes", "views"]

_SEEDS = 1 << 32
# Beyond what the labelled tiles get: at least these ranges. No blur, which needs an extra package.
_STRONG = {"brightness": 0.2, "contrast": 0.3, "noise": 0.05, "dropout": 0.25}
_STRONG_GAMMA = (0.67, 1.5)

Views = tuple["Tensor", "Tensor", "Tensor"]


@dataclass(frozen=True)
class Unlabelled:
    """Squares of the archive, and how they are used; the same in all epochs.

    Attributes:
        data: The squares.
        chosen: `train.unlabelled`.
        seed: Of the order and of the augmentation.
        augmentation: Of the labelled tiles.
        side: Of the crops.
        channels: Of the model; squares of one channel are repeated.
        channels_last: Memory layout.
    """

    data: Tiles
    chosen: UnlabelledSettings
    seed: int
    augmentation: AugmentSettings
    side: int
    channels: int
    channels_last: bool

    @classmethod
    def open(cls, settings: TrainSettings, labelled: TileStore, workers: Workers) -> Unlabelled | None:
        """The squares that `draw_unlabelled` drew; None where the settings ask for none.

        Raises:
            SettingsError: The squares have more channels than the labelled tiles, or are too few for the workers.
            StoreError: They cannot be read.
        """
        chosen = settings.unlabelled
        if chosen is None:
            return None
        store = TileStore.open(Path(settings.output) / UNLABELLED_FOLDER)
        if store.spec.channels not in {1, labelled.spec.channels}:
            raise SettingsError(
                f"train.unlabelled.archive: has micrographs of {store.spec.channels} channels, the labelled tiles have "
                f"{labelled.spec.channels}; choose one with train.unlabelled.source.channel"
            )
        if min(chosen.batch, store.spec.tiles) < workers.world:
            raise SettingsError(
                f"train.unlabelled.batch: {chosen.batch} squares ({store.spec.tiles} drawn) cannot be shared by "
                f"{workers.world} workers"
            )
        return cls(
            Tiles(store, store.rows("train"), settings.held_bytes),
            chosen,
            # Another order than that of the labelled tiles.
            (settings.seed + 1) % _SEEDS,
            settings.augmentation,
            settings.crop or labelled.spec.side,
            labelled.spec.channels,
            settings.channels_last,
        )

    def ahead(self, epoch: int, steps: int, workers: Workers) -> Generator[tuple[Views, float], None, None]:
        """This worker's share of the crops of each step of an epoch; close it when done."""
        order = BatchOrder(self.chosen.batch, self.seed, steps)
        batches = [parts[0] for parts in batches_of(order, len(self.data.rows), epoch, workers)]
        return prepared_ahead(partial(self._views, epoch=epoch, device=workers.device), batches)

    def _views(self, batch: Batch, epoch: int, device: str) -> Views:
        images = self.data.read(batch.places, device)[0]
        # A gray archive beside coloured labels.
        images = images.expand(-1, self.channels, -1, -1)
        settings = strong(self.augmentation)
        drawn = draw(self.seed, epoch, self.data.rows[batch.places], settings, batch.turns, self.side)
        weak, changed, outside = views(images, drawn, self.side)
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        return weak.contiguous(memory_format=layout), changed.contiguous(memory_format=layout), outside


def draw_unlabelled(settings: TrainSettings) -> Drawn | None:
    """Draw the squares of `train.unlabelled` into OUTPUT/unlabelled; None where the settings ask for none.

    Raises:
        InputError: Nothing in the archive can be used.
        SettingsError: The output holds squares of another archive.
        StoreError: The tile store cannot be read.
    """
    chosen = settings.unlabelled
    if chosen is None:
        return None
    spec = TileStore.open(settings.tiles).spec
    drawing = Drawing(chosen.archive, chosen.squares, spec.side, settings.seed, spec.scaling, chosen.source)
    return draw_squares(drawing, Path(settings.output) / UNLABELLED_FOLDER, "train.unlabelled.archive")


def strong(chosen: AugmentSettings) -> AugmentSettings:
    """The augmentation of the crops that the model learns from: that of labelled tiles, with intensities changed more.

    Example:
        >>> strong(AugmentSettings(rotate=90, noise=0.1)).noise, strong(AugmentSettings(rotate=90)).dropout
        (0.1, 0.25)
    """
    ranges: dict[str, object] = {name: max(least, getattr(chosen, name)) for name, least in _STRONG.items()}
    low, high = chosen.gamma
    ranges["gamma"] = (min(low, _STRONG_GAMMA[0]), max(high, _STRONG_GAMMA[1]))
    return chosen.model_copy(update={**ranges, "chance": 1.0})


def views(images: Tensor, drawn: Draw, side: int) -> Views:
    """Crops as the teacher sees them, the same crops with changed intensities, and which pixels come from outside.

    Args:
        images: float (n, c, y, x), squares.
        drawn: Of these n squares.
        side: Of the crops.

    Returns:
        Two floats (n, c, side, side), pixel on pixel, and bool (n, side, side).

    Example:
        >>> weak, changed, _ = views(torch.rand(1, 1, 12, 12), draw(0, 0, [3], strong(AugmentSettings()), side=8), side=8)
        >>> weak.shape, torch.equal(weak, changed)
        (torch.Size([1, 1, 8, 8]), False)
    """
    nothing = torch.zeros((len(images), *images.shape[2:]), dtype=torch.uint8, device=images.device)
    weak, marks = augment(images, nothing, moved_only(drawn), side)
    return weak, relight(weak.clone(), drawn), marks == IGNORE_INDEX


def moved_only(drawn: Draw) -> Draw:
    """The movements of a draw, without its changes of intensities."""
    return replace(
        drawn,
        gains=np.ones_like(drawn.gains),
        gammas=np.ones_like(drawn.gammas),
        offsets=np.zeros_like(drawn.offsets),
        noises=np.zeros_like(drawn.noises),
        blurs=np.zeros_like(drawn.blurs),
        holes=np.zeros_like(drawn.holes),
        inverted=np.zeros_like(drawn.inverted),
    )


def sure_classes(logits: Tensor, outside: Tensor, confidence: float) -> Tensor:
    """The class of each pixel whose probability is at least `confidence`, else 255: uint8 (n, y, x).

    Args:
        logits: float (n, K, y, x), of the teacher.
        outside: bool (n, y, x), pixels that never count.
        confidence: 0 to 1.

    Example:
        >>> logits = torch.tensor([[[[4.0, 0.1, 0.0]], [[0.0, 0.0, 5.0]]]])
        >>> sure_classes(logits, torch.zeros(1, 1, 3, dtype=torch.bool), 0.9).tolist()
        [[[0, 255, 1]]]
    """
    probability, index = logits.float().softmax(dim=1).max(dim=1)
    return torch.where((probability >= confidence) & ~outside, index, IGNORE_INDEX).to(torch.uint8)


class ConfidentPixels(Loss):
    """Cross entropy of the pixels that have a class, divided by the number of all pixels.

    So few confident pixels have little weight, as in FixMatch.

    Example:
        >>> logits, target = torch.zeros(1, 2, 1, 4), torch.tensor([[[0, 255, 255, 255]]], dtype=torch.uint8)
        >>> round(ConfidentPixels()(logits, target).item(), 4)  # ln 2 / 4
        0.1733
    """

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """The summed cross entropy, the confident pixels and all pixels: float32 (3,)."""
        total = F.cross_entropy(logits.float(), target.long(), ignore_index=IGNORE_INDEX, reduction="sum")
        return torch.stack([total, (target != IGNORE_INDEX).sum().float(), total.new_tensor(float(target.numel()))])

    def value(self, sums: Tensor) -> Tensor:
        """The mean over all pixels."""
        return ratio(sums[0], sums[2])


def ramp(done: float, share: float) -> float:
    """The factor of the loss: exp(-5 (1 - t)^2), where t goes from 0 to 1 in this share of the fit; 1 after it.

    Args:
        done: Share of the fit that is done, 0 to 1.
        share: Share in which the factor rises; 0 for no rise.

    Example:
        >>> [round(ramp(done, 0.5), 3) for done in (0, 0.25, 0.5, 1)]
        [0.007, 0.287, 1.0, 1.0]
    """
    return math.exp(-5 * (1 - min(1.0, done / share)) ** 2) if share else 1.0


@contextmanager
def kept_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms normalise by the batch, as in training, and do not remember its statistics.

    Crops with holes and changed intensities would shift what is used in evaluation.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    before = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, before, strict=True):
            norm.momentum = momentum
