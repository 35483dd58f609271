"""`tile` on generated pairs."""

from __future__ import annotations

from microseg_ray.settings import TileSettings

CLASSES = ["matrix", "grain", "pore"]


def settings(pairs, output, **options) -> TileSettings:
    chosen = {
        "images": f"{pairs}/images",
        "masks": f"{pairs}/masks",
        "output": str(output),
        "classes": CLASSES,
        "tile": 32,
        "overlap": 8,
        "workers": 0,
        "group": r"^(\d+)_",
        "splits": {"val": ["1"], "test": 0.3},
    }
    return TileSettings(**{**chosen, **options})
