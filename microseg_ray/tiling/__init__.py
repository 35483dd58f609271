"""The tile job: an archive of micrographs and masks to one tile store, on Ray Data.

Two passes over the archive. The survey reads every pair once and finds what is wrong with it, so that the store is laid
out for good tiles only and has no holes. Then each shard of the store is written whole by one task. Rows are
coordinates; a task reads and writes pixels for itself.
"""

from microseg_ray.tiling.job import Tiled, TileSummary, tile

__all__ = ["TileSummary", "Tiled", "tile"]
