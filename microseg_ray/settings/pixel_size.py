"""The pixel size as a setting: (y, x) in micrometres, or one number for square pixels."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, PositiveFloat

__all__ = ["PixelSize"]


def _pixel_size(value: Any) -> Any:
    """Accept one number for square pixels, `0.5`, as well as (y, x), `[0.5, 0.52]`."""
    if isinstance(value, int | float | str):
        value = [value]
    if isinstance(value, list | tuple) and len(value) == 1:
        value = [value[0], value[0]]
    return value


PixelSize = Annotated[tuple[PositiveFloat, PositiveFloat] | None, BeforeValidator(_pixel_size)]
