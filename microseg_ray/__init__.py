"""Segments archives of huge micrographs into exact masks and area statistics.

Importing this package loads neither ray nor torch: a name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from microseg_ray.errors import MicrosegError
    from microseg_ray.geometry import Box, Tile, TileGrid
    from microseg_ray.sources import open_micrograph
    from microseg_ray.stitching import stitch, tiles_on_disk

__all__ = ["Box", "MicrosegError", "Tile", "TileGrid", "open_micrograph", "stitch", "tiles_on_disk"]

__version__ = "0.1.0"

_MODULES = {
    "Box": "geometry",
    "MicrosegError": "errors",
    "Tile": "geometry",
    "TileGrid": "geometry",
    "open_micrograph": "sources",
    "stitch": "stitching",
    "tiles_on_disk": "stitching",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"microseg_ray.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
