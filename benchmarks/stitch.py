"""Stitching alone: a trivial model over one micrograph in memory, beside a copy and the peers' loops.

The model is four shifted copies of the pixels as scores, so what is left is cutting tiles, joining them and taking the
largest score. A peer that is not installed (benchmarks/requirements.txt) is left out and named.
"""

from __future__ import annotations

import argparse
import functools
import statistics
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import Table, in_turns, measured, ratios, run_named
from benchmarks.material import make_micrograph

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

BASE = "copy (memcpy)"
JOINING = "microseg_ray, stitch() of masks"
CLASSES = 4


class Trivial:
    """Four scores a pixel; the class is the largest."""

    classes = CLASSES

    def masks(self, batch: NDArray[Any], _limits: tuple[float, float]) -> NDArray[np.uint8]:
        return batch[:, 0] >> 6

    def scores(self, batch: NDArray[Any], _limits: tuple[float, float]) -> NDArray[np.float32]:
        values = batch[:, 0].astype(np.float32) / 64
        return np.stack([-np.abs(values - index - 0.5) for index in range(CLASSES)], axis=1)


def way(arguments: dict[str, Any]) -> None:
    """Run the method once on a small image, then on the large one."""
    method = METHODS.get(arguments["method"], copy)
    side, tile, halo = arguments["side"], arguments["tile"], arguments["halo"]
    small, image = make_micrograph(2 * tile, 2 * tile), make_micrograph(side, side)
    if arguments["method"] == JOINING:
        joining(small, tile, halo)()
        method_of_image = joining(image, tile, halo)
    else:
        method(small, tile, halo)
        method_of_image = functools.partial(method, image, tile, halo)

    def work() -> dict[str, Any]:
        for _ in range(arguments["times"]):
            method_of_image()
        return {}

    measured(work)


def copy(image: NDArray[Any], _tile: int, _halo: int) -> NDArray[Any]:
    return image.copy()


def joining(image: NDArray[Any], tile: int, halo: int) -> Callable[[], NDArray[Any]]:
    """`stitch` alone: the masks of the tiles are there already."""
    from microseg_ray import TileGrid, stitch

    grid = list(TileGrid(image.shape, tile, halo))
    masks = [np.ascontiguousarray(image[each.visible.slices] >> 6) for each in grid]
    return lambda: stitch(zip(grid, masks, strict=True), image.shape, origins=grid)


def ours(blend: str) -> Callable[[NDArray[Any], int, int], NDArray[Any]]:
    """The engine's own loop, shard by shard."""

    def run(image: NDArray[Any], tile: int, halo: int) -> NDArray[Any]:
        from microseg_ray.geometry import Box
        from microseg_ray.stitching import EnginePlan
        from microseg_ray.stitching.shards import engine_grid, predict_shard, shard_window

        shard = 2048
        plan = EnginePlan(tile=tile, halo=halo, stride=1, shard=shard, batch=1, blend=blend, overlap=2 * halo / tile)  # type: ignore[arg-type]
        grid, mask = engine_grid(image.shape, plan), np.empty(image.shape, np.uint8)
        for top in range(0, image.shape[0], shard):
            for left in range(0, image.shape[1], shard):
                box = Box(top, left, min(top + shard, image.shape[0]), min(left + shard, image.shape[1]))
                region, _ = shard_window(grid, box, plan)
                pixels = image[None, *region.slices]
                mask[box.slices] = predict_shard(pixels, Trivial(), grid, box, plan, (0.0, 255.0)).mask
        return mask

    return run


def monai(mode: str, *, buffered: bool = False) -> Callable[[NDArray[Any], int, int], NDArray[Any]]:
    def run(image: NDArray[Any], tile: int, halo: int) -> NDArray[Any]:
        import torch
        from monai.inferers import sliding_window_inference

        model = Trivial()
        options: dict[str, Any] = {"buffer_steps": 4, "buffer_dim": 0} if buffered else {}
        scores = sliding_window_inference(
            torch.from_numpy(image)[None, None].float(),
            (tile, tile),
            1,
            lambda window: torch.from_numpy(model.scores(window.numpy(), (0.0, 255.0))),
            overlap=2 * halo / tile,
            mode=mode,
            **options,
        )
        return scores.argmax(dim=1)[0].to(torch.uint8).numpy()

    return run


def toolbelt(image: NDArray[Any], tile: int, halo: int) -> NDArray[Any]:
    import torch
    from pytorch_toolbelt.inference.tiles import ImageSlicer, TileMerger

    slicer = ImageSlicer(image.shape, tile_size=tile, tile_step=tile - 2 * halo)
    merger = TileMerger(slicer.target_shape, CLASSES, slicer.weight)
    model = Trivial()
    for patch, where in zip(slicer.split(image[..., None]), slicer.crops, strict=True):
        scores = model.scores(np.ascontiguousarray(patch[..., 0])[None, None], (0.0, 255.0))
        merger.integrate_batch(torch.from_numpy(scores), np.asarray([where]))
    merged = np.moveaxis(merger.merge().numpy(), 0, -1)
    return slicer.crop_to_orignal_size(merged).argmax(-1).astype(np.uint8)


def tiler(image: NDArray[Any], tile: int, halo: int) -> NDArray[Any]:
    from tiler import Merger, Tiler

    cut = Tiler(
        data_shape=(1, *image.shape), tile_shape=(1, tile, tile), overlap=(0, 2 * halo, 2 * halo), channel_dimension=0
    )
    out = Tiler(
        data_shape=(CLASSES, *image.shape),
        tile_shape=(CLASSES, tile, tile),
        overlap=(0, 2 * halo, 2 * halo),
        channel_dimension=0,
    )
    merger, model = Merger(out, window="hann"), Trivial()
    for number, patch in cut(image[None]):
        merger.add(number, model.scores(np.ascontiguousarray(patch[:1])[None], (0.0, 255.0))[0])
    return merger.merge(unpad=True).argmax(0).astype(np.uint8)


def dask_overlap(image: NDArray[Any], tile: int, halo: int) -> NDArray[Any]:
    import dask
    import dask.array as da

    model = Trivial()
    blocks = da.from_array(image, chunks=tile - 2 * halo)
    mask = da.map_overlap(
        lambda block: model.scores(block[None, None], (0.0, 255.0))[0].argmax(0).astype(np.uint8),
        blocks,
        depth=halo,
        boundary="reflect",
        dtype=np.uint8,
    )
    with dask.config.set(scheduler="synchronous"):
        return np.asarray(mask.compute())


METHODS: dict[str, Callable[[NDArray[Any], int, int], NDArray[Any]]] = {
    BASE: copy,
    "microseg_ray, crop": ours("crop"),
    "microseg_ray, hann": ours("hann"),
    "MONAI, constant": monai("constant"),
    "MONAI, gaussian": monai("gaussian"),
    "MONAI, gaussian, buffered": monai("gaussian", buffered=True),
    "pytorch-toolbelt": toolbelt,
    "tiler, hann": tiler,
    "dask map_overlap": dask_overlap,
}


NAMES = [BASE, JOINING, *list(METHODS)[1:]]


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks stitch`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks stitch", description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--halo", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=3, help="how often a way does the work in a round")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES)
    chosen = parser.parse_args(arguments)
    columns = ("way", "CPU ms", "ms", f"speed against {BASE}", "peak MiB")
    table = Table("stitch", " ".join(["python -m benchmarks stitch", *arguments]), columns)
    ways = {
        name: {"method": name, "side": chosen.side, "tile": chosen.tile, "halo": chosen.halo, "times": chosen.times}
        for name in chosen.only
    }
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    found = in_turns("benchmarks.stitch", ways, chosen.rounds, threads)
    against = ratios(found, BASE) if BASE in found else {}
    for name, used in found.items():
        if not used:
            table.rows.append((name, "could not run", "", "", ""))
            continue
        cpu = statistics.median(u.cpu for u in used) / chosen.times
        wall = statistics.median(u.wall for u in used) / chosen.times
        speed = against.get(name, float("nan"))
        table.rows.append(
            (name, f"{1000 * cpu:.1f}", f"{1000 * wall:.1f}", f"{speed:.3f}", f"{max(u.peak for u in used):.0f}")
        )
        table.figures[f"{name} / {BASE}"] = round(speed, 4)
    table.notes.append(
        f"{chosen.side} x {chosen.side} px in memory, tiles of {chosen.tile} px, halo {chosen.halo} px, {CLASSES} classes, one "
        f"thread; {chosen.times} times a round, medians of {chosen.rounds} rounds, ratios of CPU seconds within a round."
    )
    table.notes.append(
        "`stitch()` gets the masks of the tiles. In the other rows the trivial model's own work counts. `crop` joins class "
        "indices; the rest averages or crops scores and takes the largest, which is all that their interfaces offer."
    )
    return [table]


if __name__ == "__main__":
    run_named(way)
