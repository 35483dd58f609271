"""Areas from pixel counts, and the tables areas.csv and areas.parquet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, overload

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from microseg_ray.statistics.rows import write_cells

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy as np
    from numpy.typing import NDArray

    from microseg_ray.files import Place
    from microseg_ray.settings import ClassSpec

__all__ = ["AREA_SCHEMA", "AreaRow", "AreaTable", "Measured", "area_rows", "write_areas"]

AREA_SCHEMA = pa.schema(
    [
        ("micrograph", pa.string()),
        ("class_index", pa.int64()),
        ("class_name", pa.string()),
        ("pixel_count", pa.int64()),
        ("measured_pixel_count", pa.int64()),
        ("area_fraction", pa.float64()),
        ("area_um2", pa.float64()),
        ("pixel_size_um_y", pa.float64()),
        ("pixel_size_um_x", pa.float64()),
        ("pixel_size_source", pa.string()),
        ("model_digest", pa.string()),
        ("unmeasured_pixel_count", pa.int64()),
        ("coverage", pa.float64()),
    ]
)


@dataclass(frozen=True)
class Measured:
    """Counts and calibration of one finished micrograph.

    Attributes:
        micrograph: Its path below the archive.
        counts: (class,) int64 pixels.
        pixel_size_um: (y, x) in micrometres, or None.
        pixel_size_source: Origin of the pixel size; empty if it is None.
        model_digest: Identity of the model.
        seams: Measurements at sampled seams, with the field names of `stitching.seams.SeamAudit`.
        pixels: All pixels of the mask; 0 where they are not known.
        bar_pixels: Those of the info bar, which is not measured.
        pages: Pages of the file, of which one is measured.
    """

    micrograph: str
    counts: NDArray[np.int64]
    pixel_size_um: tuple[float, float] | None
    pixel_size_source: str
    model_digest: str
    seams: Mapping[str, Any] = field(default_factory=dict)
    pixels: int = 0
    bar_pixels: int = 0
    pages: int = 1


@dataclass(frozen=True, slots=True)
class AreaRow:
    """One class in one micrograph; the columns of areas.csv.

    `area_fraction` is `pixel_count / measured_pixel_count`, None where nothing was measured; `area_um2` is None without
    a pixel size. An area fraction on a section is what is measured; a volume fraction is a stereological estimate from
    it (ASTM E562, E1245) and is not called so here. `unmeasured_pixel_count` is the pixels without a class, the info bar
    included; `coverage` is the measured share of the pixels outside the info bar. Both are None where the shape of the mask is
    not known.
    """

    micrograph: str
    class_index: int
    class_name: str
    pixel_count: int
    measured_pixel_count: int
    area_fraction: float | None
    area_um2: float | None
    pixel_size_um_y: float | None
    pixel_size_um_x: float | None
    pixel_size_source: str
    model_digest: str
    unmeasured_pixel_count: int | None = None
    coverage: float | None = None


@dataclass(frozen=True, eq=False)
class AreaTable(Sequence[AreaRow]):
    """The rows of a table that `write_areas` wrote, read from the file each time that they are asked for.

    At most one row group is in memory. Names of micrographs are those of the table: bytes that are not UTF-8 are escaped.

    Attributes:
        path: areas.parquet.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from microseg_ray.settings import ClassSpec
        >>> import numpy as np
        >>> rows = area_rows(Measured("a.tif", np.array([3, 1]), None, "", ""), (ClassSpec(name="a"), ClassSpec(name="b")))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_areas(Path(folder), rows)
        ...     table = AreaTable(Path(folder, "areas.parquet"))
        ...     len(table), table[1].class_name, list(table) == rows
        (2, 'b', True)
    """

    path: Place

    def __len__(self) -> int:
        """Rows of the table."""
        with self.path.open("rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)

    def __iter__(self) -> Iterator[AreaRow]:
        """All rows in the order of the table."""
        return self._from(0)

    @overload
    def __getitem__(self, index: int) -> AreaRow: ...

    @overload
    def __getitem__(self, index: slice) -> list[AreaRow]: ...

    def __getitem__(self, index: int | slice) -> AreaRow | list[AreaRow]:
        """A row, or the rows of a slice; what lies before them is not read."""
        chosen = range(len(self))[index]
        if isinstance(chosen, int):
            return next(self._from(chosen))
        if not chosen:
            return []
        first, last = min(chosen), max(chosen)
        found = list(islice(self._from(first), last - first + 1))
        return [found[row - first] for row in chosen]

    def _from(self, row: int) -> Iterator[AreaRow]:
        with self.path.open("rb") as file:
            parquet = pq.ParquetFile(file)
            for group in range(parquet.num_row_groups):
                rows = parquet.metadata.row_group(group).num_rows
                if row < rows:
                    yield from (AreaRow(**each) for each in parquet.read_row_group(group).slice(row).to_pylist())
                row = max(0, row - rows)


def area_rows(measured: Measured, classes: tuple[ClassSpec, ...]) -> list[AreaRow]:
    """Areas of every class of one micrograph.

    Example:
        >>> import numpy as np
        >>> from microseg_ray.settings import ClassSpec
        >>> counts = np.array([300, 100])
        >>> classes = (ClassSpec(name="matrix"), ClassSpec(name="pore"))
        >>> rows = area_rows(Measured("a.tif", counts, (0.5, 0.5), "option", "f0"), classes)
        >>> rows[1].area_fraction, rows[1].area_um2
        (0.25, 25.0)
    """
    total = int(measured.counts.sum())
    specimen = measured.pixels - measured.bar_pixels
    size = measured.pixel_size_um
    return [
        AreaRow(
            micrograph=measured.micrograph,
            class_index=index,
            class_name=item.name,
            pixel_count=int(count),
            measured_pixel_count=total,
            area_fraction=int(count) / total if total else None,
            area_um2=None if size is None else int(count) * size[0] * size[1],
            pixel_size_um_y=None if size is None else size[0],
            pixel_size_um_x=None if size is None else size[1],
            pixel_size_source=measured.pixel_size_source,
            model_digest=measured.model_digest,
            unmeasured_pixel_count=measured.pixels - total if measured.pixels else None,
            coverage=total / specimen if specimen > 0 else None,
        )
        for index, (item, count) in enumerate(zip(classes, measured.counts, strict=True))
    ]


def _cells(row: AreaRow) -> dict[str, Any]:
    """`asdict` without its copies of each value, which cost as much as the writing."""
    return {name: getattr(row, name) for name in AREA_SCHEMA.names}


def write_areas(folder: Place, rows: Iterable[AreaRow]) -> None:
    """Write areas.csv and areas.parquet, both or neither.

    Args:
        folder: The run folder.
        rows: All rows, in the order of the table; asked for as they are written, a batch at a time.
    """
    write_cells(folder, "areas", AREA_SCHEMA, map(_cells, rows))
