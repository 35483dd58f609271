"""Opens exported OME-Zarr images with programs of others: `python benchmarks/read_back.py FOLDER`.

It needs none of this project's modules; ome-zarr and napari-ome-zarr want other versions of libraries, so run it in an
environment of their own. Napari's reader is called as napari calls it, without a window.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import zarr
from napari_ome_zarr import napari_get_reader
from ome_zarr.io import parse_url
from ome_zarr.reader import Reader


def main(folder: Path) -> None:
    """Print a row for each reader and layer of each image below a folder."""
    print("| image | read back by | layer | levels | largest | every pixel as zarr's | scale |")
    print("|---|---|---|---|---|---|---|")
    for path in sorted(folder.rglob("*.ome.zarr")):
        group = zarr.open_group(path, mode="r")
        pixels = {"image": group["0"][:], "labels": group["labels/classes/0"][:]}
        name = path.relative_to(folder)
        for node in Reader(parse_url(str(path)))():
            if node.data:
                kind = "labels" if "properties" in node.metadata else "image"
                scale = node.metadata["coordinateTransformations"][0][0]["scale"]
                _row(name, "ome-zarr-py", kind, node.data, pixels[kind], scale)
        for data, metadata, kind in napari_get_reader(str(path))(str(path)):
            _row(name, "napari-ome-zarr", kind, data, pixels[kind], metadata["scale"])


def _row(name: Path, reader: str, kind: str, levels: list, expected: np.ndarray, scale: list) -> None:
    same = np.array_equal(np.asarray(levels[0]), expected)
    shape = " x ".join(map(str, levels[0].shape))
    print(f"| {name} | {reader} | {kind} | {len(levels)} | {shape} | {'yes' if same else 'NO'} | {scale} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
