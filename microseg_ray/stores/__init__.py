"""What lies on disk: the tile store for training, the mask store with its ledger of counts."""

from __future__ import annotations

from microseg_ray.stores.mask_spec import EXTRAS, MaskSpec
from microseg_ray.stores.mask_store import MaskStore, count_classes
from microseg_ray.stores.pyramid import mode_downsample
from microseg_ray.stores.tile_spec import TileSpec
from microseg_ray.stores.tile_store import TileStore, write_table

__all__ = [
    "EXTRAS",
    "MaskSpec",
    "MaskStore",
    "TileSpec",
    "TileStore",
    "count_classes",
    "mode_downsample",
    "write_table",
]
