"""Tiling beside a plain numpy copy of the same bytes, and its peak memory for one huge micrograph.

python -m benchmarks tile [--side 4096] [--count 4] [--huge 16384]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile

from benchmarks.harness import peak_mib, run_part


def write_sources(folder: Path, count: int, side: int) -> None:
    """Grainy uint8 micrographs as uncompressed tiled TIFF, and their masks as deflated tiled TIFF."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        generator = np.random.default_rng(number)
        mask = generator.integers(0, 3, (side // 16, side // 16)).astype(np.uint8)
        mask = mask.repeat(16, axis=0).repeat(16, axis=1)
        image = generator.integers(0, 40, (side, side), np.uint8)
        image += mask * 80
        tifffile.imwrite(folder / "images" / f"{number}.tif", image, tile=(256, 256))
        tifffile.imwrite(folder / "masks" / f"{number}.tif", mask, tile=(256, 256), compression="deflate")


def chosen(folder: Path, output: str, workers: int = 0) -> dict[str, object]:
    return {
        "images": f"{folder}/images",
        "masks": f"{folder}/masks",
        "output": str(folder / output),
        "classes": ["matrix", "grain", "pore"],
        "tile": 256,
        "overlap": 32,
        "workers": workers,
        "splits": {"val": 0.25},
    }


def copying(pixels: int) -> float:
    """Seconds to copy an image byte and a mask byte for each pixel."""
    source, target = np.ones((2, pixels), np.uint8), np.zeros((2, pixels), np.uint8)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        np.copyto(target, source)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def tiling(folder: Path, workers: int) -> float:
    from microseg_ray.on_ray.rows import tile
    from microseg_ray.on_ray.start import start_ray
    from microseg_ray.settings import RaySettings, TileSettings

    if workers:
        start_ray(RaySettings(num_cpus=workers))
    # What is imported and started once is not what is measured.
    tile(TileSettings(**chosen(folder.parent / "small", f"store{workers}", workers)))
    start = time.perf_counter()
    tile(TileSettings(**chosen(folder, f"store{workers}", workers)))
    return time.perf_counter() - start


def peak(settings: dict[str, object]) -> tuple[float, float, float]:
    """MiB before, MiB at most, seconds; in a process of its own."""
    before, most, seconds = json.loads(run_part("benchmarks.tiling", ["--peak", json.dumps(settings)]))
    return before, most, seconds


def print_peak(settings: dict[str, object]) -> None:
    """For that process."""
    from microseg_ray.settings import TileSettings
    from microseg_ray.tiles.make import tile

    before, start = peak_mib(), time.perf_counter()
    tile(TileSettings(**settings))
    print(json.dumps([before, peak_mib(), time.perf_counter() - start]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--huge", type=int, default=16384)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        print_peak(json.loads(options.peak))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, numpy {np.__version__}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_sources(folder / "small", 8, 512)
        write_sources(folder / "many", options.count, options.side)
        pixels = options.count * options.side**2
        copy = copying(pixels)
        print(f"\n{options.count} micrographs of {options.side} x {options.side} px, uint8, with masks\n")
        print("| way | s | MPix/s | MB/s | of a copy |\n|---|---|---|---|---|")
        ways = [
            ("numpy copy", copy),
            *((f"tile, {w} workers" if w else "tile, plain loop", tiling(folder / "many", w)) for w in (0, 2)),
        ]
        for way, seconds in ways:
            rate = pixels / seconds / 1e6
            print(f"| {way} | {seconds:.3f} | {rate:.1f} | {2 * rate:.1f} | {copy / seconds:.4f} |", flush=True)
        if options.huge:
            write_sources(folder / "huge", 1, options.huge)
            print(f"\nOne micrograph of {options.huge} x {options.huge} px, plain loop, a process of its own\n")
            before, most, seconds = peak(chosen(folder / "huge", "store"))
            print("| | |\n|---|---|")
            print(f"| image and mask, decoded | {2 * options.huge**2 / 2**20:.0f} MiB |")
            print(f"| memory after the imports | {before:.0f} MiB |")
            print(f"| memory at most | {most:.0f} MiB |")
            print(f"| time | {seconds:.1f} s, {options.huge**2 / seconds / 1e6:.1f} MPix/s |")


if __name__ == "__main__":
    main()
