"""What is written: the rows of the table, and the tiles of one shard in one go."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import MicrosegError
from microseg_ray.geometry import Box
from microseg_ray.settings import IGNORE_INDEX, SourceSettings
from microseg_ray.sources import open_prepared
from microseg_ray.tiles.store import TileStore
from microseg_ray.tiles.survey import mask_of

if TYPE_CHECKING:
    from microseg_ray.settings import TileSettings

__all__ = ["LeftOut", "shard_request", "tile_rows", "write_row"]

TRAINED_ON = "train"


class LeftOut:
    """Tiles that were left out by rule.

    Attributes:
        unlabelled: Too small a share of them is labelled (`min_labelled`).
        empty: They hold the first class only (`keep_empty`).
    """

    def __init__(self, unlabelled: int = 0, empty: int = 0) -> None:
        self.unlabelled = unlabelled
        self.empty = empty


def tile_rows(
    good: list[dict[str, Any]], settings: TileSettings, first: int = 0
) -> tuple[list[dict[str, Any]], LeftOut]:
    """The rows of tiles.parquet, in order of micrograph, then row-major; and how many tiles were left out.

    Args:
        good: What the survey found.
        settings: `min_labelled` and `keep_empty` count.
        first: Index of the first tile.
    """
    rows: list[dict[str, Any]] = []
    left_out = LeftOut()
    for found in sorted(good, key=lambda item: str(item["name"])):
        shape = found["shape"]
        area = min(shape[0], settings.tile) * min(shape[1], settings.tile)
        for y0, x0, *counts in found["tiles"]:
            labelled = sum(counts)
            if labelled == 0 or labelled / area < settings.min_labelled:
                left_out.unlabelled += 1
                continue
            rows.append(
                {
                    "index": 0,
                    "micrograph": found["name"],
                    "group": found["group"],
                    "split": found["split"],
                    "y0": y0,
                    "x0": x0,
                    "low": float(found["low"]),
                    "high": float(found["high"]),
                    **{f"count_{index}": count for index, count in enumerate(counts)},
                    "count_ignored": area - labelled,
                }
            )
    dropped = _empty_to_drop(rows, settings)
    left_out.empty = len(dropped)
    kept = [row for place, row in enumerate(rows) if place not in dropped]
    for index, row in enumerate(kept, first):
        row["index"] = index
    return kept, left_out


def _empty_to_drop(rows: list[dict[str, Any]], settings: TileSettings) -> set[int]:
    """Places of the training tiles of the first class alone that are not kept; the choice depends on names and seed.

    Only tiles that are trained on are thinned out: the others are there to judge by, and must be as nature made them.
    """
    if settings.keep_empty == 1 or len(settings.classes) < 2:
        return set()

    def draw(row: dict[str, Any]) -> bytes:
        return hashlib.sha256(f"{settings.seed}\0{row['micrograph']}\0{row['y0']}\0{row['x0']}".encode()).digest()

    others = [f"count_{index}" for index in range(1, len(settings.classes))]
    empty = [
        place for place, row in enumerate(rows) if row["split"] == TRAINED_ON and not any(row[name] for name in others)
    ]
    empty.sort(key=lambda place: draw(rows[place]))
    return set(empty[round(len(empty) * settings.keep_empty) :])


def shard_request(
    store: TileStore, shard: int, tiles: list[dict[str, Any]], good: list[dict[str, Any]]
) -> dict[str, Any]:
    """What one shard is written from, as plain JSON types.

    Args:
        store: The unfinished store.
        shard: Index of the shard.
        tiles: Rows of the tiles that are being written, in tile order.
        good: What the survey found of their micrographs.
    """
    files = {found["name"]: [found["image"], found["mask"], found["source"]] for found in good}
    first = int(tiles[0]["index"])
    members = [tiles[index - first] for index in store.spec.shard_range(shard)]
    return {
        "store": str(store.folder),
        "parts": list(store.spec.parts),
        "shard": shard,
        "files": {name: files[name] for name in sorted({row["micrograph"] for row in members})},
        "tiles": [[row["micrograph"], row["y0"], row["x0"]] for row in members],
    }


def write_row(request: dict[str, Any]) -> dict[str, Any]:
    """Write one shard; what is wrong comes back as `reason`."""
    try:
        _write_shard(request)
    except (MicrosegError, OSError) as error:
        return {"reason": str(error)}
    return {"reason": ""}


def _write_shard(request: dict[str, Any]) -> None:
    """Read the tiles of one shard, micrograph by micrograph, and write them in one go."""
    store = TileStore.open(request["store"], unfinished=True, parts=request["parts"])
    spec, count = store.spec, len(request["tiles"])
    images = np.zeros((count, spec.channels, spec.side, spec.side), spec.dtype)
    masks = np.full((count, spec.side, spec.side), IGNORE_INDEX, np.uint8)
    for name, (image, mask_path, source) in request["files"].items():
        mask = mask_of(mask_path)
        with open_prepared(image, spec.scaling, SourceSettings(**source)) as micrograph:
            frame = micrograph.info.specimen
            for slot, (owner, y0, x0) in enumerate(request["tiles"]):
                if owner != name:
                    continue
                visible = Box(y0, x0, y0 + spec.side, x0 + spec.side).intersection(frame)
                below, right = spec.side - visible.height, spec.side - visible.width
                # A micrograph smaller than a tile is mirrored, and what is mirrored is not learnt from.
                images[slot] = np.pad(micrograph.read(visible), ((0, 0), (0, below), (0, right)), mode="reflect")
                masks[slot, : visible.height, : visible.width] = mask[visible.slices]
    store.write_shard(request["shard"], images, masks)
