"""How far the area fractions of several predictions differ: checkpoints of an ensemble, symmetries of test-time augmentation.

Each checkpoint finds a fraction of its own, because training starts from random weights and sees tiles in random order. Each
symmetry finds one, because no network is exactly symmetric. The mask is made from the mean of all m. With s the standard
deviation of their fractions, the standard error of that mean is s / sqrt(m), with m - 1 degrees of freedom (Lakshminarayanan,
Pritzel and Blundell, NeurIPS 2017, for ensembles; Wang et al., Neurocomputing 338:34, 2019, for test-time augmentation, whose
volume variation coefficient is s divided by the mean). It holds what training, or the orientation, decides by chance. What all
of them do wrong alike is not in it: that is found on test micrographs only (`model_error`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.statistics.counts import SPREADS
from microseg_ray.statistics.estimates import Estimate
from microseg_ray.statistics.sampling import bounded_interval

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from microseg_ray.statistics.counts import SpreadKind
    from microseg_ray.statistics.fields import Field
    from microseg_ray.statistics.model_error import Method

__all__ = ["kinds_of", "spread_between", "spread_of"]

_WORDS: dict[SpreadKind, str] = {"ensemble": "checkpoints", "tta": "symmetries"}


def kinds_of(members: Sequence[Field]) -> list[SpreadKind]:
    """What was counted of some micrographs by each of several predictions."""
    return [kind for kind in SPREADS if any(kind in member.spreads for member in members)]


def spread_of(value: float, shares: NDArray[np.float64], words: str = "predictions") -> Estimate:
    """An area fraction with the variance that the spread of several predictions gives.

    Args:
        value: The fraction of the mask that all of them give together.
        shares: (m,) the fraction of each by itself.
        words: What they are, for the reason.

    Example:
        >>> found = spread_of(0.2, np.array([0.18, 0.20, 0.22]))
        >>> round(found.variance**0.5, 4), found.degrees_of_freedom  # 0.02 / sqrt(3)
        (0.0115, 2)
        >>> spread_of(0.1, np.array([0.18, 0.20, 0.22])).reason
        'the mean of the 3 predictions by themselves, 0.2, is outside this interval: the joint mask is not their middle'
    """
    count = len(shares)
    if not shares.any() or (shares == 1).all():
        return Estimate(value, 0.0, count - 1, f"all {count} {words} find the same: {shares[0]:g}")
    variance = float(shares.var(ddof=1)) / count
    interval, mean = bounded_interval(value, variance, count - 1), float(shares.mean())
    outside = interval is not None and not interval.low <= mean <= interval.high
    said = f"the mean of the {count} {words} by themselves, {mean:.4g}, is outside this interval"
    reason = f"{said}: the joint mask is not their middle"
    return Estimate(value, variance, count - 1, reason if outside else "")


def spread_between(members: Sequence[Field], kind: SpreadKind, index: int, method: Method | None = None) -> Estimate:
    """The pooled fraction of some micrographs with the spread of the predictions that their masks come from.

    The same checkpoints see all micrographs, so their pixels are added up for each checkpoint first: what one of them finds too
    much of in one micrograph it is likely to find too much of in the next.

    Args:
        members: The micrographs.
        kind: Which predictions.
        index: The class.
        method: Of the fractions corrected by this method; None: as predicted.
    """
    known = [member for member in members if member.measured]
    if not known:
        return Estimate(math.nan, reason="nothing was measured")
    total = sum(member.measured for member in known)

    def fraction(shares: NDArray[np.float64], member: Field) -> NDArray[np.float64]:
        return shares if method is None else member.corrections[method].corrected(shares)

    value = sum(float(fraction(member.fractions, member)[index]) * member.measured for member in known) / total
    without = sum(kind not in member.spreads for member in known)
    if without:
        return Estimate(
            value,
            reason=f"{without} of {len(known)} micrographs have no counts by each of the {_WORDS[kind]}: segment them again",
        )
    shares = sum(
        fraction(member.spreads[kind] / member.measured, member)[:, index] * member.measured for member in known
    )
    return spread_of(value, np.asarray(shares) / total, _WORDS[kind])
