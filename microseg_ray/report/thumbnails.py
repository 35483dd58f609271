"""Thumbnails of all masks of a run on the disk: sheets of a hundred, beside the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from microseg_ray.errors import MicrosegError, StoreError
from microseg_ray.figures.pictures import class_palette
from microseg_ray.files import whole
from microseg_ray.names import text
from microseg_ray.outputs import Kind, drop
from microseg_ray.runs.folder import OWNER
from microseg_ray.runs.store.glance import glance
from microseg_ray.runs.store.one_shard import read_array
from microseg_ray.runs.store.pyramid import level_shapes
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from microseg_ray.files import Place
    from microseg_ray.runs.folder import Run

__all__ = ["FOLDER", "SIDE", "write_thumbnails"]

FOLDER = "thumbnails"
SIDE = 64
"""Of a thumbnail, in pixels."""
_ROW = 10


def write_thumbnails(run: Run, names: Sequence[str]) -> dict[str, tuple[str, int, int]]:
    """Write RUN/thumbnails/000.png, 001.png, ...: every mask in the colours of its classes, each pixel one of its coarsest level.

    Older sheets are removed. A hundred thumbnails are in memory at a time.

    Args:
        run: The run.
        names: Its finished micrographs.

    Returns:
        By name as shown: sheet (a path below the run), x and y of the thumbnail's corner in it. A mask that cannot be read
        has none.
    """
    drop(run.folder, OWNER, [FOLDER])
    size, palette = _ROW * _ROW, class_palette(run.classes)
    sheets = [f"{FOLDER}/{number:03}.png" for number in range(-(-len(names) // size))]
    run.claim(dict.fromkeys(sheets, Kind.FILE))
    found: dict[str, tuple[str, int, int]] = {}
    for number, sheet in enumerate(sheets):
        own = names[number * size : (number + 1) * size]
        pixels = np.full((-(-len(own) // _ROW) * SIDE, _ROW * SIDE), IGNORE_INDEX, np.uint8)
        for place, name in enumerate(own):
            y, x = place // _ROW * SIDE, place % _ROW * SIDE
            try:
                small = _small(run.store_path(name))
            except (MicrosegError, OSError, ValueError, RuntimeError):
                # The table has it, its mask is gone or damaged: `verify` says how.
                continue
            pixels[y : y + small.shape[0], x : x + small.shape[1]] = small
            found[text(name)] = (sheet, x, y)
        image = Image.fromarray(pixels)
        image.putpalette(palette.tobytes())
        with whole(run.folder / sheet, durable=False) as partial:
            # What is no mask shows the page.
            image.save(partial, format="PNG", transparency=IGNORE_INDEX)
    return found


def _small(path: Place) -> NDArray[np.uint8]:
    """Every n-th pixel of the coarsest level of a mask, its longer side at most `SIDE`."""
    found = glance(path)
    if not found.finished:
        raise StoreError(f"{path}: not finished")
    level = len(level_shapes(found.shape)) - 1
    mask = read_array(path / str(level))
    step = -(-max(mask.shape) // SIDE)
    return mask[step // 2 :: step, step // 2 :: step]
