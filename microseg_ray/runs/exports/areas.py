"""areas.csv and areas.parquet of the finished micrographs, each where it is asked for, a batch of rows at a time."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Self

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from microseg_ray.files import whole
from microseg_ray.names import in_table
from microseg_ray.statistics.areas import AREA_SCHEMA, area_rows
from microseg_ray.statistics.rows import BATCH_ROWS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.areas import Measured

__all__ = ["AreaFiles"]

_WRITERS = {"csv": pyarrow.csv.CSVWriter, "parquet": pq.ParquetWriter}


class AreaFiles:
    """Writes the same tables as the run's.

    Args:
        paths: Target by format, `csv` or `parquet`.
        classes: Of the run.
    """

    def __init__(self, paths: Mapping[str, Path], classes: tuple[ClassSpec, ...]) -> None:
        self._paths, self._classes = paths, classes
        self._stack = ExitStack()
        self._writers: list[Any] = []
        self._waiting: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for kind, path in self._paths.items():
                # Arrow takes paths in UTF-8 only.
                file = stack.enter_context(stack.enter_context(whole(path)).open("wb"))
                self._writers.append(stack.enter_context(_WRITERS[kind](file, AREA_SCHEMA)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._flush()
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def add(self, measured: Measured) -> None:
        """Take the counts of the next micrograph."""
        self._waiting += [in_table(asdict(row)) for row in area_rows(measured, self._classes)]
        if len(self._waiting) >= BATCH_ROWS:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_pylist(self._waiting, schema=AREA_SCHEMA)
        for writer in self._writers:
            writer.write_table(table)
        self._waiting.clear()
