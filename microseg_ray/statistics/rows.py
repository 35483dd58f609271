"""Tables of frozen dataclasses: their schema from the annotations, CSV and Parquet, both or neither."""

from __future__ import annotations

import typing
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from microseg_ray.files import whole
from microseg_ray.names import in_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from microseg_ray.files import Place

__all__ = ["BATCH_ROWS", "schema_of", "table_pair", "write_cells", "write_rows"]

BATCH_ROWS = 1 << 14
"""Rows of a table that are in memory at once while it is written or read."""

_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def schema_of(row: type[Any]) -> Any:
    """The Arrow schema of a dataclass of str, int, float and bool, each of which may be None.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Row:
        ...     name: str
        ...     pixels: int | None
        >>> schema_of(Row).names, [str(kind) for kind in schema_of(Row).types]
        (['name', 'pixels'], ['string', 'int64'])
    """
    hints = typing.get_type_hints(row)
    found = []
    for each in fields(row):
        hint = hints[each.name]
        kind = next(kind for kind in (typing.get_args(hint) or (hint,)) if kind is not type(None))
        found.append((each.name, _TYPES[kind]))
    return pa.schema(found)


def write_rows(folder: Place, name: str, row: type[Any], rows: Iterable[Any]) -> None:
    """Write NAME.csv and NAME.parquet, both or neither, a batch at a time.

    Args:
        folder: Where they go.
        name: Without suffix.
        row: The dataclass, whose fields are the columns.
        rows: Of that class.
    """
    write_cells(folder, name, schema_of(row), map(asdict, rows))


def write_cells(folder: Place, name: str, schema: Any, rows: Iterable[dict[str, Any]]) -> None:
    """Write NAME.csv and NAME.parquet, both or neither, a batch at a time.

    Args:
        folder: Where they go.
        name: Without suffix.
        schema: Arrow's.
        rows: The values of each row by column, in the order of the table; asked for as they are written.
    """
    left = iter(rows)
    with table_pair(folder, name, schema) as write:
        more = True
        while more:
            # A batch without a row, too, so that there are tables with the columns.
            batch = [in_table(row) for row in islice(left, BATCH_ROWS)]
            write(pa.Table.from_pylist(batch, schema=schema))
            more = len(batch) == BATCH_ROWS


@contextmanager
def table_pair(folder: Place, name: str, schema: Any, group_rows: int | None = None) -> Iterator[Callable[[Any], None]]:
    """NAME.csv and NAME.parquet, both or neither.

    Args:
        folder: Where they go.
        name: Without suffix.
        schema: Arrow's.
        group_rows: Most rows of a row group of the Parquet file; None: Arrow's choice.

    Yields:
        A function that takes the next Arrow table of rows.
    """
    # Both are written before either is renamed, so that a full disk leaves the older pair.
    with (
        whole(folder / f"{name}.csv") as csv,
        whole(folder / f"{name}.parquet") as parquet,
        # Arrow takes paths in UTF-8 only.
        csv.open("wb") as csv_file,
        parquet.open("wb") as parquet_file,
        pa.csv.CSVWriter(csv_file, schema) as csv_writer,
        pq.ParquetWriter(parquet_file, schema) as parquet_writer,
    ):

        def write(table: Any) -> None:
            csv_writer.write_table(table)
            parquet_writer.write_table(table, row_group_size=group_rows)

        yield write
