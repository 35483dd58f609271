"""The jobs that make and look at data, as the command line runs them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import (
    DONE,
    QUARANTINED,
    StartRay,
    console,
    progress_bar,
    quarantine,
)

if TYPE_CHECKING:
    from microseg_ray.settings import InfoSettings, SimulateSettings, TileSettings


def simulate(settings: SimulateSettings, _start: StartRay) -> int:
    """Write simulated micrographs with exact masks."""
    from microseg_ray.simulation import simulate_archive

    size = (settings.size, settings.size) if isinstance(settings.size, int) else settings.size
    written = simulate_archive(Path(settings.output), settings.count, size, settings.seed, settings.preset)
    console.print(f"{len(written)} micrographs of {size[0]} x {size[1]} px with masks in {escape(settings.output)}")
    return DONE


def tile(settings: TileSettings, start: StartRay) -> int:
    """Make a tile store and print what is in it."""
    from microseg_ray import tiling

    with progress_bar() as bar:
        tiled = tiling.tile(settings, bar.update, start)
    table = Table("split", "micrographs", "tiles", *(item.name for item in settings.classes))
    for line in tiled.summary:
        table.add_row(line.split, str(line.micrographs), str(line.tiles), *(f"{share:.4f}" for share in line.fractions))
    console.print(table)
    spec = tiled.store.spec
    where = escape(str(tiled.store.folder))
    console.print(f"{spec.tiles} tiles of {spec.side} px ({spec.channels} channel, {spec.dtype}) in {where}")
    if settings.scaling.clahe is not None:
        console.print(
            "[yellow]warning:[/] scaling.clahe equalises each tile by itself: what a model sees of a pixel depends on the "
            "tile, so stitched masks can show where tiles meet, and runs will say unsafe"
        )
    if tiled.left_out:
        console.print(f"{tiled.left_out} tiles without enough labelled pixels were left out")
    return quarantine(tiled.failures, tiled.store.folder / "failures.csv")


def info(settings: InfoSettings, _start: StartRay) -> int:
    """Say what the engine sees in files."""
    from microseg_ray.catalog import Failure as Failed
    from microseg_ray.errors import InputError
    from microseg_ray.sources import open_micrograph

    failures = []
    for path in settings.files:
        try:
            with open_micrograph(path) as micrograph:
                seen = micrograph.info
        except InputError as error:
            failures.append(Failed(path, "open", str(error).removeprefix(f"{path}: ")))
            continue
        size = "unknown" if seen.pixel_size_um is None else f"{seen.pixel_size_um[0]:g} x {seen.pixel_size_um[1]:g} um"
        source = f" ({seen.pixel_size_source})" if seen.pixel_size_um is not None else ""
        reading = "regions are read lazily" if seen.lazy else f"decoded whole, {seen.decoded_bytes / 1e6:.1f} MB"
        console.print(f"[bold]{escape(path)}[/]")
        side = f"{seen.shape[0]} x {seen.shape[1]} px (height x width)"
        console.print(f"  {seen.format}, {side}, {seen.channels} channel, {seen.dtype}")
        console.print(f"  pixel size (y x x): {size}{escape(source)}; {reading}")
    for failure in failures:
        console.print(f"[yellow]{escape(failure.path)}[/]: {escape(failure.reason)}")
    return QUARANTINED if failures else DONE
