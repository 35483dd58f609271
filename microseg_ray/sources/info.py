"""MicrographInfo: what is known of a micrograph before a pixel is read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from microseg_ray.geometry import Box
from microseg_ray.sources.choices import Parts

__all__ = ["Format", "MicrographInfo"]

Format = Literal[
    "tiff", "png", "jpeg", "bmp", "jpeg2000", "webp", "zarr", "fits", "dm3", "dm4", "emd", "ser", "mrc", "czi", "nd2"
]  # fmt: skip


@dataclass(frozen=True)
class MicrographInfo:
    """What is known of a micrograph before a pixel is read.

    Attributes:
        path: The file or zarr folder, as it was given; a path or a URL.
        format: One of `Format`.
        shape: (height, width) in pixels.
        channels: 1 for gray, also where the file stores it as RGB(A) with equal channels; 3 for colour.
        dtype: "uint8", "int16", "uint16", "uint32" or "float32".
        pixel_size_um: (y, x) in micrometres, or None where the file does not say.
        pixel_size_source: Which entry of the file says so; "" where none does.
        lazy: Whether reading a region decodes only what the region needs.
        decoded_bytes: Bytes that an open handle may hold (not lazy) or that one tile, strip or chunk takes (lazy).
        parts: Pages and channels of the file, and which of them this is.
        pixel_size_notes: Where two sources of the pixel size or of the info bar disagree, one sentence each.
        info_bar_rows: Rows from the upper edge of the burned-in strip to the bottom; 0 where there is none.
        info_bar_source: How the strip is known: "option info_bar", an entry of the file, "pixels"; "" where there is none.
        file_shape: (height, width) in the file, where the micrograph was rescaled; else None.
        bits: Significant bits of a sample, where the file states fewer than the dtype has; else None.
        notes: What else is to be known of how the file was read, one sentence each: pages that are not taken, say.

    Example:
        >>> info = MicrographInfo("a.png", "png", (2, 3), 1, "uint8", None, "", lazy=False, decoded_bytes=6)
        >>> info.pixels
        6
    """

    path: str
    format: Format
    shape: tuple[int, int]
    channels: int
    dtype: str
    pixel_size_um: tuple[float, float] | None
    pixel_size_source: str
    lazy: bool
    decoded_bytes: int
    parts: Parts = field(default_factory=Parts)
    pixel_size_notes: tuple[str, ...] = ()
    info_bar_rows: int = 0
    info_bar_source: str = ""
    file_shape: tuple[int, int] | None = None
    bits: int | None = None
    notes: tuple[str, ...] = ()

    @property
    def pixels(self) -> int:
        """Pixels of the whole micrograph."""
        return self.shape[0] * self.shape[1]

    @property
    def specimen(self) -> Box:
        """The rows above the info bar: what may be learnt from and measured."""
        return Box(0, 0, self.shape[0] - self.info_bar_rows, self.shape[1])
