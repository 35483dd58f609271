"""An overlay as a page of a document: PDF with legend, scale bar and text as vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from microseg_ray.figures.pictures import class_palette, length_text, scale_bar_um
from microseg_ray.figures.plots import new_figure

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec

__all__ = ["Sheet", "save_pdf"]

_WIDTH = 7.0  # inches
_LEGEND = 32


@dataclass(frozen=True, eq=False)
class Sheet:
    """What is on a page.

    Attributes:
        title: Text above the picture.
        pixels: uint8 (y, x, 3).
        classes: The legend.
        pixel_size_um: (y, x) of a pixel of the picture; None: no scale bar.
    """

    title: str
    pixels: NDArray[np.uint8]
    classes: tuple[ClassSpec, ...]
    pixel_size_um: tuple[float, float] | None


def save_pdf(path: Path, sheet: Sheet) -> None:
    """Write one page; equal sheets give equal bytes.

    Args:
        path: Target.
        sheet: What is on it. Pixels that are not square are shown in their true shape.

    Example:
        >>> import numpy as np, pathlib, tempfile
        >>> from microseg_ray.settings import ClassSpec
        >>> sheet = Sheet("a.tif", np.zeros((40, 60, 3), np.uint8), (ClassSpec(name="pore"),), (0.5, 0.5))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_pdf(pathlib.Path(folder, "a.pdf"), sheet)
        ...     pathlib.Path(folder, "a.pdf").read_bytes()[:5]
        b'%PDF-'
    """
    from matplotlib.patches import Patch, Rectangle

    height, width = sheet.pixels.shape[:2]
    size = sheet.pixel_size_um
    aspect = 1.0 if size is None else size[0] / size[1]
    figure = new_figure(_WIDTH, max(2.0, min(10.0, _WIDTH * height * aspect / width + 1.2)))
    axes = figure.add_subplot()
    axes.imshow(sheet.pixels, aspect=aspect, interpolation="nearest")
    axes.set_axis_off()
    # A name with dollar signs is no formula.
    axes.set_title(sheet.title, fontsize=9, loc="left", parse_math=False)
    if size is not None:
        length = scale_bar_um(width, size[1])
        across, high = length / size[1], max(1.0, 0.012 * height)
        left, top = 0.03 * width, 0.95 * height
        axes.add_patch(Rectangle((left, top), across, high, facecolor="white", edgecolor="black", linewidth=0.6))
        axes.text(
            left + across / 2,
            top - 0.01 * height,
            length_text(length),
            ha="center",
            va="bottom",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    palette = class_palette(sheet.classes) / 255
    shown = sheet.classes[:_LEGEND]
    handles = [Patch(facecolor=palette[index], edgecolor="0.3", label=spec.name) for index, spec in enumerate(shown)]
    if len(sheet.classes) > len(shown):
        handles.append(Patch(facecolor="none", label=f"and {len(sheet.classes) - len(shown)} more"))
    handles.append(Patch(facecolor=palette[255], edgecolor="0.3", label="not measured"))
    legend = figure.legend(handles=handles, loc="outside lower left", ncols=4, fontsize=8, frameon=False)
    for entry in legend.get_texts():
        entry.set_parse_math(False)
    figure.savefig(path, format="pdf", dpi=300, metadata={"CreationDate": None, "Producer": None, "Creator": None})
