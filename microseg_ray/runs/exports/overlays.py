"""A micrograph of a run in the colours of its classes, as a picture for people: PNG and PDF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from microseg_ray.figures import Pane, compose_panel, thumbnail, tinted
from microseg_ray.figures.pictures import class_palette, stretched
from microseg_ray.figures.sheets import Sheet, save_pdf
from microseg_ray.names import text
from microseg_ray.runs.opening import open_of_run, require_unchanged

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.statistics.areas import Measured

__all__ = ["Overlay", "overlay_of"]


@dataclass(frozen=True, eq=False)
class Overlay:
    """A micrograph with its mask over it.

    Attributes:
        name: Of the micrograph, as it is shown.
        pixels: uint8 (y, x, 3), the micrograph in the colours of its classes.
        store: The mask.
        pixel_size_um: (y, x) of these pixels, or None.
    """

    name: str
    pixels: NDArray[np.uint8]
    store: MaskStore
    pixel_size_um: tuple[float, float] | None

    def save_png(self, path: Path) -> None:
        """Write it with legend and scale bar."""
        size = None if self.pixel_size_um is None else self.pixel_size_um[1]
        compose_panel([Pane(self.name, self.pixels)], self.store.spec.classes, size).save(path, format="PNG")

    def save_pdf(self, path: Path) -> None:
        """Write a page with legend and scale bar."""
        save_pdf(path, Sheet(self.name, self.pixels, self.store.spec.classes, self.pixel_size_um))


def overlay_of(run: Run, store: MaskStore, measured: Measured, side: int) -> Overlay:
    """Read a micrograph and its mask, downsampled as they are read.

    Args:
        run: The run.
        store: The finished mask.
        measured: Name and pixel size.
        side: Longer side of the picture in pixels, at most.

    Raises:
        InputError: The file is missing, or another than the one that was segmented.
    """
    shape = store.spec.shape
    require_unchanged(run, measured.micrograph, store)
    with open_of_run(run, measured.micrograph, store) as micrograph:
        image = thumbnail(micrograph.read, shape, side)
    mask = thumbnail(lambda box: store.read(box)[None], shape, side, labels=True)[0]
    gray = stretched(image[:3] if len(image) >= 3 else image[:1])
    step = -(-max(shape) // side)
    size = measured.pixel_size_um
    return Overlay(
        text(measured.micrograph),
        tinted(gray, mask, class_palette(store.spec.classes)),
        store,
        None if size is None else (size[0] * step, size[1] * step),
    )
