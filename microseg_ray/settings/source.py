"""How micrographs are opened: what no file can say for itself, or says wrongly."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from microseg_ray.settings.base import Frozen, unwrap_single
from microseg_ray.settings.pixel_size import PixelSize

__all__ = ["READ_TIMEOUT", "SourceSettings"]

READ_TIMEOUT = 300.0
"""Seconds: longer than the decoding of 8 GiB takes, shorter than the time-out of a shard."""

_CHANGE_NO_PIXEL = (
    "read_timeout", "max_pixels", "max_decoded_gib", "max_chunk_gib", "max_metadata_mib", "min_chunk_pixels"
)  # fmt: skip


class SourceSettings(Frozen):
    """Which part of a file is the micrograph.

    `page` is the image of a file that holds several; `channel` picks one channel of a file that holds several (auto: gray
    and RGB as they are). `info_bar` is the burned-in strip at the bottom: auto finds it, none takes every row as
    specimen, a number gives its height in px. `columns` leaves columns out: the right half of a detector, or
    [first, after the last]; places in masks and tables then count from the first column that is read.

    The pixel size is `pixel_size_um` where it is given, else that of the first line of `pixel_sizes` (a CSV with the columns
    pattern, um_per_pixel) whose pattern fits the micrograph's name, else what the file says.

    The fields `max_...` and `min_...` are limits on what one file may claim before it is set aside. They change no pixel.

    Example:
        >>> SourceSettings().info_bar
        'auto'
        >>> SourceSettings(columns="right_half").model_dump()["columns"], "columns" in SourceSettings().model_dump()
        ('right_half', False)
    """

    page: int = Field(default=0, ge=0)
    channel: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    info_bar: Annotated[int, Field(ge=0)] | Literal["auto", "none"] = "auto"
    columns: Annotated[
        Literal["all", "left_half", "right_half"] | tuple[int, int],
        BeforeValidator(unwrap_single),
        Field(description="the columns that are read: all, left_half, right_half, or [first, after the last]"),
    ] = "all"
    pixel_size_um: PixelSize = None
    pixel_sizes: str | None = Field(default=None, description="CSV: pattern, um_per_pixel")
    read_timeout: float = Field(
        default=READ_TIMEOUT,
        gt=0,
        le=1e6,
        description="seconds after which a file that does not answer (a dead mount, a server that stops) is set aside",
    )
    max_pixels: int = Field(
        default=1 << 38, ge=1, le=1 << 50, description="pixels that a file's header may claim (a square of 524 288)"
    )
    max_decoded_gib: float = Field(
        default=8.0, gt=0, le=1 << 20, description="GiB of an image of a format that can only be decoded whole"
    )
    max_chunk_gib: float = Field(
        default=1.0, gt=0, le=1 << 10, description="GiB of one tile, strip or chunk of a file that is read by region"
    )
    max_metadata_mib: float = Field(
        default=64.0, gt=0, le=1 << 20, description="MiB of one entry of metadata: a TIFF tag, a PNG chunk"
    )
    min_chunk_pixels: int = Field(
        default=1024,
        ge=1,
        le=1 << 30,
        description="pixels of a zarr chunk, where an array has more than 65 536 of them",
    )

    @model_validator(mode="after")
    def _columns_rise(self) -> Self:
        if isinstance(self.columns, tuple) and not 0 <= self.columns[0] < self.columns[1]:
            raise ValueError(f"source.columns {list(self.columns)}: give [first, after the last], as in [1024, 2048]")
        return self

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs and tile stores are bound to this: what is not used must not change what they are bound to.
        values: dict[str, Any] = handler(self)
        for name in _CHANGE_NO_PIXEL:
            values.pop(name, None)
        return {key: value for key, value in values.items() if key != "columns" or value != "all"}
