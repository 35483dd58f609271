"""Panning a micrograph of 32768 x 32768 px with its mask in headless Chromium: frame times, tiles and bytes.

    python -m benchmarks view --side 32768

The micrograph is a TIFF in tiles of 512 px, a textured block of 2048 px repeated; the mask is that of a run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import LOAD, machine
from benchmarks.many import CHROMIUM

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

BLOCK, TILE, FRAMES, STEP = 2048, 512, 240, 16
PAN = """([frames, step]) => new Promise((done) => {
  performance.clearResourceTimings();
  performance.setResourceTimingBufferSize(100000);
  const { viewer } = window.microseg, times = [], zoom = viewer.viewport.viewportToImageZoom(viewer.viewport.getZoom());
  const by = viewer.viewport.imageToViewportCoordinates(step / zoom, 0).x - viewer.viewport.imageToViewportCoordinates(0, 0).x;
  const frame = (now) => {
    times.push(now);
    if (times.length > frames) {
      const moved = performance.getEntriesByType("resource").filter((each) => each.name.includes("/tile/"));
      done({ times, tiles: moved.length, bytes: moved.reduce((sum, each) => sum + each.transferSize, 0) });
      return;
    }
    viewer.viewport.panBy(new OpenSeadragon.Point(by, 0), true);
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})"""
LOADED = "Object.values(window.microseg.items).every((item) => item.getOpacity() === 0 || item.getFullyLoaded())"


def main(arguments: Sequence[str] | None = None) -> None:
    """Make micrograph and mask, and pan."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=32768)
    parser.add_argument("--folder", help="keep the run here, and use it if it is there")
    options = parser.parse_args(arguments)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="view"))
    if not (folder / "run" / "areas.parquet").is_file():
        make(folder, options.side)
    print(f"python -m benchmarks view --side {options.side}: load {machine()[LOAD]}, window 1280 x 800 px\n")
    measure(folder, options.side)
    if options.folder is None:
        shutil.rmtree(folder)


def make(folder: Path, side: int) -> None:
    """A run of one micrograph in FOLDER/run, and its archive."""
    import tifffile
    from scipy import ndimage

    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.identity import RunIdentity
    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.runs.store.spec import MaskSpec
    from microseg_ray.settings import ClassSpec
    from microseg_ray.sources import fingerprint

    classes = tuple(ClassSpec(name=name) for name in ("matrix", "grain", "pore"))
    archive = folder / "archive"
    archive.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    field = ndimage.gaussian_filter(generator.standard_normal((BLOCK, BLOCK)), 8, mode="wrap")
    field /= field.std()
    image = np.clip(120 + 40 * field + generator.normal(0, 8, field.shape), 0, 255).astype(np.uint8)
    mask = np.digitize(field, [0.8, 1.6]).astype(np.uint8)

    def tiles() -> Iterator[NDArray[np.uint8]]:
        for y in range(0, side, TILE):
            for x in range(0, side, TILE):
                yield image[y % BLOCK : y % BLOCK + TILE, x % BLOCK : x % BLOCK + TILE]

    tifffile.imwrite(archive / "a.tif", tiles(), shape=(side, side), dtype=np.uint8, tile=(TILE, TILE))
    record: dict[str, Any] = {"archive": str(archive), "source": str(archive), "checkpoint": "none", "settings": {}}
    record |= {"classes": [each.model_dump() for each in classes]}
    run = Run.create(folder / "run", RunIdentity("f00d", {}), record)
    spec = MaskSpec((side, side), classes, shard=BLOCK)
    store = MaskStore.create(run.store_path("a.tif"), spec, {"fingerprint": fingerprint(archive / "a.tif", "stat")})
    for shard in np.ndindex(*spec.shards):
        box = spec.box(shard)
        store.commit(shard, mask[: box.height, : box.width])
    store.finish((0.5, 0.5), {"pixel_size_um": (0.5, 0.5), "pixel_size_source": "option"})
    run.write_tables(["a.tif"], [])


def measure(folder: Path, side: int) -> None:
    """Open the micrograph, wait for its levels, and pan at several zooms."""
    from playwright.sync_api import sync_playwright

    from microseg_ray.report.viewer.subject import key_of

    key = key_of("a.tif")
    command = [sys.executable, "-m", "microseg_ray.cli", "view", str(folder / "run"), "--no-browser"]
    with tempfile.TemporaryDirectory() as cache, sync_playwright() as driver:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen([*command, "--cache", cache], stdout=subprocess.PIPE, text=True, env=environment)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            found = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
            if found is None:
                raise SystemExit("microseg view gave no address")
            tab = browser.new_page(viewport={"width": 1280, "height": 800})
            tab.goto(found.group())
            tab.wait_for_selector("#rows tbody tr")
            began = time.perf_counter()
            tab.goto(f"{tab.url.partition('#')[0]}#m/{key}?y={side / 2}&x={side / 4}&z=1")
            tab.wait_for_selector(f"body[data-ready^='#m/{key}']")
            wait_loaded(tab)
            print(f"* the micrograph at 1:1, all its tiles drawn: {time.perf_counter() - began:.2f} s")
            asked = f"fetch('api/micrograph/{key}/progress').then((answer) => answer.json()).then((said) => said.share)"
            while tab.evaluate(asked) < 1:
                time.sleep(0.2)
            print(f"* all levels of the overview made: {time.perf_counter() - began:.1f} s\n")
            print("| zoom | frames | median, ms | 95 %, ms | longest, ms | tiles | MB | kB a tile |")
            print("|---|---|---|---|---|---|---|---|")
            for zoom in (1, 1 / 4, 1 / 16):
                tab.goto(f"{tab.url.partition('#')[0]}#m/{key}?y={side / 2}&x={side / 4}&z={zoom}")
                tab.wait_for_timeout(1500)
                wait_loaded(tab)
                for name in ("new places", "the same places again"):
                    row(f"1/{1 / zoom:.0f}" if zoom < 1 else "1:1", name, tab.evaluate(PAN, [FRAMES, STEP]))
                    tab.evaluate(BACK, [FRAMES, STEP])
                    tab.wait_for_timeout(1000)
        finally:
            browser.close()
            process.terminate()
            process.communicate(timeout=30)


def wait_loaded(tab: Any) -> None:
    """Until all tiles of what is shown are there; the page's policy forbids what `wait_for_function` does."""
    while not tab.evaluate(LOADED):
        time.sleep(0.02)


BACK = """([frames, step]) => {
  const { viewport } = window.microseg.viewer, zoom = viewport.viewportToImageZoom(viewport.getZoom());
  const by = viewport.imageToViewportCoordinates(step / zoom, 0).x - viewport.imageToViewportCoordinates(0, 0).x;
  viewport.panBy(new OpenSeadragon.Point(-by * frames, 0), true);
}"""


def row(zoom: str, name: str, found: dict[str, Any]) -> None:
    """A line of the table."""
    frames = np.diff(found["times"])
    low, high = np.percentile(frames, (50, 95))
    size, tiles = found["bytes"], found["tiles"]
    cells = [
        f"{zoom}, {name}",
        len(frames),
        f"{low:.1f}",
        f"{high:.1f}",
        f"{frames.max():.1f}",
        tiles,
        f"{size / 1e6:.1f}",
    ]
    print("|", *(f"{cell} |" for cell in [*cells, f"{size / tiles / 1e3:.0f}" if tiles else "-"]), flush=True)


if __name__ == "__main__":
    main()
