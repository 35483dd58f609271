"""Small mask stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec

CLASSES = (ClassSpec(name="matrix", color="#102030"), ClassSpec(name="grain"), ClassSpec(name="pore", color="#ff0000"))


def random_mask(shape: tuple[int, int], seed: int = 0, *, ignored: bool = False) -> np.ndarray:
    values = [0, 1, 2, 255] if ignored else [0, 1, 2]
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), size=shape)


def filled(path: Path, mask: np.ndarray, shard: int = 64) -> MaskStore:
    store = MaskStore.create(path, MaskSpec(mask.shape, CLASSES, shard), {"model": "abc"})
    for index in store.missing():
        store.commit(index, mask[store.spec.box(index).slices])
    return store


def mask_file(store: MaskStore, shard: tuple[int, int], array: str = "0") -> Path:
    return Path(store.path) / array / "c" / str(shard[0]) / str(shard[1])


def spoil(path: Path, damage: str, at: int) -> None:
    raw = bytearray(path.read_bytes())
    match damage:
        case "flip":
            raw[at] ^= 0xFF
        case "truncate":
            del raw[len(raw) // 2 :]
        case "empty":
            raw.clear()
        case "zeros":
            raw = bytearray(len(raw))
        case "long":
            raw += b"\x07"
    path.write_bytes(bytes(raw))
