"""Inputs that were set aside, and why: failures.csv of every job."""

from __future__ import annotations

import csv
import errno
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING

from microseg_ray.errors import UNREADABLE, StoreError
from microseg_ray.files import place
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Iterable

    from microseg_ray.files import Place, Where

__all__ = ["FAILURES_FILE", "Failure", "is_full", "read_failures", "stop_if_full", "write_failures"]

FAILURES_FILE = "failures.csv"
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


@dataclass(frozen=True, order=True)
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


def write_failures(path: Where, failures: Iterable[Failure]) -> None:
    """Write the inputs that were set aside as CSV with the columns path, stage, reason, sorted; whole or not at all.

    Example:
        >>> from pathlib import Path
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_failures(f"{folder}/failures.csv", [Failure("a, b.tif", "read", "truncated")])
        ...     (Path(folder) / "failures.csv").read_text(encoding="utf-8").splitlines()
        ['path,stage,reason', '"a, b.tif",read,truncated']
    """
    write_csv(path, ("path", "stage", "reason"), (astuple(failure) for failure in sorted(failures)))


def read_failures(path: Where) -> list[Failure]:
    """What `write_failures` wrote; empty where there is no such file.

    Raises:
        StoreError: It is another table, or damaged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_failures(f"{folder}/failures.csv", [Failure("a, b.tif", "read", "truncated")])
        ...     read_failures(f"{folder}/failures.csv")
        [Failure(path='a, b.tif', stage='read', reason='truncated')]
    """
    if not place(path).exists():
        return []
    with place(path).open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
        try:
            return [Failure(**row) for row in csv.DictReader(handle)]
        except UNREADABLE as error:
            reason = "is not the table of path, stage and reason that a job wrote"
            raise StoreError(f"{path}: {reason}; delete it and run the job again that wrote it") from error


def is_full(error: BaseException) -> bool:
    """Whether an error says that a disk is full or cannot be written; Ray hides the cause in an attribute.

    Example:
        >>> is_full(OSError(errno.ENOSPC, "No space left on device")), is_full(ValueError())
        (True, False)
    """
    return _full_cause(error) is not None


def _full_cause(error: BaseException) -> OSError | None:
    causes = (error, getattr(error, "cause", None), error.__cause__)
    return next((each for each in causes if isinstance(each, OSError) and each.errno in _FULL), None)


def stop_if_full(error: BaseException, output: Place) -> None:
    """Raise where a disk is full, which would fail every input that follows and is the fault of none.

    Args:
        error: What was raised for one input.
        output: Folder of the results.

    Raises:
        StoreError: The disk is full or cannot be written.
    """
    cause = _full_cause(error)
    if cause is not None:
        raise StoreError(
            f"{output}: {cause.strerror}; the job stops here and can be resumed with the same command"
        ) from error
