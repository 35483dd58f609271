"""The versions of what computes."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

__all__ = ["version", "versions"]

_ALWAYS = ("microseg_ray", "torch", "numpy")


@cache
def version(name: str) -> str:
    """Version of an installed package; its file is parsed once, which takes 6 ms.

    Args:
        name: Of the package.

    Raises:
        PackageNotFoundError: It is not installed.

    Example:
        >>> version("numpy") == version("numpy")
        True
    """
    return metadata.version(name)


def versions(*more: str) -> dict[str, str]:
    """Versions of what decides results, for run.json and model.json.

    Args:
        more: Packages beside `microseg_ray`, `torch` and `numpy`. One that is not installed is "not installed".

    Example:
        >>> sorted(versions("zarr"))
        ['microseg_ray', 'numpy', 'python', 'torch', 'zarr']
    """
    found = {"python": platform.python_version()}
    for name in (*_ALWAYS, *more):
        try:
            found[name] = version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
