"""Tables as CSV and Parquet, written whole or not at all."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any

from microseg_ray.files import place, whole

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from microseg_ray.files import Where

__all__ = ["numbers", "read_parquet", "rows_where", "write_arrow_csv", "write_csv", "write_parquet"]


def write_csv(
    path: Where,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    line_end: str = "\n",
) -> None:
    r"""Write a table as CSV with quotes where they are needed, whole or not at all.

    Args:
        path: Target.
        columns: The first line.
        rows: Values in the order of the columns. File names that are not UTF-8 keep their bytes.
        line_end: End of a line.

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_csv(f"{folder}/a.csv", ("name", "count"), [("a, b", 1)])
        ...     Path(f"{folder}/a.csv").read_text()
        'name,count\n"a, b",1\n'
    """
    with (
        whole(path) as partial,
        partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        # With this end the module quotes line breaks of both kinds; without the quotes they would tear a row apart.
        line = io.StringIO(newline="")
        writer = csv.writer(line, lineterminator="\r\n")
        for row in (columns, *rows):
            writer.writerow(row)
            file.write(line.getvalue().removesuffix("\r\n") + line_end)
            line.seek(0)
            line.truncate()


def write_arrow_csv(path: Where, table: Any) -> None:
    r"""Write an Arrow table as CSV with quotes around every text, whole or not at all.

    Example:
        >>> from pathlib import Path
        >>> import pyarrow as pa, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_arrow_csv(f"{folder}/a.csv", pa.table({"name": ["a"], "count": [1]}))
        ...     Path(f"{folder}/a.csv").read_text()
        '"name","count"\n"a",1\n'
    """
    import pyarrow.csv

    # Arrow takes paths in UTF-8 only.
    with whole(path) as partial, partial.open("wb") as file:
        pyarrow.csv.write_csv(table, file)


def write_parquet(path: Where, table: Any) -> None:
    """Write an Arrow table as Parquet, whole or not at all.

    Example:
        >>> import pyarrow as pa, pyarrow.parquet as pq, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_parquet(f"{folder}/a.parquet", pa.table({"count": [1]}))
        ...     pq.read_table(f"{folder}/a.parquet").to_pylist()
        [{'count': 1}]
    """
    import pyarrow.parquet

    with whole(path) as partial, partial.open("wb") as file:
        pyarrow.parquet.write_table(table, file)


def read_parquet(path: Where) -> Any:
    """An Arrow table from a Parquet file, by its content alone: Arrow would make a column of a folder named `a=b`.

    Example:
        >>> import pyarrow as pa, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_parquet(f"{folder}/a.parquet", pa.table({"count": [1]}))
        ...     read_parquet(f"{folder}/a.parquet").to_pylist()
        [{'count': 1}]
    """
    import pyarrow.parquet

    with place(path).open("rb") as file:
        # `read_table` imports Arrow's data sets, which takes half a second.
        return pyarrow.parquet.ParquetFile(file).read()


def numbers(table: Any, name: str, dtype: type[np.generic]) -> NDArray[Any]:
    """A column of numbers of an Arrow table as an array; Arrow's own conversion imports pandas, which takes a third of a second.

    Args:
        table: The table.
        name: A column of integers or floats without nulls.
        dtype: Of the result.

    Returns:
        (n,) of this dtype.

    Example:
        >>> import numpy as np, pyarrow as pa
        >>> numbers(pa.table({"count": [1, 2]}), "count", np.float64)
        array([1., 2.])
    """
    import numpy as np

    parts = [np.from_dlpack(chunk) for chunk in table[name].chunks]
    return np.concatenate([np.empty(0, dtype), *parts], dtype=dtype)


def rows_where(table: Any, wanted: Sequence[bool]) -> Any:
    """The rows of an Arrow table for which something holds; Arrow's own filter imports pandas.

    Args:
        table: The table.
        wanted: Whether, for each row.

    Example:
        >>> import pyarrow as pa
        >>> rows_where(pa.table({"count": [1, 2, 3, 4]}), [True, True, False, True]).to_pylist()
        [{'count': 1}, {'count': 2}, {'count': 4}]
    """
    import numpy as np
    import pyarrow as pa

    edges = np.flatnonzero(np.diff([False, *wanted, False])).reshape(-1, 2)
    return pa.concat_tables([table.slice(0, 0), *(table.slice(first, end - first) for first, end in edges.tolist())])
