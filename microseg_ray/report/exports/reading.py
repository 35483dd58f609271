"""The tables of a run's folder, read a batch at a time."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from microseg_ray.statistics.rows import schema_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from microseg_ray.files import Place

__all__ = ["TABLES", "Published", "batches", "rows_of", "table_path"]

TABLES = (
    "areas",
    "groups",
    "intervals",
    "boundaries",
    "stereology",
    "anisotropy",
    "chords",
    "correlation",
    "object_classes",
    "object_sizes",
    "objects",
)
"""In the order of the workbook."""

BATCH_ROWS = 1 << 12
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Published:
    """What is said on every page, sheet and table.

    Attributes:
        folder: Of the run.
        model_digest: Identity of the model.
        unfinished: Micrographs whose mask is not finished.
        set_aside: Inputs that were quarantined.
    """

    folder: Place
    model_digest: str
    unfinished: int
    set_aside: int

    @property
    def partial(self) -> str:
        """What is missing from the figures; empty if nothing is."""
        said = []
        if self.unfinished:
            said.append(f"PARTIAL: micrographs that are not finished and are in no figure: {self.unfinished}")
        if self.set_aside:
            said.append(f"inputs that were set aside (failures.csv): {self.set_aside}")
        return "; ".join(said)


def table_path(folder: Place, name: str) -> Place | None:
    """The file of a table, None where it was not made."""
    found = (folder / f"{name}.{kind}" for kind in ("parquet", "csv"))
    return next((path for path in found if path.is_file()), None)


def batches(path: Place) -> Iterator[Any]:
    """Arrow record batches of a table, of bounded size."""
    if path.suffix == ".parquet":
        with path.open("rb") as file:
            yield from pq.ParquetFile(file).iter_batches(BATCH_ROWS)
        return
    options = pyarrow.csv.ConvertOptions(column_types=_csv_schema(path.stem))
    with path.open("rb") as file:
        yield from pyarrow.csv.open_csv(
            file, read_options=pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES), convert_options=options
        )


def rows_of(
    folder: Place, name: str, wanted: Callable[[dict[str, Any]], bool] = lambda _: True
) -> list[dict[str, Any]]:
    """Chosen rows of a table; none where it was not made.

    Example:
        >>> from pathlib import Path
        >>> rows_of(Path("/nowhere"), "groups")
        []
    """
    path = table_path(folder, name)
    if path is None:
        return []
    return [row for batch in batches(path) for row in batch.to_pylist() if wanted(row)]


def csv_columns(path: Place) -> list[str]:
    """The head of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return next(csv.reader(file), [])


def columns_of(path: Place) -> list[str]:
    """The columns of a table that hold a value in some row: an empty column says nothing in a sheet."""
    if path.suffix == ".csv":
        return csv_columns(path)
    with path.open("rb") as file:
        parquet = pq.ParquetFile(file)
        names, metadata = list(parquet.schema_arrow.names), parquet.metadata
        held = dict.fromkeys(names, metadata.num_rows == 0)
        for group in range(metadata.num_row_groups):
            part = metadata.row_group(group)
            for place, name in enumerate(names):
                found = part.column(place).statistics
                empty = found is not None and found.has_null_count and found.null_count == part.num_rows
                held[name] = held[name] or not empty
    return [name for name in names if held[name]]


def rows_in(path: Place) -> int:
    """Rows of a table."""
    if path.suffix == ".parquet":
        with path.open("rb") as file:
            return int(pq.ParquetFile(file).metadata.num_rows)
    return sum(batch.num_rows for batch in batches(path))


def _csv_schema(name: str) -> Any:
    """Types of a table that is CSV alone: those of its dataclass, not guesses from its first rows."""
    from microseg_ray.statistics.objects.sizes import ClassRow, SizeRow

    kinds = {"object_classes": ClassRow, "object_sizes": SizeRow}
    return schema_of(kinds[name]) if name in kinds else pa.schema([])
