"""Small tile stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.settings import ClassSpec, Scaling
from microseg_ray.tiles.spec import TileSpec
from microseg_ray.tiles.store import TileStore, write_table

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = (ClassSpec(name="matrix", color="#000000"), ClassSpec(name="pore", color="#ff0000"))
SPLITS = ["train", "val", "train", "test", "train", "val", "train"]


def spec(**options: Any) -> TileSpec:
    return TileSpec(
        **{
            "tiles": 7,
            "side": 8,
            "overlap": 2,
            "channels": 2,
            "dtype": "uint16",
            "classes": CLASSES,
            "scaling": Scaling(kind="percentile", low=1, high=99),
            "pixel_size_um": (0.5, 0.25),
            **options,
        }
    )


def contents(made: TileSpec, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    images = (random.random((made.tiles, made.channels, made.side, made.side)) * 255).astype(made.dtype)
    return images, random.choice(np.array([0, 1, 255], np.uint8), (made.tiles, made.side, made.side))


def rows(made: TileSpec, masks: np.ndarray) -> list[dict[str, Any]]:
    return [
        {
            "index": index,
            "micrograph": f"m{index // 2}.tif",
            "group": f"g{index // 2}",
            "split": SPLITS[index % 7],
            "y0": 8 * index,
            "x0": 0,
            "low": float(index),
            "high": 100.0 + index,
            "count_0": int((masks[index] == 0).sum()),
            "count_1": int((masks[index] == 1).sum()),
            "count_ignored": int((masks[index] == 255).sum()),
        }
        for index in range(made.tiles)
    ]


def write(folder: Path, made: TileSpec | None = None, *, table: bool = True, **made_from: Any) -> TileStore:
    made = made or spec()
    images, masks = contents(made)
    TileStore.create(folder, made, made_from or {"archive": "a"})
    for shard in reversed(range(made.shards)):
        cut = slice(made.shard_range(shard).start, made.shard_range(shard).stop)
        TileStore.open(folder, unfinished=True).write_shard(shard, images[cut], masks[cut])
    if table:
        write_table(folder, rows(made, masks))
    return TileStore.open(folder, unfinished=not table)
