"""Losses of regions: Dice and Tversky from overlaps, Lovasz from the ranking of errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch.nn import functional as F  # noqa: N812 - torch's own name for it

from microseg_ray.fitting.losses.pixels import Loss, labelled_only, precise, ratio
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Lovasz", "Tversky"]


class Tversky(Loss):
    """1 - TP / (TP + alpha FP + beta FN) of the softmax, averaged over the classes that the targets hold.

    Salehi et al. 2017; alpha = beta = .5 is the soft Dice loss (Milletari et al. 2016). A class without a labelled pixel
    has no overlap to speak of and is left out.

    Args:
        false_positives: Alpha, what a false positive costs.
        false_negatives: Beta, what a false negative costs.
        regions: `batch`: overlaps are summed over all images first. `image`: the mean of the images' losses.

    Example:
        >>> dice = Tversky(0.5, 0.5)
        >>> target = torch.tensor([[[0, 1]]])
        >>> dice(torch.zeros(1, 2, 1, 2), target).item()
        0.5
    """

    def __init__(
        self,
        false_positives: float = 0.3,
        false_negatives: float = 0.7,
        regions: Literal["batch", "image"] = "batch",
    ) -> None:
        super().__init__()
        self.false_positives = false_positives
        self.false_negatives = false_negatives
        self.regions = regions

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """Hits, predicted and true pixels of each class (3 K,); or the images' summed losses and their number (2,)."""
        labels = target.long()
        labelled = labels != IGNORE_INDEX
        calm = labelled_only(precise(logits), labels)
        shares = calm.softmax(dim=1) * labelled.unsqueeze(1)
        truth = torch.where(labelled, labels, 0).unsqueeze(1)
        hits_at = shares.gather(1, truth).squeeze(1) * labelled
        classes = logits.shape[1]
        # Counting the hits by class needs no one-hot planes.
        index = torch.where(labelled, labels, classes).flatten(1)
        hits = shares.new_zeros(len(shares), classes + 1).scatter_add(1, index, hits_at.flatten(1))[:, :-1]
        true = shares.new_zeros(len(shares), classes + 1).scatter_add(1, index, labelled.flatten(1).to(shares.dtype))
        table = torch.stack([hits, shares.sum(dim=(2, 3)), true[:, :-1]])
        if self.regions == "batch":
            return table.sum(dim=1).flatten()
        held = (table[2] > 0).any(dim=1)
        each = self._loss(table[0], table[1], table[2])
        return torch.stack([each.sum(), held.sum().to(each.dtype)])

    def value(self, sums: Tensor) -> Tensor:
        """The loss of these overlaps."""
        if self.regions == "batch":
            hits, predicted, true = sums.reshape(3, -1)
            return self._loss(hits, predicted, true)
        return ratio(sums[0], sums[1])

    def _loss(self, hits: Tensor, predicted: Tensor, true: Tensor) -> Tensor:
        """Mean over the last axis, of the classes that are there."""
        present = true > 0
        false = self.false_positives * (predicted - hits) + self.false_negatives * (true - hits)
        index = hits / torch.where(present, hits + false, 1).clamp(min=torch.finfo(hits.dtype).tiny)
        lost = torch.where(present, 1 - index, 0)
        return lost.sum(dim=-1) / present.sum(dim=-1).clamp(min=1)


class Lovasz(Loss):
    """Lovasz-softmax (Berman et al. 2018), a convex stand-in for 1 - IoU; per image, over the classes that it holds.

    Example:
        >>> target = torch.tensor([[[0, 1]]])
        >>> Lovasz()(torch.zeros(1, 2, 1, 2), target).item()
        0.5
    """

    def sums(self, logits: Tensor, target: Tensor) -> Tensor:
        """The images' summed losses, and how many images have a label."""
        shares = labelled_only(precise(logits), target.long()).softmax(dim=1)
        total = shares.new_zeros(())
        images = 0
        for share, labels in zip(shares, target.long(), strict=True):
            known = labels != IGNORE_INDEX
            truth = labels[known]
            present = truth.unique()
            if present.numel() == 0:
                # Keeps the graph whole where nothing is labelled.
                total = total + 0 * share.sum()
                continue
            images += 1
            errors = (share[:, known].T - F.one_hot(truth, share.shape[0])).abs()[:, present]
            belongs = truth.unsqueeze(1) == present
            ranked, order = errors.sort(dim=0, descending=True)
            total = total + (ranked * _jaccard_steps(belongs.gather(0, order))).sum() / present.numel()
        return torch.stack([total, total.new_tensor(float(images))])

    def value(self, sums: Tensor) -> Tensor:
        """The mean over images."""
        return ratio(sums[0], sums[1])


def _jaccard_steps(belongs: Tensor) -> Tensor:
    """How much the Jaccard loss grows with each further wrong pixel (pixels, classes), the worst pixels first."""
    here = belongs.double()
    size = here.sum(dim=0)
    lost = here.cumsum(dim=0)
    jaccard = 1 - (size - lost) / (size + (1 - here).cumsum(dim=0))
    return torch.diff(jaccard, dim=0, prepend=jaccard.new_zeros(1, jaccard.shape[1])).float()
