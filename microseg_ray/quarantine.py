"""Inputs that were set aside, and why: failures.csv of every job."""

from __future__ import annotations

import csv
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.files import write_csv

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable

__all__ = ["FAILURES_FILE", "Failure", "read_failures", "write_failures"]

FAILURES_FILE = "failures.csv"


@dataclass(frozen=True)
class Failure:
    """An input that was set aside, and why.

    Attributes:
        path: The file, or its name below the archive.
        stage: The step that refused it.
        reason: What is wrong with it and what to do.

    Example:
        >>> Failure("a.tif", "catalog", "no mask").stage
        'catalog'
    """

    path: str
    stage: str
    reason: str


def write_failures(path: str | os.PathLike[str], failures: Iterable[Failure]) -> None:
    """Write the inputs that were set aside as CSV with the columns path, stage, reason, sorted; whole or not at all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_failures(f"{folder}/failures.csv", [Failure("a, b.tif", "read", "truncated")])
        ...     (Path(folder) / "failures.csv").read_text(encoding="utf-8").splitlines()
        ['path,stage,reason', '"a, b.tif",read,truncated']
    """
    write_csv(path, ("path", "stage", "reason"), sorted(astuple(failure) for failure in failures))


def read_failures(path: str | os.PathLike[str]) -> list[Failure]:
    """What `write_failures` wrote; empty where there is no such file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_failures(f"{folder}/failures.csv", [Failure("a, b.tif", "read", "truncated")])
        ...     read_failures(f"{folder}/failures.csv")
        [Failure(path='a, b.tif', stage='read', reason='truncated')]
    """
    if not Path(path).exists():
        return []
    with Path(path).open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
        return [Failure(**row) for row in csv.DictReader(handle)]
