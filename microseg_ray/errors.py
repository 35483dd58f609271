"""The exceptions of the engine: few, each also a builtin one, each with what to do about it.

A message says what was wrong, where (file, key, value) and what to do, in that order.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "CoverageError",
    "InputError",
    "MicrosegError",
    "RunMismatchError",
    "SettingsError",
    "StoreError",
]


class MicrosegError(Exception):
    """Base of every error that the engine raises on purpose.

    Example:
        >>> issubclass(InputError, MicrosegError) and issubclass(InputError, ValueError)
        True
    """


class InputError(MicrosegError, ValueError):
    """A file that a user gave cannot be used; a job quarantines it and goes on with the rest.

    Args:
        where: The file (or folder, or URL) at fault.
        reason: What is wrong with it, in one sentence.
        advice: What the user can do about it.

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
        # Exceptions travel between Ray processes by pickle, which would otherwise call __init__ with one argument.
        return type(self), (self.where, self.reason, self.advice)


class SettingsError(MicrosegError, ValueError):
    """A setting is unknown, missing or impossible; the message names its key (exit code 2)."""


class StoreError(MicrosegError, ValueError):
    """A store on disk is damaged, or a write to it was refused because it is not whole."""


class CheckpointError(MicrosegError, ValueError):
    """A checkpoint cannot be used: files missing, weights that do not fit the architecture, unknown architecture."""


class CoverageError(MicrosegError, ValueError):
    """Tiles given to be stitched leave a pixel uncovered; the message says where."""


class RunMismatchError(MicrosegError, RuntimeError):
    """A run folder holds results of another model or other settings; the message says which differ."""
