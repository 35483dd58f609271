"""Which of many places to label next: a greedy choice that is uncertain, rare and diverse. Pure functions of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

__all__ = ["Candidates", "choose", "rarity", "scores_of"]


@dataclass(frozen=True, eq=False)
class Candidates:
    """Places to choose from.

    Attributes:
        scores: (n,) float64, not negative: how much is expected of a place by itself.
        micrographs: (n,) int64: which micrograph it lies in.
        features: (n, d) float64: what it looks like, in units in which a distance of 1 is a visible difference.
    """

    scores: NDArray[np.float64]
    micrographs: NDArray[np.int64]
    features: NDArray[np.float64]


def choose(found: Candidates, count: int, labelled: Collection[int] = ()) -> tuple[list[int], list[float]]:
    """Choose places one after another, each the best beside those chosen before.

    The value of a place i is `score_i * (1 - max_j similarity(i, j))` over the places j that were chosen, with `similarity =
    (exp(-|f_i - f_j|^2 / 2) + same_ij) / 2` and `same_ij = 1` in one micrograph, else 0. This is the greedy rule of maximal
    marginal relevance (Carbonell and Goldstein 1998) with a product in place of a difference, so that it has no weight to set.
    Equal values: the first place is taken. The cost is count * n, the memory n.

    Args:
        found: The places.
        count: How many are wanted.
        labelled: Micrographs with labels already: they count as if a place of another look was chosen there.

    Returns:
        Indices of the chosen places in their order, and the value of each when it was chosen.

    Example:
        >>> look = np.array([[0.0], [0.1], [3.0]])
        >>> choose(Candidates(np.array([1.0, 0.9, 0.6]), np.array([0, 1, 2]), look), 2)[0]
        [0, 2]
    """
    near = np.where(np.isin(found.micrographs, list(labelled)), 0.5, 0.0)
    free = np.ones(len(found.scores), bool)
    chosen: list[int] = []
    values: list[float] = []
    for _ in range(min(count, len(found.scores))):
        value = np.where(free, found.scores * (1 - near), -np.inf)
        best = int(np.argmax(value))
        chosen.append(best)
        values.append(float(value[best]))
        free[best] = False
        away = ((found.features - found.features[best]) ** 2).sum(axis=1)
        same = found.micrographs == found.micrographs[best]
        near = np.maximum(near, (np.exp(-away / 2) + same) / 2)
    return chosen, values


def rarity(fractions: NDArray[np.float64]) -> NDArray[np.float64]:
    """How rare each class of a run is: its surprisal `-log(fraction)`, as a share of that of the rarest class.

    Args:
        fractions: (k,) area fractions of the run, not negative.

    Returns:
        (k,) in [0, 1]. A class that was found nowhere counts as the rarest one; all 0 where there is one class only.

    Example:
        >>> rarity(np.array([0.9, 0.09, 0.01])).round(2).tolist()
        [0.02, 0.52, 1.0]
    """
    present = fractions > 0
    if not present.any():
        return np.zeros(len(fractions))
    surprise = -np.log(np.where(present, fractions, fractions[present].min()))
    most = float(surprise.max())
    found: NDArray[np.float64] = surprise / most if most > 0 else np.zeros(len(fractions))
    return found


def scores_of(
    doubt: NDArray[np.float64], shares: NDArray[np.float64], rare: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The score of each place: its doubt, up to twice as much where its classes are rare.

    Args:
        doubt: (n,) mean doubt of the pixels, in [0, 1].
        shares: (n, k) share of each class in the place.
        rare: (k,) of `rarity`.

    Example:
        >>> scores_of(np.array([0.5, 0.5]), np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([0.0, 1.0])).tolist()
        [0.5, 1.0]
    """
    return doubt * (1 + shares @ rare)
