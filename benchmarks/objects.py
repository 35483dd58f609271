"""Objects of one mask: time and memory beside scipy, scikit-image, cc3d and dask-image; equality; memory by size.

The mask is made from one smoothed random field that repeats, with four classes, and lies on disk as a zarr array in shards, as
the mask of a run. Peers get it as one array in memory, which they need. A peer that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import ROOT, Table, in_turns, measured, ratios

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

OURS = "microseg_ray, all properties"
OURS_LIGHT = "microseg_ray, all properties and intensities"
SCIPY = "scipy label"
CLASSES = 4
PER_OBJECT = 1340
"""Bytes that an object of this mask takes while it is measured: the slope of the peak over the number of objects."""
TILE = 2048
MOSAICS = ROOT.parent / "shared" / "data" / "mudrock" / "mosaics"


def pattern(scale: float) -> NDArray[np.uint8]:
    """One square of `TILE` px that repeats seamlessly: four classes with 60, 20, 15 and 5 % of the area."""
    from scipy import ndimage

    field = np.random.default_rng(0).standard_normal((TILE, TILE)).astype(np.float32)
    field = ndimage.gaussian_filter(field, scale, mode="wrap")
    return np.searchsorted(np.quantile(field, (0.6, 0.8, 0.95)), field.ravel()).reshape(field.shape).astype(np.uint8)


def mask_row(square: NDArray[np.uint8], row: int, side: int) -> NDArray[np.uint8]:
    """A row of squares, each shifted by its own amount, so that objects cross the borders everywhere."""
    parts = [np.roll(square, (37 * row + 13 * column, 61 * column), axis=(0, 1)) for column in range(-(-side // TILE))]
    return np.concatenate(parts, axis=1)[:, :side]


def make_mask(path: Path, side: int, scale: float) -> None:
    """The mask of `side` px as zarr, a row of shards at a time."""
    import zarr

    square = pattern(scale)
    array = zarr.create_array(
        str(path), shape=(side, side), dtype="uint8", shards=(TILE, TILE), chunks=(512, 512), fill_value=255
    )
    for row in range(-(-side // TILE)):
        array[row * TILE : (row + 1) * TILE] = mask_row(square, row, side)[: side - row * TILE]


def ours(path: Path, *, light: bool = False) -> dict[str, Any]:
    import zarr

    from microseg_ray.statistics.objects.finding import ObjectRule, find_objects

    array = zarr.open_array(str(path), mode="r")

    def read(box: Any) -> NDArray[np.uint8]:
        return np.asarray(array[box.slices])

    found = find_objects(array.shape, read, ObjectRule(8), (0.5, 0.5), read if light else None)
    return {"objects": len(found), "pixels": int(found.sums.pixels.sum())}


def whole(path: Path) -> NDArray[np.uint8]:
    import zarr

    return np.asarray(zarr.open_array(str(path), mode="r")[:])


def scipy_label(path: Path) -> dict[str, Any]:
    from scipy import ndimage

    mask = whole(path)
    return {"objects": sum(ndimage.label(mask == index, np.ones((3, 3)))[1] for index in range(CLASSES))}


def scipy_sums(path: Path) -> dict[str, Any]:
    """Labels, then area and centroid of each."""
    from scipy import ndimage

    mask, total = whole(path), 0
    for index in range(CLASSES):
        labels, count = ndimage.label(mask == index, np.ones((3, 3)))
        numbers = np.arange(1, count + 1)
        np.bincount(labels.ravel())
        ndimage.center_of_mass(labels > 0, labels, numbers)
        total += count
    return {"objects": total}


def skimage_label(path: Path) -> dict[str, Any]:
    from skimage.measure import label

    mask = whole(path)
    return {"objects": int(label(mask, background=255, connectivity=2).max())}


def skimage_table(path: Path) -> dict[str, Any]:
    """The same properties as ours, as far as scikit-image has them, object by object."""
    from skimage.measure import label, perimeter_crofton, regionprops

    mask, total = whole(path), 0
    for region in regionprops(label(mask, background=255, connectivity=2)):
        _ = (
            region.area,
            region.centroid,
            region.axis_major_length,
            region.axis_minor_length,
            region.orientation,
            region.euler_number,
            region.feret_diameter_max,
            perimeter_crofton(region.image, directions=4),
        )
        total += 1
    return {"objects": total}


def cc3d_label(path: Path) -> dict[str, Any]:
    import cc3d

    return {"objects": int(cc3d.connected_components(whole(path) + np.uint8(1), connectivity=8, return_N=True)[1])}


def cc3d_statistics(path: Path) -> dict[str, Any]:
    """Labels, then count, box and centroid of each."""
    import cc3d

    labels, count = cc3d.connected_components(whole(path) + np.uint8(1), connectivity=8, return_N=True)
    cc3d.statistics(labels)
    return {"objects": int(count)}


def dask_image_label(path: Path) -> dict[str, Any]:
    """Chunk by chunk, from the zarr array; the labels are counted, not kept."""
    import dask
    import dask.array as da
    from dask_image import ndmeasure

    blocks, total = da.from_zarr(str(path), chunks=(TILE, TILE)), 0
    with dask.config.set(scheduler="synchronous"):
        for index in range(CLASSES):
            labels, count = ndmeasure.label(blocks == index, np.ones((3, 3)))
            total += int(count.compute())
            labels.max().compute()
    return {"objects": total}


WAYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    OURS: ours,
    OURS_LIGHT: lambda path: ours(path, light=True),
    SCIPY: scipy_label,
    "scipy label, area, centroid": scipy_sums,
    "scikit-image label": skimage_label,
    "scikit-image regionprops": skimage_table,
    "cc3d label": cc3d_label,
    "cc3d label, statistics (area, box, centroid)": cc3d_statistics,
    "dask-image label": dask_image_label,
}


def way(arguments: dict[str, Any]) -> None:
    """Warm up on a small mask, then once on the large one."""
    method = WAYS[arguments["method"]]
    small = Path(arguments["small"])
    method(small)
    measured(lambda: method(Path(arguments["path"])))


def equality(side: int, scale: float, most: int | None, command: str) -> list[Table]:
    """The mudrock mosaics and a generated mask, property by property beside scipy and scikit-image."""
    from benchmarks.objects_equality import PROPERTIES, Compared, cells, compare

    done: dict[str, Compared] = {}
    for path in sorted([*MOSAICS.glob("*_seed_pred.png"), *MOSAICS.glob("*_labels.png")]):
        codes, mask = np.unique(_gray(path), return_inverse=True)
        values = _gray(path.with_name(f"{path.name.partition('_')[0]}_images.png"))
        done[path.stem] = compare(mask.reshape(values.shape).astype(np.uint8), values, len(codes), 256)
    if side:
        square = pattern(scale)
        mask = np.concatenate([mask_row(square, row, side) for row in range(-(-side // TILE))])[:side]
        done[f"generated, {side} x {side} px"] = compare(mask, None, CLASSES, TILE, most)
    table = Table("objects", command, ("property", "compared with", *done))
    table.rows.append(("objects", "", *(str(each.objects) for each in done.values())))
    table.rows += [
        (name, source, *(cells(each, name) for each in done.values())) for name, source in PROPERTIES.items()
    ]
    table.rows.append(("CPU s, ours", "", *(f"{each.ours:.1f}" for each in done.values())))
    table.rows.append(("CPU s, theirs", "", *(f"{each.theirs:.1f}" for each in done.values())))
    table.notes.append(
        "Largest difference over all objects, relative to 1 or more; `equal`: no object differs. 8 neighbours. Feret: "
        "scikit-image's minus ours (docs/statistics.md says why its is up to 1 px larger). Mosaics in blocks of 256 px, the "
        f"generated mask in blocks of {TILE} px."
    )
    counts = Table("objects", command, ("objects compared", *done))
    counts.rows += [(name, *(str(each.counts[name]) for each in done.values())) for name in PROPERTIES]
    return [table, counts]


def _gray(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with Image.open(path) as image:
        values = np.asarray(image)
    return values if values.ndim == 2 else values[..., 0]


def run(arguments: list[str]) -> list[Table]:
    """The tables of `python -m benchmarks objects`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks objects", description=__doc__)
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--scale", type=float, default=12.0, help="smoothing of the field in px")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--sides", type=int, nargs="*", default=[8192, 16384, 32768])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS])
    parser.add_argument(
        "--equal", type=int, default=4096, help="side of the generated mask of `equality`; 0: mosaics only"
    )
    parser.add_argument(
        "--most", type=int, help="objects of a class of that mask that scikit-image measures, spread evenly"
    )
    parser.add_argument("--only", choices=["equality", "peers", "memory"])
    chosen = parser.parse_args(arguments)
    tables = []
    command = " ".join(["python -m benchmarks objects", *arguments])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = folder / "small.zarr"
        make_mask(small, 1024, chosen.scale)
        if chosen.only in {None, "peers"}:
            tables.append(_peers(chosen, command, folder))
        if chosen.only in {None, "memory"}:
            tables.append(_memory(chosen, command, folder))
    if chosen.only in {None, "equality"}:
        tables += equality(chosen.equal, chosen.scale, chosen.most, command)
    return tables


def _peers(chosen: argparse.Namespace, command: str, folder: Path) -> Table:
    path = folder / "mask.zarr"
    make_mask(path, chosen.side, chosen.scale)
    ways = {each: {"method": each, "path": str(path), "small": str(folder / "small.zarr")} for each in chosen.ways}
    found = in_turns("benchmarks.objects", ways, chosen.rounds)
    table = Table("objects", command, ("way", "objects", "CPU s", "s", "peak MiB", f"speed against {SCIPY}"))
    speed = ratios(found, SCIPY) if SCIPY in found else {}
    for each, used in found.items():
        if used:
            best = min(used, key=lambda one: one.cpu)
            cells = (f"{best.result['objects']}", f"{best.cpu:.1f}", f"{best.wall:.1f}", f"{best.peak:.0f}")
            table.rows.append((each, *cells, f"{speed[each]:.2f}" if each in speed else "-"))
    table.figures = speed
    table.notes.append(
        f"{chosen.side} x {chosen.side} px, 4 classes, read from zarr in shards of {TILE} px; 8 neighbours; one process."
    )
    return table


def _memory(chosen: argparse.Namespace, command: str, folder: Path) -> Table:
    table = Table(
        "objects", command, ("side, px", "objects", "CPU s", "CPU ns a pixel", "peak MiB", "less 1340 B an object, MiB")
    )
    for side in chosen.sides:
        path = folder / f"{side}.zarr"
        make_mask(path, side, chosen.scale)
        ways = {OURS: {"method": OURS, "path": str(path), "small": str(folder / "small.zarr")}}
        for used in in_turns("benchmarks.objects", ways, 1)[OURS]:
            count = used.result["objects"]
            table.rows.append(
                (
                    str(side),
                    str(count),
                    f"{used.cpu:.1f}",
                    f"{used.cpu / side**2 * 1e9:.1f}",
                    f"{used.peak:.0f}",
                    f"{used.peak - count * PER_OBJECT / 2**20:.0f}",
                )
            )
    return table


if __name__ == "__main__":
    began = time.perf_counter()
    way(json.loads(sys.argv[sys.argv.index("--way") + 1]))
    print(f"{time.perf_counter() - began:.1f} s with the warm-up", file=sys.stderr)
