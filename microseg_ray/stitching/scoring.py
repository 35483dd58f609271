"""What the engine asks of a model: classes and scores of a batch of tiles, as it is or averaged over symmetries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

from microseg_ray.symmetry import SYMMETRIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Judged", "Predictor", "judged", "symmetric_scores"]

Limits = tuple[float, float]

_ORDER = (0, 4, 1, 7, 2, 6, 3, 5)
"""Of the sum over symmetries, which is part of the bytes of a mask; the pixels as they are come first."""


class Predictor(Protocol):
    """What the engine asks of a model; `models.predictor.Predictor` is one.

    It may have a `masks_and_scores`, for both from one forward pass. An ensemble has `members`, their number, and `members_too`.
    """

    classes: int

    def masks(self, batch: NDArray[Any], limits: Limits) -> NDArray[np.uint8]:
        """Class indices (n, y, x) uint8 of tiles (n, channel, y, x) in the source's dtype."""

    def scores(self, batch: NDArray[Any], limits: Limits) -> NDArray[np.float32]:
        """Probabilities (n, class, y, x) float32 of the same."""


class Judged(NamedTuple):
    """What a model says of a batch.

    Attributes:
        masks: (n, y, x) uint8; None where not asked for.
        scores: (n, class, y, x) float32; None where not asked for.
        members: (n, member, y, x) uint8 by each member of an ensemble; None of a single model.
    """

    masks: NDArray[np.uint8] | None
    scores: NDArray[np.float32] | None
    members: NDArray[np.uint8] | None


def judged(
    predictor: Predictor, batch: NDArray[Any], limits: Limits, *, masks: bool = True, scores: bool = False
) -> Judged:
    """Classes, probabilities, and classes by each member of an ensemble, in one forward pass where the predictor has one.

    Args:
        predictor: The model.
        batch: (n, channel, y, x) in the source's dtype.
        limits: Intensities (low, high) of the micrograph's scaling.
        masks: Classes are wanted.
        scores: Probabilities are wanted.
    """
    if getattr(predictor, "members", 0):
        ensemble: Any = predictor
        both = ensemble.members_too(batch, limits, scores=scores)
        return Judged(both.masks, both.scores, both.members)
    if not masks:
        return Judged(None, predictor.scores(batch, limits), None)
    if not scores:
        return Judged(predictor.masks(batch, limits), None, None)
    one_pass = getattr(predictor, "masks_and_scores", None)
    if one_pass is None:
        return Judged(predictor.masks(batch, limits), predictor.scores(batch, limits), None)
    chosen, found = one_pass(batch, limits)
    return Judged(chosen, found, None)


def symmetric_scores(
    predictor: Predictor,
    batch: NDArray[Any],
    limits: Limits,
    seen: Callable[[int, NDArray[np.float32], NDArray[np.uint8] | None], None] | None = None,
) -> NDArray[np.float32]:
    """The mean of the scores over the 8 symmetries of the square, each turned back.

    Args:
        predictor: The model.
        batch: (n, channel, y, x) in the source's dtype.
        limits: Intensities (low, high) of the micrograph's scaling.
        seen: Called with the number of each symmetry and its scores, turned back, and with the classes by each member of an
            ensemble in the pixels as they are.
    """
    total = np.zeros((len(batch), predictor.classes, *batch.shape[-2:]), np.float32)
    for number in _ORDER:
        symmetry = SYMMETRIES[number]
        scores, members = _scored(predictor, np.ascontiguousarray(symmetry.apply(batch)), limits, first=not number)
        scores = symmetry.inverse.apply(scores)
        total += scores
        if seen is not None:
            seen(number, scores, members)
        del scores, members
    total /= np.float32(8)
    return total


def _scored(
    predictor: Predictor, batch: NDArray[Any], limits: Limits, *, first: bool
) -> tuple[NDArray[np.float32], NDArray[np.uint8] | None]:
    """Scores, and of the first symmetry the classes by each member of an ensemble."""
    if not first:
        return predictor.scores(batch, limits), None
    _, scores, members = judged(predictor, batch, limits, masks=False, scores=True)
    return scores, members  # type: ignore[return-value]
