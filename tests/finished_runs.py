"""Runs as `segment` leaves them, made without a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import tifffile

from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.sources import fingerprint
from tests.format_files import write_ome_zarr

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec

Size = tuple[float, float] | None


def finished_run(
    folder: Path,
    classes: tuple[ClassSpec, ...],
    micrographs: Mapping[str, tuple[NDArray[np.uint8], Size]],
    shard: int,
    unfinished: Collection[str] = (),
    pixels: Mapping[str, object] | None = None,
) -> Run:
    """A run in FOLDER/run of 16-bit micrographs in FOLDER/archive: TIFF, and OME-Zarr 0.5 where a name ends so.

    Args:
        folder: Where both go.
        classes: Of the masks.
        micrographs: Mask and pixel size by name.
        shard: Side of the shards of the masks.
        unfinished: Names of masks that have all shards and are not finished.
        pixels: Settings that decide pixels, of the run's identity.
    """
    archive = folder / "archive"
    record = {
        "archive": str(archive),
        "source": str(archive),
        "checkpoint": "none",
        "classes": [each.model_dump() for each in classes],
        "settings": {},
    }
    made = Run.create(folder / "run", RunIdentity("f00d", dict(pixels or {})), record)
    for name, (mask, size) in micrographs.items():
        (archive / name).parent.mkdir(parents=True, exist_ok=True)
        light = np.random.default_rng(1).integers(0, 4000, mask.shape).astype(np.uint16)
        if name.endswith(".zarr"):
            write_ome_zarr(archive / name, light)
        else:
            tifffile.imwrite(archive / name, light, photometric="minisblack")
        identity = {"fingerprint": fingerprint(archive / name, "stat")}
        store = MaskStore.create(made.store_path(name), MaskSpec(mask.shape, classes, shard=shard), identity)
        for place in np.ndindex(*store.spec.shards):
            store.commit(place, mask[store.spec.box(place).slices])
        if name not in unfinished:
            store.finish(size, {"pixel_size_um": size, "pixel_size_source": "option" if size else ""})
    return made
