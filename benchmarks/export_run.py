"""Peak memory and CPU time of `export-run` against the size of the micrograph, each format in a process of its own.

Usage: python benchmarks/export_run.py [--sides 2048 8192]

The mask is a block of 2048 px, three classes in structures of some 20 px, repeated; the micrograph is flat. The line `import` is
what importing alone takes.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BLOCK = 2048


def make_run(folder: Path, side: int) -> None:
    """A finished run of one micrograph, made without a model."""
    import tifffile
    from scipy import ndimage

    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.identity import RunIdentity
    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.runs.store.spec import MaskSpec
    from microseg_ray.settings import ClassSpec

    classes = tuple(ClassSpec(name=name) for name in ("matrix", "grain", "pore"))
    field = ndimage.gaussian_filter(np.random.default_rng(0).standard_normal((BLOCK, BLOCK)), 8, mode="wrap")
    mask = np.digitize(field, np.quantile(field, (0.6, 0.95))).astype(np.uint8)
    record = {
        "archive": str(folder / "archive"),
        "source": str(folder / "archive"),
        "checkpoint": "",
        "classes": [each.model_dump() for each in classes],
        "settings": {},
    }
    (folder / "archive").mkdir()
    tiles = (np.full((256, 256), 90, np.uint8) for _ in range((side // 256) ** 2))
    tifffile.imwrite(
        folder / "archive/a.tif", tiles, shape=(side, side), dtype=np.uint8, tile=(256, 256), compression="zlib"
    )
    run = Run.create(folder / "run", RunIdentity("0", {}), record)
    store = MaskStore.create(run.store_path("a.tif"), MaskSpec((side, side), classes), {})
    for shard in np.ndindex(*store.spec.shards):
        box = store.spec.box(shard)
        store.commit(shard, mask[: box.height, : box.width])
    store.finish((0.1, 0.1), {"pixel_size_um": [0.1, 0.1], "pixel_size_source": "option"})


def measure(folder: Path, kind: str) -> None:
    """One format in this process; prints JSON."""
    from microseg_ray.runs.exports.job import export_run
    from microseg_ray.settings import ExportRunSettings

    before = time.process_time()
    written = 0
    if kind != "import":
        output = folder / f"out_{kind}"
        settings = ExportRunSettings(run=str(folder / "run"), output=str(output), format=(kind,), png_pixels=1 << 40)
        done = export_run(settings)
        if done.failures:
            raise SystemExit(str(done.failures))
        written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu": time.process_time() - before, "peak": peak, "bytes": written}))


def main() -> None:
    """Make runs and measure each format."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[2048, 8192])
    parser.add_argument("--formats", nargs="+", default=["import", "tiff", "png", "overlay", "geojson", "coco", "cvat"])
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        measure(Path(given.one[0]), given.one[1])
        return
    print("| side, px | format | CPU s | peak memory, MiB | written, MB |\n|---|---|---|---|---|")
    for side in given.sides:
        with tempfile.TemporaryDirectory() as place:
            make_run(Path(place), side)
            for kind in given.formats:
                command = [sys.executable, __file__, "--one", place, kind]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                found = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {side} | {kind} | {found['cpu']:.1f} | {found['peak']:.0f} | {found['bytes'] / 1e6:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
