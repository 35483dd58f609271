"""Writes an archive of simulated micrographs: images, masks and exact areas. Each band is written once it is drawn."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import tifffile
from PIL import Image

from microseg_ray.errors import SettingsError
from microseg_ray.files import delete_file, sole_writer, whole, whole_folder
from microseg_ray.outputs import Kind, claim
from microseg_ray.recognition import is_only_zarr
from microseg_ray.simulation.micrograph import Bands, simulate_bands
from microseg_ray.statistics.counts import count_classes
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from microseg_ray.settings import ImagingSettings

__all__ = ["Format", "simulate_archive"]

Format = Literal["tiff", "png", "zarr", "npy"]

_TILE = 256
_LARGE = 1 << 26  # masks of this many pixels or more are tiled TIFF, because PNG can only be read whole
_SUFFIXES = {"tiff": ".tif", "png": ".png", "zarr": ".zarr", "npy": ".tif"}


@dataclass(frozen=True)
class _FileOptions:
    """Options of the image files of an archive."""

    format: Format
    viridis: bool


def simulate_archive(
    output: Path,
    count: int,
    size: tuple[int, int],
    seed: int,
    preset: str = "grains",
    *,
    image_format: Format = "tiff",
    viridis: bool = False,
    imaging: ImagingSettings | None = None,
    clusters: tuple[int, int] | None = None,
) -> list[tuple[Path, Path]]:
    """Write simulated micrographs, their masks and the true areas.

    Writes `images/NAME.tif` (tiled, deflate, OME pixel size; or PNG, or OME-less zarr), `masks/NAME.png` (class indices; a
    tiled TIFF from 67 megapixels on) and, after all of them, `truth.csv` with the columns micrograph (`NAME.tif`), class,
    pixel_count, area_fraction. `coarse_fine` and `coarse_fine_hard` write `images/coarse/` and `images/fine/` alternately.
    `npy` also writes `images.npy` and `masks.npy` (count, y, x).

    Args:
        output: Folder; created if missing. Existing files are replaced.
        count: Number of micrographs, at least one.
        size: (height, width) of each, in pixels.
        seed: Seed of the archive; each micrograph has its own, which does not depend on `count`.
        preset: One of `PRESETS`, or coarse_fine, coarse_fine_hard.
        image_format: tiff, png, zarr or npy.
        viridis: Colour PNG images with matplotlib's viridis from minimum to maximum.
        imaging: Imaging parameters; None for the preset's.
        clusters: Minimum and maximum of charge clusters per 256 x 256 pixels of a CCD image; None for the preset's.

    Returns:
        (image, mask) paths, in the order of the names.

    Raises:
        SettingsError: As in `simulate_micrograph`, or a count below one.

    Example:
        >>> import tempfile
        >>> from pathlib import Path, PurePosixPath
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pairs = simulate_archive(Path(folder), 2, (16, 16), seed=0)
        >>> [(image.name, mask.name) for image, mask in pairs]
        [('grains_0000.tif', 'grains_0000.png'), ('grains_0001.tif', 'grains_0001.png')]
    """
    if count < 1:
        raise SettingsError(f"count {count}: at least one micrograph must be simulated")
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative; use zero or more")
    file_options = _FileOptions(image_format, viridis)
    pairs: list[tuple[Path, Path]] = []
    with sole_writer(output):
        _claim(output, count, size, preset, image_format)
        truth: list[tuple[str, str, int, float]] = []
        for index in range(count):
            own_seed = int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0])
            folder, own = _class_of(preset, index)

            bands = simulate_bands(size, own_seed, preset=own, imaging=imaging, clusters=clusters)
            image, mask = (output / name for name in _names(preset, index, size, image_format))
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            counts = _write_pair(bands, image, mask, file_options, own_seed)
            total = int(counts.sum())
            truth += [
                ((Path(folder) / image.name).as_posix(), spec.name, number, number / total)
                for spec, number in zip(bands.classes, counts.tolist(), strict=True)
            ]
            pairs.append((image, mask))
        if image_format == "npy":
            _stack(output, pairs)

        write_csv(output / "truth.csv", ("micrograph", "class", "pixel_count", "area_fraction"), truth)
    return pairs


def _names(preset: str, index: int, size: tuple[int, int], image_format: str) -> tuple[str, str]:
    """Image and mask of a micrograph, below the output."""
    place = PurePosixPath(_class_of(preset, index)[0], f"{preset}_{index:04d}")
    large = size[0] * size[1] >= _LARGE
    return f"images/{place}{_SUFFIXES[image_format]}", f"masks/{place}{'.tif' if large else '.png'}"


def _claim(output: Path, count: int, size: tuple[int, int], preset: str, image_format: str) -> None:
    entries = dict.fromkeys(("truth.csv", *(("images.npy", "masks.npy") if image_format == "npy" else ())), Kind.FILE)
    for index in range(count):
        image, mask = _names(preset, index, size, image_format)
        entries |= {image: Kind.STORE if image_format == "zarr" else Kind.FILE, mask: Kind.FILE}
    claim(output, "simulate", entries)


def _class_of(preset: str, index: int) -> tuple[str, str]:
    """Subfolder and preset of a micrograph."""
    if not preset.startswith("coarse_fine"):
        return "", preset
    grain = ("coarse", "fine")[index % 2]
    return grain, grain + preset.removeprefix("coarse_fine")


def _write_pair(bands: Bands, image: Path, mask: Path, file_options: _FileOptions, seed: int) -> NDArray[np.int64]:
    """Write both files in one pass over the bands; returns the pixels per class."""
    counts = np.zeros(len(bands.classes), np.int64)
    at_once = file_options.format == "png" or bands.shape[0] * bands.shape[1] < _LARGE
    if at_once:
        parts = list(bands.rows)
        pixels, labels = (np.concatenate([part[place] for part in parts]) for place in (0, 1))
        parts.clear()
        counts += count_classes(labels, len(counts))[: len(counts)]
        _write_image(bands, image, iter([pixels]), file_options, seed)
        # Gray, not palette: many readers convert palette images to colours and lose the indices.
        with whole(mask) as partial:
            Image.fromarray(labels).save(partial, format="PNG")
        return counts

    held_at = mask.with_name(f".{mask.name}.rows")

    def drawn() -> Iterator[NDArray[Any]]:
        # Not through mapped memory: on a full disk that ends the process without a word.
        with held_at.open("wb") as held:
            for pixels, labels in bands.rows:
                held.write(np.ascontiguousarray(labels, np.uint8).tobytes())
                counts[:] += count_classes(labels, len(counts))[: len(counts)]
                yield pixels

    try:
        _write_image(bands, image, drawn(), file_options, seed)
        held = np.memmap(held_at, np.uint8, mode="r", shape=bands.shape)
        rows = (held[y0 : y0 + 2 * _TILE] for y0 in range(0, bands.shape[0], 2 * _TILE))
        with whole(mask) as partial:
            _write_tiff(partial, rows, bands.shape, np.dtype(np.uint8), {"metadata": None})
    finally:
        delete_file(held_at)
    return counts


def _write_image(
    bands: Bands, path: Path, parts: Iterator[NDArray[Any]], file_options: _FileOptions, seed: int
) -> None:
    size_y, size_x = bands.pixel_size_um
    match file_options.format:
        case "png":
            pixels = np.concatenate(list(parts))
            shown = Image.fromarray(_coloured(pixels)) if file_options.viridis else Image.fromarray(pixels)
            with whole(path) as partial:
                shown.save(partial, format="PNG")
        case "zarr":
            with whole_folder(path, is_only_zarr) as partial:
                _write_zarr(partial, bands, parts)
        case "tiff" | "npy":
            metadata = {
                "axes": "YX",
                "PhysicalSizeX": size_x,
                "PhysicalSizeXUnit": "µm",
                "PhysicalSizeY": size_y,
                "PhysicalSizeYUnit": "µm",
                # The default depends on the clock; equal seeds must give equal bytes.
                "UUID": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, f'microseg_ray {path.name} {seed}')}",
            }
            options = {"ome": True, "metadata": metadata}
            with whole(path) as partial:
                _write_tiff(partial, parts, bands.shape, bands.dtype, options)


def _write_tiff(
    path: Path, parts: Iterator[NDArray[Any]], shape: tuple[int, int], dtype: np.dtype[Any], options: dict[str, Any]
) -> None:
    def tiles() -> Iterator[NDArray[Any]]:
        for rows in _in_tile_rows(parts):
            for x0 in range(0, shape[1], _TILE):
                tile = rows[:, x0 : x0 + _TILE]
                yield np.pad(tile, ((0, _TILE - tile.shape[0]), (0, _TILE - tile.shape[1])))

    with tifffile.TiffWriter(path, bigtiff=shape[0] * shape[1] > 1 << 31, ome=options.get("ome", False)) as writer:
        writer.write(
            tiles(),
            shape=shape,
            dtype=dtype,
            tile=(_TILE, _TILE),
            compression="zlib",
            metadata=options["metadata"],
            maxworkers=1,
        )


def _in_tile_rows(parts: Iterator[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Regroup the rows into blocks of one tile's height; the last one may be lower."""
    rest: NDArray[Any] | None = None
    for part in parts:
        rows = part if rest is None else np.concatenate([rest, part])
        full = len(rows) // _TILE * _TILE
        for y0 in range(0, full, _TILE):
            yield rows[y0 : y0 + _TILE]
        rest = rows[full:]
    if rest is not None and len(rest):
        yield rest


def _write_zarr(path: Path, bands: Bands, parts: Iterator[NDArray[Any]]) -> None:
    """An OME-Zarr 0.5 image of one level with its pixel size."""
    import zarr

    group = zarr.create_group(str(path), zarr_format=3)
    side = min(512, *bands.shape) if min(bands.shape) else 1
    array = group.create_array(
        "0", shape=bands.shape, chunks=(side, side), dtype=bands.dtype, dimension_names=["y", "x"]
    )
    y0 = 0
    for part in parts:
        array[y0 : y0 + len(part)] = part
        y0 += len(part)
    axes: Any = [{"name": name, "type": "space", "unit": "micrometer"} for name in ("y", "x")]
    scale: Any = [{"type": "scale", "scale": list(bands.pixel_size_um)}]
    image: Any = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
    group.attrs["ome"] = {"version": "0.5", "multiscales": [image]}


def _coloured(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """RGBA in matplotlib's viridis from minimum to maximum, as `imsave` does."""
    from matplotlib import colormaps

    low, high = float(pixels.min()), float(pixels.max())
    share = (pixels.astype(np.float64) - low) / max(high - low, 1e-12)
    return np.asarray(colormaps["viridis"](share, bytes=True), np.uint8)


def _stack(output: Path, pairs: list[tuple[Path, Path]]) -> None:
    """Write all images and all masks as one array each."""
    images = np.stack([tifffile.imread(image) for image, _ in pairs])
    masks = np.stack(
        [tifffile.imread(mask) if mask.suffix == ".tif" else np.asarray(Image.open(mask)) for _, mask in pairs]
    )
    for name, array in (("images", images), ("masks", masks)):
        with whole(output / f"{name}.npy") as partial, partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)
