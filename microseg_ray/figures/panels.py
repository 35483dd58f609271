"""Panels: image, label, prediction and error of one micrograph side by side, with a legend and a scale bar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.figures.pictures import class_palette, length_text, scale_bar_um
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from PIL import Image, ImageDraw, ImageFont

    from microseg_ray.settings import ClassSpec

__all__ = ["Pane", "compose_panel", "error_colors"]

_GAP, _TEXT = 8, 14  # px
_INK, _PAPER = (32, 32, 32), (255, 255, 255)
_WRONG, _UNKNOWN = (198, 30, 30), (185, 185, 196)
_RIGHT = (238, 240, 238)


@dataclass(frozen=True, eq=False)
class Pane:
    """One image of a panel.

    Attributes:
        title: Text above the image.
        pixels: uint8 (y, x, 3).
    """

    title: str
    pixels: NDArray[np.uint8]


def error_colors(wrong: NDArray[np.floating], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Error map as colours: pale where all pixels are right, red where all are wrong, gray without a label.

    Args:
        wrong: (y, x) share of wrong micrograph pixels, 0 to 1, in each pixel of the image.
        known: (y, x) whether there is a label.

    Returns:
        uint8 (y, x, 3).

    Example:
        >>> error_colors(np.array([[0.0, 1.0]]), np.array([[True, True]])).tolist()
        [[[238, 240, 238], [198, 30, 30]]]
    """
    share = np.clip(wrong, 0, 1)[..., None]
    blended = np.array(_RIGHT) * (1 - share) + np.array(_WRONG) * share
    return np.where(known[..., None], np.rint(blended), np.array(_UNKNOWN)).astype(np.uint8)


def compose_panel(
    panes: Sequence[Pane], classes: tuple[ClassSpec, ...], pixel_size_um: float | None = None, caption: str = ""
) -> Image.Image:
    """Panes side by side in one image.

    Args:
        panes: At least one, all of the same height and width.
        classes: Entries of the legend below; at most the first 32.
        pixel_size_um: Pixel width of the panes in micrometres, for the scale bar on the first pane; None for no scale bar.
        caption: Text line at the bottom.

    Returns:
        An RGB image.

    Raises:
        ValueError: No pane, or panes of different sizes.

    Example:
        >>> from microseg_ray.settings import ClassSpec
        >>> pane = Pane("image", np.zeros((40, 300, 3), np.uint8))
        >>> compose_panel([pane, pane], (ClassSpec(name="pore"),), pixel_size_um=0.5).width
        624
    """
    from PIL import Image, ImageDraw

    if not panes or len({pane.pixels.shape for pane in panes}) != 1:
        raise ValueError("a panel takes panes of one size, at least one")
    font = _font()
    height, width = panes[0].pixels.shape[:2]
    across = len(panes) * width + (len(panes) + 1) * _GAP
    rows = _legend_rows(classes, across, font)
    line = _TEXT + 6
    below = (len(rows) + bool(caption)) * line
    sheet = Image.new("RGB", (across, height + 2 * _GAP + line + below), _PAPER)
    draw = ImageDraw.Draw(sheet)
    for number, pane in enumerate(panes):
        left = _GAP + number * (width + _GAP)
        draw.text((left, 2), pane.title, fill=_INK, font=font)
        sheet.paste(Image.fromarray(pane.pixels), (left, line))
    if pixel_size_um is not None:
        _scale_bar(draw, (_GAP, line + height), (height, width), pixel_size_um, font)
    top = line + height + _GAP
    palette = class_palette(classes)
    for number, row in enumerate(rows):
        left = _GAP
        for index, name in row:
            y = top + number * line
            color = palette[index] if index >= 0 else np.array(_UNKNOWN)
            draw.rectangle((left, y + 2, left + 12, y + 14), fill=tuple(int(part) for part in color), outline=_INK)
            draw.text((left + 18, y), name, fill=_INK, font=font)
            left += _entry_width(name, font)
    if caption:
        draw.text((_GAP, top + len(rows) * line), caption, fill=_INK, font=font)
    return sheet


def _font() -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    import matplotlib as mpl
    from PIL import ImageFont

    # Pillow's own font has no µ, so that scale bars said "20 □m".
    # Not raqm, which fails on names that are not UTF-8.
    path = f"{mpl.get_data_path()}/fonts/ttf/DejaVuSans.ttf"
    return ImageFont.truetype(path, size=_TEXT, layout_engine=ImageFont.Layout.BASIC)


def _entry_width(name: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> int:
    return int(font.getlength(name)) + 36


def _legend_rows(
    classes: tuple[ClassSpec, ...], across: int, font: ImageFont.ImageFont | ImageFont.FreeTypeFont
) -> list[list[tuple[int, str]]]:
    """Legend entries (class index, name) by line; -1 is for pixels without a label."""
    entries = [(index, spec.name) for index, spec in enumerate(classes[:32])]
    if len(classes) > len(entries):
        entries.append((IGNORE_INDEX, f"and {len(classes) - len(entries)} more"))
    entries.append((-1, "no label"))
    rows: list[list[tuple[int, str]]] = [[]]
    left = _GAP
    for entry in entries:
        needed = _entry_width(entry[1], font)
        if rows[-1] and left + needed > across:
            rows.append([])
            left = _GAP
        rows[-1].append(entry)
        left += needed
    return rows


def _scale_bar(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    shape: tuple[int, int],
    pixel_size_um: float,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    """White on black at the lower left, so that it is visible on any micrograph."""
    length = scale_bar_um(shape[1], pixel_size_um)
    pixels = max(1, round(length / pixel_size_um))
    text = length_text(length)
    left, bottom = corner[0] + 6, corner[1] - 6
    wide = max(pixels, int(font.getlength(text)))
    draw.rectangle((left - 4, bottom - 26, left + wide + 4, bottom + 3), fill=(0, 0, 0))
    draw.text((left, bottom - 25), text, fill=_PAPER, font=font)
    draw.rectangle((left, bottom - 4, left + pixels - 1, bottom), fill=_PAPER)
