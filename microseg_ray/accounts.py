"""What a job met and what became of it: seen = used + set aside + not taken, in the same words in every job and table."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import UNREADABLE, StoreError
from microseg_ray.files import place
from microseg_ray.names import text
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from microseg_ray.files import Where
    from microseg_ray.quarantine import Failure

__all__ = ["ACCOUNTS_FILE", "Account", "NotTaken", "counted", "file_account", "read_accounts", "write_accounts"]

ACCOUNTS_FILE = "accounting.csv"
_COLUMNS = ("quantity", "seen", "used", "set_aside", "not_taken", "reasons")

NotTaken = tuple[tuple[str, str], ...]
"""(name, reason) of each thing that a job met and left alone, which is no fault."""


@dataclass(frozen=True)
class Account:
    """One quantity of a job.

    `seen` is counted where things are listed, the others where they end, so that a loss between the two shows.

    Attributes:
        quantity: files, masks, pages, regions, tiles, shards or pixels.
        seen: How many the job met.
        used: How many are in its result.
        set_aside: How many could not be used; failures.csv says why.
        not_taken: How many were left alone, by reason.

    Example:
        >>> print(Account("files", 4, 1, 1, {"hidden": 2}))
        files: 4 seen = 1 used + 1 set aside + 2 not taken (2 hidden)
        >>> print(Account("files", 4, 1))
        files: 4 seen = 1 used + 0 set aside + 0 not taken + 3 unaccounted for: please report this
    """

    quantity: str
    seen: int
    used: int
    set_aside: int = 0
    not_taken: Mapping[str, int] = field(default_factory=dict)

    @property
    def left(self) -> int:
        """How many were not taken."""
        return sum(self.not_taken.values())

    @property
    def unaccounted(self) -> int:
        """How many got lost on the way: 0, or there is an error in the program."""
        return self.seen - self.used - self.set_aside - self.left

    @property
    def reasons(self) -> str:
        """Why some were not taken, with the number of each reason."""
        return "; ".join(f"{count} {reason}" for reason, count in self.not_taken.items() if count)

    def __str__(self) -> str:
        """The line that every job prints."""
        why = f" ({self.reasons})" if self.left else ""
        lost = f" + {self.unaccounted} unaccounted for: please report this" if self.unaccounted else ""
        parts = f"{self.used} used + {self.set_aside} set aside + {self.left} not taken"
        return f"{self.quantity}: {self.seen} seen = {parts}{why}{lost}"

    def as_json(self) -> dict[str, Any]:
        """The same for JSON documents.

        Example:
            >>> Account("pages", 3, 1, 0, {"of other pages": 2}).as_json()["not_taken"]
            {'of other pages': 2}
        """
        return {
            "quantity": self.quantity,
            "seen": self.seen,
            "used": self.used,
            "set_aside": self.set_aside,
            "not_taken": dict(self.not_taken),
        }


def counted(not_taken: Iterable[tuple[str, str]]) -> dict[str, int]:
    """How many were left alone for each reason, with the first name of each as an example.

    Example:
        >>> counted([("b.txt", "no image format"), ("a.csv", "no image format"), (".x", "hidden")])
        {'hidden, such as .x': 1, 'no image format, such as a.csv': 2}
    """
    names: dict[str, list[str]] = defaultdict(list)
    for name, reason in not_taken:
        names[reason].append(name)
    return {f"{reason}, such as {text(min(found))}": len(found) for reason, found in sorted(names.items())}


def file_account(
    listed: Collection[str],
    used: Collection[str],
    failures: Iterable[Failure],
    not_taken: Mapping[str, int],
    quantity: str = "files",
) -> Account:
    """The account of files by name.

    Args:
        listed: What was to be used, as listed.
        used: What is in the result.
        failures: What was set aside; a file may have several, and one that was used may have a remark here.
        not_taken: What was left alone, by reason.
        quantity: What is counted.

    Example:
        >>> print(file_account(["a", "b"], ["a"], [], {"hidden": 1}))
        files: 3 seen = 1 used + 0 set aside + 1 not taken (1 hidden) + 1 unaccounted for: please report this
    """
    done = set(used)
    names = set(listed)
    set_aside = {failure.path for failure in failures} - done
    return Account(quantity, len(names) + sum(not_taken.values()), len(done & names), len(set_aside & names), not_taken)


def write_accounts(path: Where, accounts: Iterable[Account]) -> None:
    """Write accounting.csv, a line for each quantity; whole or not at all.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_accounts(f"{folder}/accounting.csv", [Account("files", 3, 1, 0, {"hidden": 2})])
        ...     pathlib.Path(folder, "accounting.csv").read_text(encoding="utf-8").splitlines()[1]
        'files,3,1,0,2,2 hidden'
    """
    lines = ((each.quantity, each.seen, each.used, each.set_aside, each.left, each.reasons) for each in accounts)
    write_csv(path, _COLUMNS, lines)


def read_accounts(path: Where) -> list[Account]:
    """Read what `write_accounts` wrote; nothing where there is no such file.

    Raises:
        StoreError: It is another table, or damaged.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_accounts(f"{folder}/accounting.csv", [Account("files", 5, 1, 1, {"hidden; 2": 2, "no image": 1})])
        ...     print(*read_accounts(f"{folder}/accounting.csv"))
        files: 5 seen = 1 used + 1 set aside + 3 not taken (2 hidden; 2; 1 no image)
    """
    if not place(path).is_file():
        return []
    with place(path).open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
        try:
            return [
                Account(
                    row["quantity"],
                    int(row["seen"]),
                    int(row["used"]),
                    int(row["set_aside"]),
                    _reasons(row["reasons"], int(row["not_taken"])),
                )
                for row in csv.DictReader(handle)
            ]
        except UNREADABLE as error:
            reason = f"is not the table of counts that a job wrote ({type(error).__name__}: {error})"
            raise StoreError(f"{path}: {reason}; delete it and run the job again that wrote it") from error


def _reasons(said: str, total: int) -> dict[str, int]:
    """The count of each reason. A reason may hold the separator: what adds up is right."""
    parts: list[tuple[int, str]] = []
    for piece in said.split("; "):
        head, _, rest = piece.partition(" ")
        if head.isdecimal() and rest:
            parts.append((int(head), rest))
        elif parts:
            parts[-1] = (parts[-1][0], f"{parts[-1][1]}; {piece}")
    return {reason: count for count, reason in parts} if sum(count for count, _ in parts) == total else {said: total}
