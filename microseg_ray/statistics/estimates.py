"""A number with its variance, and what becomes of variances of independent errors."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["Estimate"]


@dataclass(frozen=True)
class Estimate:
    """A number with its variance.

    Attributes:
        value: The estimate.
        variance: Of it; nan where it is not known.
        degrees_of_freedom: Of the variance.
        reason: Why there is no variance, or why it is not to be trusted; empty otherwise.
    """

    value: float
    variance: float = math.nan
    degrees_of_freedom: float = math.nan
    reason: str = ""

    def plus(self, other: Estimate) -> Estimate:
        """This one with the variance of an independent error added (Welch and Satterthwaite for the degrees of freedom).

        Example:
            >>> found = Estimate(0.5, 0.01, 4).plus(Estimate(0.0, 0.01, 4))
            >>> found.variance, found.degrees_of_freedom
            (0.02, 8.0)
        """
        variance = self.variance + other.variance
        parts = [(each.variance, each.degrees_of_freedom) for each in (self, other)]
        below = sum(part**2 / freedom for part, freedom in parts if part > 0)
        freedom = variance**2 / below if below > 0 else self.degrees_of_freedom
        reason = "; ".join(dict.fromkeys(each.reason for each in (self, other) if each.reason))
        return Estimate(self.value, variance, freedom, reason)
