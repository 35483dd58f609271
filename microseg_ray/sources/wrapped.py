"""The base of readers that change what another reader gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from microseg_ray.sources.base import Pixels
    from microseg_ray.sources.choices import Parts
    from microseg_ray.sources.info import Format
    from microseg_ray.sources.scale.pixel_size import PixelSize
    from microseg_ray.sources.scale.statement import StatedBar

__all__ = ["Wrapped"]


class Wrapped:
    """Everything that another reader states; a subclass adds `read` and states what it changes.

    Args:
        pixels: What it reads from, and closes.
    """

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        self.format: Format = pixels.format
        self.shape: tuple[int, int] = pixels.shape
        self.channels: int = pixels.channels
        self.dtype: np.dtype[Any] = pixels.dtype
        self.lazy: bool = pixels.lazy
        self.decoded_bytes: int = pixels.decoded_bytes
        self.pixel_size: PixelSize | None = pixels.pixel_size
        self.parts: Parts = pixels.parts
        # Only some formats state these.
        self.stated_bar: StatedBar | None = getattr(pixels, "stated_bar", None)
        self.size_notes: tuple[str, ...] = getattr(pixels, "size_notes", ())
        self.bits: int | None = getattr(pixels, "bits", None)
        self.notes: tuple[str, ...] = getattr(pixels, "notes", ())

    def close(self) -> None:
        """Release file handles and memory; twice is fine."""
        self._pixels.close()
