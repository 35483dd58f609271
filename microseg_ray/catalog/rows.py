"""What a catalog holds: a row for each micrograph, and what was set aside."""

from __future__ import annotations

import csv
import os
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["CatalogRow", "Failure", "relative_name", "write_failures"]


@dataclass(frozen=True)
class CatalogRow:
    """One micrograph of a job.

    Attributes:
        name: Posix path of the image relative to the listing root, with its suffix; unique.
        image: Absolute path.
        mask: Absolute path, or None where the job has no masks.
        group: What must stay together in one split.
        split: "train", or what the settings or the table say.
        pixel_size_um: (y, x) in micrometres where the table gives one; it replaces what the file says.

    Example:
        >>> CatalogRow("a/b#1.tif", Path("/data/a/b#1.tif"), None, "a/b#1", "train").name
        'a/b#1.tif'
    """

    name: str
    image: Path
    mask: Path | None
    group: str
    split: str
    pixel_size_um: tuple[float, float] | None = None


@dataclass(frozen=True)
class Failure:
    """An input that was set aside, and why.

    Example:
        >>> Failure("a.tif", "catalog", "no mask").stage
        'catalog'
    """

    path: str
    stage: str
    reason: str


def relative_name(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    """The name of a micrograph: its posix path relative to the listing root, with its suffix.

    Raises:
        ValueError: The path is not inside the root.

    Example:
        >>> relative_name("/data/batch 1/a#2 (3).tif", "/data")
        'batch 1/a#2 (3).tif'
    """
    return Path(path).relative_to(root).as_posix()


def write_failures(path: str | os.PathLike[str], failures: Iterable[Failure]) -> None:
    """Write the inputs that were set aside as CSV with the columns path, stage, reason; whole or not at all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_failures(Path(folder) / "failures.csv", [Failure("a, b.tif", "read", "truncated")])
        ...     (Path(folder) / "failures.csv").read_text(encoding="utf-8").splitlines()
        ['path,stage,reason', '"a, b.tif",read,truncated']
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    # surrogateescape: a file name need not be valid UTF-8.
    with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "stage", "reason"])
        writer.writerows(astuple(failure) for failure in failures)
    partial.replace(target)
