"""Libraries that not everybody has: imported when a file needs them, and named where they are missing."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["required"]


def required(path: str, what: str, module: str, extra: str) -> ModuleType:
    """Import what a format needs.

    Args:
        path: The file, for the message.
        what: The format.
        module: The module to import.
        extra: The extra of this package that installs it.

    Raises:
        InputError: It is not installed.

    Example:
        >>> required("a.dm9", "DM9", "no_such_module", "em")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.dm9: reading DM9 needs no_such_module, which is not installed; pip install ...
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        reason = f"reading {what} needs {package}, which is not installed"
        raise InputError(path, reason, f"pip install 'microseg_ray[{extra}]'") from error
