"""The object under the mouse: its row of objects.parquet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.names import text
from microseg_ray.tables import numbers, rows_where

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from microseg_ray.files import Place

__all__ = ["ObjectRows", "object_at", "read_objects"]

_WINDOW = 1 << 24
"""Pixels of an object's box, at most: a larger one is not labelled while the mouse moves."""

_HIDDEN = frozenset({"micrograph", "model_digest", "pixel_size_source", "pixel_size_um_y", "pixel_size_um_x"})


@dataclass(frozen=True, eq=False)
class ObjectRows:
    """The objects of one micrograph.

    Attributes:
        table: Their rows, an Arrow table.
        classes: (n,) class indices.
        boxes: (n, 4) int64, y0, x0, y1, x1.
        pixels: (n,) pixel counts.
    """

    table: Any
    classes: NDArray[np.int64]
    boxes: NDArray[np.int64]
    pixels: NDArray[np.int64]


def read_objects(folder: Place, name: str) -> ObjectRows | None:
    """The objects of a micrograph; None where `microseg measure` did not measure objects.

    Args:
        folder: The run folder.
        name: The micrograph.
    """
    path = folder / "objects.parquet"
    if not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted, parts = text(name), []
    with path.open("rb") as file:
        parquet = pq.ParquetFile(file)
        for group in range(parquet.num_row_groups):
            # A table of a hundred million rows: only the groups that may hold this micrograph are read.
            known = parquet.metadata.row_group(group).column(0).statistics
            if known is None or not known.has_min_max or known.min <= wanted <= known.max:
                rows = parquet.read_row_group(group)
                parts.append(rows_where(rows, [each == wanted for each in rows["micrograph"].to_pylist()]))
        table = pa.concat_tables(parts) if parts else parquet.schema_arrow.empty_table()
    boxes = np.stack([numbers(table, side, np.int64) for side in ("y0", "x0", "y1", "x1")], axis=1)
    return ObjectRows(table, numbers(table, "class_index", np.int64), boxes, numbers(table, "pixel_count", np.int64))


def object_at(rows: ObjectRows, y: int, x: int, read: Callable[[Box], NDArray[np.uint8]]) -> dict[str, Any] | None:
    """The row of the object that a pixel belongs to; None where it is in no object of the table.

    Objects of one class never share a pixel, but their boxes may overlap. So the objects whose box holds the pixel are labelled
    within their boxes, the smallest box first, until one has as many pixels as its row says.

    Args:
        rows: The objects of the micrograph.
        y: Row of the pixel.
        x: Column of the pixel.
        read: The mask of a box.
    """
    from skimage.measure import label

    value = int(read(Box(y, x, y + 1, x + 1))[0, 0])
    y0, x0, y1, x1 = rows.boxes.T
    (found,) = np.nonzero((rows.classes == value) & (y0 <= y) & (y < y1) & (x0 <= x) & (x < x1))
    areas = (y1 - y0) * (x1 - x0)
    for place in found[np.argsort(areas[found], kind="stable")]:
        if areas[place] > _WINDOW:
            break
        box = Box(*(int(side) for side in rows.boxes[place]))
        inside = read(box) == value
        for connectivity in (2, 1):
            labels = label(inside, connectivity=connectivity)
            own = labels == labels[y - box.y0, x - box.x0]
            if int(own.sum()) == rows.pixels[place]:
                row: dict[str, Any] = rows.table.slice(int(place), 1).to_pylist()[0]
                return {key: each for key, each in row.items() if key not in _HIDDEN and each is not None}
    return None
