"""The tables objects.csv and objects.parquet, written in row groups."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from microseg_ray.names import text
from microseg_ray.statistics.objects.shapes import Lengths
from microseg_ray.statistics.rows import table_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.files import Place
    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.areas import Measured
    from microseg_ray.statistics.objects.finding import Objects

__all__ = ["OBJECT_SCHEMA", "object_rows", "objects_tables"]

GROUP_ROWS = 1 << 16
"""Rows of a row group of objects.parquet: what a reader holds at once."""

_LENGTHS = tuple(each.name for each in fields(Lengths) if each.name != "area")

OBJECT_SCHEMA = pa.schema(
    [
        ("micrograph", pa.string()),
        ("object", pa.int64()),
        ("class_index", pa.int64()),
        ("class_name", pa.string()),
        ("pixel_count", pa.int64()),
        ("area_um2", pa.float64()),
        *((f"{name}_{unit}", pa.float64()) for name in _LENGTHS for unit in ("px", "um")),
        ("aspect_ratio", pa.float64()),
        ("circularity", pa.float64()),
        ("orientation_deg", pa.float64()),
        ("euler_number", pa.int64()),
        ("hole_count", pa.int64()),
        *((f"centroid_{axis}_{unit}", pa.float64()) for unit in ("px", "um") for axis in "yx"),
        *((name, pa.int64()) for name in ("y0", "x0", "y1", "x1")),
        ("touches_edge", pa.bool_()),
        ("touches_unmeasured", pa.bool_()),
        ("intensity_mean", pa.float64()),
        ("intensity_sd", pa.float64()),
        ("pixel_size_um_y", pa.float64()),
        ("pixel_size_um_x", pa.float64()),
        ("pixel_size_source", pa.string()),
        ("model_digest", pa.string()),
    ]
)


def object_rows(measured: Measured, objects: Objects, classes: Sequence[ClassSpec]) -> Any:
    """The rows of one micrograph.

    Args:
        measured: Its name and calibration.
        objects: Its objects.
        classes: In the order of the class index.

    Returns:
        An Arrow table of `OBJECT_SCHEMA`, sorted by class and first pixel. `object` counts from 1, as in the label image.
    """
    count, size, sums = len(objects), measured.pixel_size_um, objects.sums
    nothing = np.full(len(objects), np.nan)
    light = objects.intensities
    columns: dict[str, NDArray[Any] | float | str | None] = {
        "micrograph": text(measured.micrograph),
        "object": np.arange(1, len(objects) + 1),
        "class_index": sums.class_index,
        "pixel_count": sums.pixels,
        "area_um2": nothing if objects.um is None else objects.um.area,
        "aspect_ratio": objects.shapes.aspect_ratio,
        "circularity": objects.shapes.circularity,
        "orientation_deg": objects.shapes.orientation_deg,
        "euler_number": sums.euler,
        "hole_count": objects.holes,
        "touches_edge": objects.touches_edge,
        "touches_unmeasured": sums.unmeasured,
        "intensity_mean": nothing if light is None else light.mean,
        "intensity_sd": nothing if light is None else light.sd,
        "pixel_size_um_y": None if size is None else size[0],
        "pixel_size_um_x": None if size is None else size[1],
        "pixel_size_source": text(measured.pixel_size_source),
        "model_digest": measured.model_digest,
    }
    for name in _LENGTHS:
        columns[f"{name}_px"] = getattr(objects.px, name)
        columns[f"{name}_um"] = nothing if objects.um is None else getattr(objects.um, name)
    for axis, letter in enumerate("yx"):
        columns[f"centroid_{letter}_px"] = sums.centroid[:, axis]
        columns[f"centroid_{letter}_um"] = nothing if size is None else sums.centroid[:, axis] * size[axis]
    columns |= {name: sums.box[:, place] for place, name in enumerate(("y0", "x0", "y1", "x1"))}
    names = pa.array([text(spec.name) for spec in classes], pa.string())
    arrays = []
    for field in OBJECT_SCHEMA:
        if field.name == "class_name":
            arrays.append(names.take(pa.array(sums.class_index.astype(np.int64))))
            continue
        values = columns[field.name]
        if isinstance(values, np.ndarray):
            # What is not defined is empty, not "not a number".
            arrays.append(pa.array(values, field.type, from_pandas=True))
        else:
            arrays.append(pa.repeat(pa.scalar(values, field.type), count))
    return pa.Table.from_arrays(arrays, schema=OBJECT_SCHEMA)


@contextmanager
def objects_tables(folder: Place) -> Iterator[Callable[[Any], None]]:
    """Write objects.csv and objects.parquet, both or neither.

    Args:
        folder: The run folder.

    Yields:
        A function that takes the rows of a micrograph, in the order of the tables. Rows wait until there is a row group of
        them, so that many small micrographs do not make many small groups.
    """
    with table_pair(folder, "objects", OBJECT_SCHEMA, GROUP_ROWS) as write:
        waiting: list[Any] = []
        held = 0

        def flush() -> None:
            write(pa.concat_tables([OBJECT_SCHEMA.empty_table(), *waiting]))
            waiting.clear()

        def take(rows: Any) -> None:
            nonlocal held
            waiting.append(rows)
            held += len(rows)
            # Also after many without a row.
            if held >= GROUP_ROWS or len(waiting) >= GROUP_ROWS:
                flush()
                held = 0

        yield take
        # Also without a row, so that there are tables with the columns.
        flush()
