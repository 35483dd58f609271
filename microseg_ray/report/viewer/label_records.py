"""The records of a folder of labels: which classes it has, and what was done to a micrograph."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import UNREADABLE, InputError
from microseg_ray.files import write_json
from microseg_ray.settings import ClassSpec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from microseg_ray.catalog.rows import CatalogRow

__all__ = ["read_classes", "read_strokes", "record_mask", "write_classes"]


def read_classes(path: Path) -> tuple[ClassSpec, ...] | None:
    """Names and colours in the order of the class index; None where there is no file.

    Raises:
        InputError: The file is damaged.

    Example:
        >>> from pathlib import Path
        >>> read_classes(Path("/nowhere/classes.json"))
    """
    if not path.is_file():
        return None
    try:
        return tuple(ClassSpec(**each) for each in json.loads(path.read_text(encoding="utf-8")))
    except UNREADABLE as error:
        raise InputError(path, f"damaged ({error})", "restore it, or delete it and add the classes again") from error


def write_classes(path: Path, classes: Sequence[ClassSpec]) -> None:
    """Write what `read_classes` reads.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_classes(Path(folder, "classes.json"), [ClassSpec(name="pore")])
        ...     [each.name for each in read_classes(Path(folder, "classes.json"))]
        ['pore']
    """
    write_json(path, [each.model_dump() for each in classes])


def read_strokes(path: Path) -> list[dict[str, Any]]:
    """The strokes of a micrograph from first to last, one line of JSON each; none where there is no file.

    Raises:
        InputError: A line is damaged.

    Example:
        >>> from pathlib import Path
        >>> read_strokes(Path("/nowhere/a.jsonl"))
        []
    """
    if not path.is_file():
        return []
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        raise InputError(path, f"damaged ({error})", "restore it, or delete the lines that are no JSON") from error
    if not all(isinstance(stroke, dict) for stroke in found):
        raise InputError(path, "damaged (a line is no JSON object)", "restore it, or delete such lines")
    return found


def record_mask(table: Path, row: CatalogRow) -> None:
    """Add a micrograph and its mask to labels.csv, where it is not in it.

    Args:
        table: labels.csv, which need not be there.
        row: The micrograph and the store of its labels.
    """
    # Here and not above: no list of micrographs needs it, and the page waits for its imports.
    from microseg_ray.catalog.table import read_table, write_catalog

    rows = read_table(table) if table.is_file() else []
    if all(each.image != row.image for each in rows):
        write_catalog(table, [*rows, row])
