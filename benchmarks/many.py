"""The page of a run of 10,000 micrographs: seconds and MB of `report` and `view`, seconds until the browser shows them.

    python -m benchmarks many --count 10000
    python -m benchmarks many --count 10000 --view      # `view` alone

The run is synthetic: 40 different micrographs and masks of 512 px with margin maps, under 10,000 names.
"""

from __future__ import annotations

import argparse
import json
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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from playwright.sync_api import Browser

KINDS, SIDE = 40, 512
CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the run and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--folder", help="keep the run here, and use it if it is there")
    parser.add_argument("--view", action="store_true", help="measure `view` alone")
    parser.add_argument("--rounds", type=int, default=5, help="starts of `view`")
    options = parser.parse_args(arguments)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="many"))
    if not (folder / "run" / "areas.parquet").is_file():
        make(folder, options.count)
    print(
        f"python -m benchmarks many --count {options.count}{' --view' if options.view else ''}: load {machine()[LOAD]}\n"
    )
    run = folder / "run"
    if not options.view:
        print("| what | s | CPU s | MB |\n|---|---|---|---|")
        jobs_of(folder)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        found = [] if options.view else report_in(browser, run / "report.html")
        for name, seconds in found:
            print(f"| {name} | {seconds:.2f} | | |", flush=True)
        print_views(browser, folder, options.rounds)
        browser.close()
    if options.folder is None:
        shutil.rmtree(folder)


def jobs_of(folder: Path) -> None:
    """Print seconds and MB of the jobs that are no server; a report with thumbnails is left behind."""
    jobs: tuple[tuple[str, list[str]], ...] = (
        ("`microseg info`, for the start of the program", ["info", str(next((folder / "archive").iterdir()))]),
        ("`microseg report`", ["report", "--run", str(folder / "run")]),
        ("`microseg report --thumbnails false --places 0`", ["report", "--run", str(folder / "run"), *PLAIN]),
    )
    for name, command in jobs:
        wall, cpu = timed(command)
        size = sum(f.stat().st_size for f in [folder / "run" / "report.html"] if f.is_file()) / 1e6
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {'' if command[0] == 'info' else f'{size:.1f}'} |", flush=True)
    timed(["report", "--run", str(folder / "run")])


PLAIN = ["--thumbnails", "false", "--places", "0"]


def make(folder: Path, count: int) -> None:
    """A finished run of `count` micrographs of `KINDS` kinds, in FOLDER/run, and its archive."""
    import tifffile
    from scipy import ndimage

    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.identity import RunIdentity
    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.runs.store.spec import MaskSpec
    from microseg_ray.settings import ClassSpec
    from microseg_ray.sources import fingerprint
    from microseg_ray.statistics.areas import Measured

    classes = tuple(ClassSpec(name=name) for name in ("matrix", "grain", "pore"))
    archive = folder / "archive"
    archive.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"archive": str(archive), "source": str(archive), "checkpoint": "none", "settings": {}}
    record |= {"classes": [each.model_dump() for each in classes]}
    run = Run.create(folder / "run", RunIdentity("f00d", {"extra": "margin"}), record)
    measured: dict[str, Measured] = {}
    for number in range(count):
        name, kind = f"{number:05}.tif", number % KINDS
        if number < KINDS:
            generator = np.random.default_rng(kind)
            field = ndimage.gaussian_filter(generator.standard_normal((SIDE, SIDE)), 6)
            field /= field.std()
            mask = np.digitize(field, [generator.normal(0.8, 0.1), 1.6]).astype(np.uint8)
            image = np.clip(120 + 40 * field + generator.normal(0, 6, field.shape), 0, 255).astype(np.uint8)
            tifffile.imwrite(archive / name, image)
            spec = MaskSpec(mask.shape, classes, shard=SIDE, extra="margin")
            identity = {"fingerprint": fingerprint(archive / name, "stat")}
            store = MaskStore.create(run.store_path(name), spec, identity)
            margin = np.clip(254 * np.abs(field - 0.8) / 2, 0, 254).astype(np.uint8)
            counts = store.commit((0, 0), mask, margin)
            store.finish((0.5, 0.5), {"pixel_size_um": (0.5, 0.5), "pixel_size_source": "option"})
        else:
            first = f"{kind:05}.tif"
            os.link(archive / first, archive / name)
            shutil.copytree(run.store_path(first), run.store_path(name), copy_function=os.link)
            counts = measured[first].counts
        measured[name] = Measured(name, counts, (0.5, 0.5), "option", "f00d", {}, SIDE * SIDE)
    run.write_tables(measured, [], measured)


def timed(command: Sequence[str]) -> tuple[float, float]:
    """Wall and CPU seconds of a job as its own process."""
    began, before = time.perf_counter(), os.times()
    subprocess.run([sys.executable, "-m", "microseg_ray.cli", *command], check=True, capture_output=True)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - began, cpu


def report_in(browser: Browser, page: Path) -> list[tuple[str, float]]:
    """Seconds until the page of the run is drawn, sorted and filtered."""
    tab = browser.new_page()
    found = [("report.html opened in Chromium, drawn", clicked(tab, lambda: tab.goto(page.as_uri())))]
    found.append(("a click that sorts all its rows", clicked(tab, lambda: tab.click("#areas thead th:nth-child(4)"))))
    found.append(("its rows filtered by a name", clicked(tab, lambda: tab.fill("#filter", "09999"))))
    pdf = page.with_suffix(".pdf")
    began = time.perf_counter()
    tab.pdf(path=str(pdf))
    found.append((f"printed as PDF, {pdf.stat().st_size / 1e6:.1f} MB", time.perf_counter() - began))
    pdf.unlink()
    tab.close()
    return found


def clicked(tab: Any, action: Any, awaited: str = "body") -> float:
    """Seconds until the picture after an action is drawn, with what is awaited in it."""
    began = time.perf_counter()
    action()
    tab.wait_for_selector(awaited)
    tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return time.perf_counter() - began


def print_views(browser: Browser, folder: Path, rounds: int) -> None:
    """Start `view` on the run, and on a run of one micrograph, again and again, and print what each start took."""
    baseline = folder / "one"
    if not (baseline / "run" / "areas.parquet").is_file():
        make(baseline, 1)
    runs = {"one micrograph": baseline / "run", "this run": folder / "run"}
    with tempfile.TemporaryDirectory() as bytecode:
        # As of an installed package: the first start compiles all modules, and is not counted.
        compiled = {"PYTHONPYCACHEPREFIX": bytecode, "PYTHONUNBUFFERED": "1"}
        environment = {**{k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}, **compiled}
        view_in(browser, runs["this run"], environment)
        print(
            "\n| run | address, s | CPU s | list drawn, s | CPU s | pictures drawn, s | reloaded, s | next page, s | MB |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for _ in range(rounds):
            for name, run in runs.items():
                found = view_in(browser, run, environment)
                print(f"| {name} | {' | '.join(f'{value:.2f}' for value in found)} |", flush=True)


def view_in(browser: Browser, run: Path, environment: dict[str, str]) -> tuple[float, ...]:
    """Seconds from the start of `microseg view`, with CPU seconds of its process: address, list drawn, thumbnails drawn."""
    with tempfile.TemporaryDirectory() as cache:
        tab = browser.new_page()
        tab.add_init_script(DRAWN)
        began, clock = time.perf_counter(), time.time()
        command = [sys.executable, "-m", "microseg_ray.cli", "view", str(run), "--no-browser", "--cache", cache]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            address = re.search(r"http://\S+", process.stdout.readline() if process.stdout else "")
            found = [time.perf_counter() - began, cpu_of(process.pid)]
            if address is None:
                raise SystemExit(process.stderr.read() if process.stderr else "no address")
            tab.goto(address.group(), wait_until="commit")
            found += [tab.wait_for_function("() => window.drawn").json_value() / 1e3 - clock, cpu_of(process.pid)]
            tab.wait_for_function(PICTURES)
            found.append(time.perf_counter() - began)
            found.append(clicked(tab, lambda: tab.reload(wait_until="commit"), "#rows tbody tr"))
            tab.wait_for_load_state("networkidle")
            more = tab.locator("#pager button:last-child")
            if more.is_enabled():
                found.append(clicked(tab, more.click, "body[data-ready*='page=1']"))
            else:
                found.append(float("nan"))
            found.append(sum(json.loads(tab.evaluate(SIZES))) / 1e6)
            tab.close()
        finally:
            process.terminate()
            process.communicate(timeout=30)
    return tuple(found)


def cpu_of(process: int) -> float:
    """CPU seconds of a process so far, as the system counts them."""
    numbers = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


DRAWN = """new MutationObserver((_, observer) => {
  if (window.drawn || !document.querySelector("#rows tbody tr")) return;
  observer.disconnect();
  requestAnimationFrame(() => requestAnimationFrame(() => { window.drawn = performance.timeOrigin + performance.now(); }));
}).observe(document, { childList: true, subtree: true });"""
"""The page's own clock when its rows have been drawn: what watches it from outside looks a quarter of a second later."""
PICTURES = """() => [...document.querySelectorAll("#rows img")].every((each) =>
  each.getBoundingClientRect().top > innerHeight || (each.complete && each.naturalWidth > 0))"""
SIZES = "JSON.stringify(performance.getEntriesByType('resource').map((each) => each.transferSize))"

if __name__ == "__main__":
    main()
