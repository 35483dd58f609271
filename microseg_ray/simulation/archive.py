"""Writes simulated micrographs as an archive: OME-TIFF images, PNG masks and the exact areas."""

from __future__ import annotations

import csv
import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image

from microseg_ray.errors import SettingsError
from microseg_ray.simulation.micrograph import Simulated, simulate_micrograph
from microseg_ray.stores import count_classes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["simulate_archive"]


def _write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """A file is whole or absent: write beside it, then rename."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _write_pair(simulated: Simulated, image_path: Path, mask_path: Path, seed: int) -> None:
    """The image as OME-TIFF with its pixel size, the mask as a PNG of class indices."""
    size_y, size_x = simulated.pixel_size_um
    metadata = {
        "axes": "YX",
        "PhysicalSizeX": size_x,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": size_y,
        "PhysicalSizeYUnit": "µm",
        # Otherwise made from the clock: the same seed gives the same bytes on disk, too.
        "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'microseg_ray {image_path.name} {seed}')}",
    }

    def write_image(path: Path) -> None:
        tifffile.imwrite(
            path, simulated.image, ome=True, tile=(256, 256), compression="zlib", metadata=metadata, maxworkers=1
        )

    # Gray, not palette: many readers turn a palette image into colours, and the indices are lost.
    _write_whole(image_path, write_image)
    _write_whole(mask_path, lambda path: Image.fromarray(simulated.mask).save(path, format="PNG"))


def _truth_rows(name: str, simulated: Simulated) -> Iterator[tuple[str, str, int, float]]:
    counts = count_classes(simulated.mask, len(simulated.classes)).tolist()
    for spec, count in zip(simulated.classes, counts, strict=True):
        yield name, spec.name, count, count / simulated.mask.size


def simulate_archive(
    output: Path, count: int, size: tuple[int, int], seed: int, preset: str = "grains"
) -> list[tuple[Path, Path]]:
    """Write simulated micrographs, their masks and the truth about them.

    Writes `images/NAME.tif` (tiled, deflate, OME pixel size), `masks/NAME.png` (class indices) and, when all are there,
    `truth.csv` with the columns micrograph (`NAME.tif`), class, pixel_count, area_fraction.

    Args:
        output: Folder; made if missing. Files of the same name are replaced.
        count: Micrographs, at least one.
        size: (height, width) of each, in pixels.
        seed: Seed of the archive; every micrograph has its own, and the first ones stay the same when `count` grows.
        preset: One of `PRESETS`.

    Returns:
        (image, mask) paths, in the order of the names.

    Raises:
        SettingsError: As `simulate_micrograph`, or a count below one.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pairs = simulate_archive(Path(folder), 2, (16, 16), seed=0)
        >>> [(image.name, mask.name) for image, mask in pairs]
        [('grains_0000.tif', 'grains_0000.png'), ('grains_0001.tif', 'grains_0001.png')]
    """
    if count < 1:
        raise SettingsError(f"count {count}: at least one micrograph must be simulated")
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative; use zero or more")
    images, masks = output / "images", output / "masks"
    images.mkdir(parents=True, exist_ok=True)
    masks.mkdir(parents=True, exist_ok=True)
    pairs: list[tuple[Path, Path]] = []
    truth: list[tuple[str, str, int, float]] = []
    for index in range(count):
        own_seed = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0])
        simulated = simulate_micrograph(size, own_seed, preset=preset)
        name = f"{preset}_{index:04d}"
        image_path, mask_path = images / f"{name}.tif", masks / f"{name}.png"
        _write_pair(simulated, image_path, mask_path, own_seed)
        truth.extend(_truth_rows(image_path.name, simulated))
        pairs.append((image_path, mask_path))

    def write_truth(path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("micrograph", "class", "pixel_count", "area_fraction"))
            writer.writerows(truth)

    _write_whole(output / "truth.csv", write_truth)
    return pairs
