"""The catalog as a table that a user can edit and feed back: CSV or Parquet."""

from __future__ import annotations

import csv
import io
import math
import os
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.catalog.rows import CatalogRow
from microseg_ray.errors import InputError, ObjectStoreError
from microseg_ray.files import ObjectPath, content_of, place
from microseg_ray.files.objects import is_object_url
from microseg_ray.names import text
from microseg_ray.tables import read_parquet, write_csv, write_parquet

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from microseg_ray.files import Place, Where

__all__ = ["COLUMNS", "read_table", "write_catalog"]

COLUMNS = ("micrograph", "mask", "group", "split", "pixel_size_um", "pixel_size_source", "notes")
_PARQUET = (".parquet", ".pq")
_MAX_BYTES = 1 << 30


def read_table(path: Where) -> list[CatalogRow]:
    r"""The rows of a catalog table, as they are written.

    Args:
        path: CSV with a header, or Parquet; a path, or an address of an object store. `micrograph`
            must be there; `mask`, `group`, `split` and `pixel_size_um` (one
            number, or `y x`, in micrometres) may be empty or left out. `pixel_size_source` and `notes` are for people.
            Relative paths start at the table's folder, wherever that lies.

    Returns:
        Rows in the table's order. `name` is the path as written; `group` and `split` are "" where the table leaves them
        open.

    Raises:
        InputError: Not such a table, an unknown column, a micrograph twice, a pixel size that is none; with the line.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "catalog.csv"
        ...     _ = path.write_text("micrograph,split,pixel_size_um\na.tif,val,0.5\n")
        ...     [(row.name, row.split, row.pixel_size_um) for row in read_table(path)]
        [('a.tif', 'val', (0.5, 0.5))]
    """
    table = _table_at(path)
    lines = list(_parquet_lines(table) if table.suffix.lower() in _PARQUET else _csv_lines(table))
    rows: list[CatalogRow] = []
    seen: dict[Place, str] = {}
    for where, line in lines:
        row = _row(table, where, line)
        if row.image in seen:
            raise InputError(table, f"{where}: {row.name} is in {seen[row.image]} already", "keep one of the lines")
        seen[row.image] = where
        rows.append(row)
    if not rows:
        raise InputError(table, "the table has no rows", "write it with `microseg catalog`")
    return rows


def write_catalog(
    path: str | os.PathLike[str],
    rows: Sequence[CatalogRow],
    sizes: Mapping[str, tuple[tuple[float, float] | None, str]] | None = None,
) -> None:
    """Write a catalog as CSV, or as Parquet where the name ends so; whole or not at all.

    Args:
        path: The table; paths in it are relative to its folder.
        rows: The rows, written in their order.
        sizes: (y, x) in micrometres and where it comes from, by row name, where a row has none of its own.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "catalog.csv"
        ...     write_catalog(path, [CatalogRow("a.tif", Path(folder) / "a.tif", None, "a", "val")])
        ...     path.read_text().splitlines()[1]
        'a.tif,,a,val,,'
    """
    table = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100
    table.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for row in rows:
        size, source = (sizes or {}).get(row.name, (None, ""))
        if row.pixel_size_um is not None:
            size, source = row.pixel_size_um, "table"
        lines.append(
            {
                "micrograph": _relative(row.image, table.parent),
                "mask": "" if row.mask is None else _relative(row.mask, table.parent),
                "group": row.group,
                "split": row.split,
                "pixel_size_um": _size_text(size),
                "pixel_size_source": source,
            }
        )
    if table.suffix.lower() in _PARQUET:
        import pyarrow as pa

        for line in lines:
            bad = next((value for value in line.values() if value != value.encode("utf-8", "replace").decode()), None)
            if bad is not None:
                reason = f"{text(bad)} is no valid UTF-8, and Parquet holds nothing else"
                raise InputError(table, reason, "write the catalog as .csv, or rename the file")
        schema = pa.schema([(name, pa.string()) for name in COLUMNS[:-1]])
        write_parquet(table, pa.Table.from_pylist(lines, schema=schema))
    else:
        write_csv(table, COLUMNS[:-1], ([line[name] for name in COLUMNS[:-1]] for line in lines))


def _table_at(path: Where) -> Place:
    found = place(path)
    # A link keeps the folder it lies in.
    return found if isinstance(found, ObjectPath) else Path(os.path.abspath(found.expanduser()))  # noqa: PTH100


def _csv_lines(table: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        if table.stat().st_size > _MAX_BYTES:
            raise InputError(table, f"larger than {_MAX_BYTES} bytes", "this is no catalog; write one as Parquet")
        # utf-8-sig: spreadsheets put a mark in front.
        text = content_of(table).decode("utf-8-sig", "surrogateescape")
        with io.StringIO(text, newline="") as file:
            # `strict` refuses an open quote, which would swallow the rest of the file.
            reader = csv.reader(file, strict=True)
            header = [name.strip() for name in next(reader, [])]
            _check_header(table, header)
            for values in reader:
                if not any(value.strip() for value in values):
                    continue
                where = f"line {reader.line_num}"
                if len(values) != len(header):
                    reason = f"{where}: {len(values)} cells, but the header has {len(header)} columns"
                    raise InputError(table, reason, "put names that hold commas in double quotes")
                yield where, dict(zip(header, values, strict=True))
    except ObjectStoreError:
        raise
    except OSError as error:
        raise InputError(table, f"the table cannot be read ({error.strerror or error})", "check data.table") from error
    except csv.Error as error:
        raise InputError(table, f"not a CSV ({error})", "write it with `microseg catalog`") from error


def _parquet_lines(table: Place) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa

    try:
        read = read_parquet(table)
    except ObjectStoreError:
        raise
    except (OSError, pa.ArrowInvalid) as error:
        raise InputError(table, f"the Parquet table cannot be read ({error})", "check data.table") from error
    _check_header(table, read.column_names)
    for number, line in enumerate(read.to_pylist(), 1):
        yield f"row {number}", line


def _check_header(table: Place, header: Sequence[str]) -> None:
    known = ", ".join(COLUMNS)
    unknown = [name for name in header if name not in COLUMNS]
    if "micrograph" not in header:
        raise InputError(table, f"line 1: no column named micrograph, but {', '.join(header) or 'nothing'}", known)
    if unknown:
        raise InputError(table, f"line 1: there is no column {unknown[0]!r}", f"known are {known}")
    if len(set(header)) < len(header):
        raise InputError(table, "line 1: a column is there twice", "keep one of them")


def _row(table: Place, where: str, line: Mapping[str, Any]) -> CatalogRow:
    def cell(name: str) -> str:
        value = line.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return ""
        return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value).strip()

    name = cell("micrograph")
    if not name:
        raise InputError(table, f"{where}: no micrograph", "give its path, or delete the line")
    mask = _absolute(table, cell("mask")) if cell("mask") else None
    size = _size(table, where, cell("pixel_size_um"))
    image = _absolute(table, name)
    if mask == image:
        raise InputError(table, f"{where}: {name} is its own mask", "give the path of its mask")
    return CatalogRow(_as_written(name), image, mask, cell("group"), cell("split"), size)


def _absolute(table: Place, name: str) -> Place:
    if is_object_url(name):
        return place(name)
    if not isinstance(table, ObjectPath):
        return Path(os.path.abspath(table.parent / Path(name).expanduser()))  # noqa: PTH100
    inner = posixpath.normpath(f"/{table.parent.key}/{name}")
    if name.startswith(("/", "~")):
        raise InputError(
            table, f"{name} is a path of one machine", "give an address, or a path below the table's folder"
        )
    return ObjectPath(table.bucket, inner.strip("/"))


def _relative(path: Place, folder: Path) -> str:
    if isinstance(path, ObjectPath):
        return str(path)
    try:
        return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # another drive on Windows
        return path.as_posix()


def _as_written(name: str) -> str:
    """The name of a micrograph: of an address what follows the bucket, so that it is a path."""
    return ObjectPath.of(name).key if is_object_url(name) else Path(name).as_posix()


def _size_text(size: tuple[float, float] | None) -> str:
    if size is None:
        return ""
    return repr(size[0]) if size[0] == size[1] else f"{size[0]!r} {size[1]!r}"


def _size(table: Place, where: str, text: str) -> tuple[float, float] | None:
    if not text:
        return None
    try:
        values = [float(part) for part in text.split()]
    except ValueError:
        values = []
    if len(values) not in {1, 2} or not all(math.isfinite(value) and value > 0 for value in values):
        raise InputError(
            table, f"{where}: pixel_size_um is {text!r}", "give one number above 0, or two: y x, in micrometres"
        )
    return values[0], values[-1]
