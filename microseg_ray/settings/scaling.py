"""How intensities become the numbers that a model sees."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from microseg_ray.settings.base import Frozen

__all__ = ["Scaling"]


class Scaling(Frozen):
    """How intensities become the numbers that a model sees: (value - low) / (high - low), never per tile.

    `dtype`: low and high are the range of the integer type (0 and 1 for floats). `fixed`: `low` and `high` are
    intensities. `percentile`: `low` and `high` are percentiles of each whole micrograph, from a regular subsample.

    Before that, `flat_field` takes the uneven illumination of the whole micrograph away: `divide` for one that
    multiplies (a lamp, a detector's sensitivity), `subtract` for one that adds (stray light). After it, `clahe`
    equalises the histogram of each tile by itself, with this clip limit; that depends on the tile, so stitched masks
    can show where tiles meet.

    Example:
        >>> Scaling(kind="percentile", low=1.0, high=99.0).kind
        'percentile'
        >>> Scaling().model_dump(), Scaling(flat_field="divide").model_dump()["flat_field"]
        ({'kind': 'dtype', 'low': None, 'high': None}, 'divide')
    """

    kind: Literal["dtype", "fixed", "percentile"] = "dtype"
    low: float | None = None
    high: float | None = None
    flat_field: Literal["none", "divide", "subtract"] = "none"
    clahe: float | None = Field(
        default=None, gt=0, le=1, description="clip limit; depends on the tile, so seams can show"
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Digests of tile stores and checkpoints are taken over this: a step that is not used must not change them.
        values: dict[str, Any] = handler(self)
        unused = {"flat_field": "none", "clahe": None}
        return {key: value for key, value in values.items() if key not in unused or value != unused[key]}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "dtype":
            if self.low is not None or self.high is not None:
                raise ValueError("scaling.low and scaling.high go with kind fixed or percentile, not with dtype")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"scaling.kind {self.kind} needs scaling.low < scaling.high")
        if self.kind == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise ValueError("scaling.low and scaling.high are percentiles here: 0 to 100")
        return self
