"""How micrographs are opened: what no file can say for itself, or says wrongly."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from microseg_ray.settings.values import Frozen, PixelSize

__all__ = ["SourceSettings"]


class SourceSettings(Frozen):
    """Which part of a file is the micrograph.

    `page` is the image of a file that holds several; `channel` picks one channel of a file that holds several (auto: gray
    and RGB as they are). `info_bar` is the burned-in strip at the bottom: auto finds it, none takes every row as
    specimen, a number gives its height in px.

    The pixel size is `pixel_size_um` where it is given, else that of the first line of `pixel_sizes` (a CSV with the columns
    pattern, um_per_pixel) whose pattern fits the micrograph's name, else what the file says.

    Example:
        >>> SourceSettings().info_bar
        'auto'
    """

    page: int = Field(default=0, ge=0)
    channel: int | Literal["auto"] = "auto"
    info_bar: Annotated[int, Field(ge=0)] | Literal["auto", "none"] = "auto"
    pixel_size_um: PixelSize = None
    pixel_sizes: str | None = Field(default=None, description="CSV: pattern, um_per_pixel")
