"""microseg_ray: archives of huge micrographs to exact masks and area statistics.

The names here work without Ray and without torch; importing them loads neither.
"""

from __future__ import annotations

from microseg_ray.errors import MicrosegError
from microseg_ray.geometry import Box, Tile, TileGrid
from microseg_ray.sources import open_micrograph
from microseg_ray.stitching import stitch, tiles_on_disk

__all__ = ["Box", "MicrosegError", "Tile", "TileGrid", "open_micrograph", "stitch", "tiles_on_disk"]
__version__ = "0.1.0"
