"""The versions of what computes."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

__all__ = ["versions"]

_ALWAYS = ("microseg_ray", "torch", "numpy")


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
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
