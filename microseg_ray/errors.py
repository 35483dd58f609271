"""Exceptions. Each class is also a subclass of a builtin exception.

A message names the place (file, key, value), the problem and the remedy.
"""

from __future__ import annotations

import csv

__all__ = [
    "UNREADABLE",
    "ChangedInputError",
    "CheckpointError",
    "CoverageError",
    "FencedError",
    "InputError",
    "MicrosegError",
    "ObjectStoreError",
    "RunMismatchError",
    "RuntimeUnfitError",
    "SettingsError",
    "StalledInputError",
    "StoreError",
]


UNREADABLE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, csv.Error)
"""What parsers and their libraries raise on damaged content, such as RecursionError on JSON nested deep; OSError is not of the
content."""


class MicrosegError(Exception):
    """Base class of all errors that this package raises deliberately.

    Example:
        >>> issubclass(InputError, MicrosegError) and issubclass(InputError, ValueError)
        True
    """


class InputError(MicrosegError, ValueError):
    """An input file cannot be used. Jobs quarantine the file and continue with the others.

    Args:
        where: The file, folder or URL.
        reason: The problem, in one sentence.
        advice: What the user can do.

    Example:
        >>> str(InputError("a.tif", "the file is empty (0 bytes)", "copy it again from the microscope"))
        'a.tif: the file is empty (0 bytes); copy it again from the microscope'
    """

    def __init__(self, where: object, reason: str, advice: str = "") -> None:
        self.where = str(where)
        self.reason = reason
        self.advice = advice
        super().__init__(f"{where}: {reason}" + (f"; {advice}" if advice else ""))

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        # Ray sends exceptions between processes by pickle, which would otherwise call __init__ with one argument.
        return type(self), (self.where, self.reason, self.advice)


class ChangedInputError(InputError):
    """An input is not the file any more that the job began with, so that results of both would be mixed."""


class StalledInputError(InputError):
    """Opening or reading an input took longer than `source.read_timeout`."""


class SettingsError(MicrosegError, ValueError):
    """A setting is unknown, missing or invalid; the message names its key (exit code 2)."""


class StoreError(MicrosegError, ValueError):
    """A store on disk is damaged, or an incomplete write to it was refused."""


class ObjectStoreError(MicrosegError, OSError):
    """An object store cannot be reached, or refuses; no input is to blame, so that a job stops and can be resumed."""


class CheckpointError(MicrosegError, ValueError):
    """A checkpoint cannot be used: missing files, unknown architecture, or weights that do not match it."""


class RuntimeUnfitError(MicrosegError, ValueError):
    """A runtime cannot compute a network; the message says which and why."""


class CoverageError(MicrosegError, ValueError):
    """The tiles to stitch do not cover every pixel; the message gives the first uncovered one."""


class RunMismatchError(MicrosegError, RuntimeError):
    """An output holds results of another model or other settings, or files that are not ours; the message says which."""


class FencedError(RunMismatchError):
    """A worker outlived its job, and another job writes into the same output now."""
