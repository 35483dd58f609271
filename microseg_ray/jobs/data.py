"""The jobs that make and look at data, as the command line runs them."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import DONE, QUARANTINED, SHOWN_FAILURES, StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from microseg_ray.settings import InfoSettings, SimulateSettings, SourceSettings, TileSettings
    from microseg_ray.tiles.make import MapperFactory


def simulate(settings: SimulateSettings, _start: StartRay) -> int:
    """Write simulated micrographs with exact masks."""
    from microseg_ray.simulation import simulate_archive

    size = (settings.size, settings.size) if isinstance(settings.size, int) else settings.size
    written = simulate_archive(
        Path(settings.output),
        settings.count,
        size,
        settings.seed,
        settings.preset,
        image_format=settings.format,
        viridis=settings.colormap == "viridis",
        imaging=settings.imaging,
        clusters=settings.clusters,
    )
    console.print(f"{len(written)} micrographs of {size[0]} x {size[1]} px with masks in {escape(settings.output)}")
    return DONE


def tile(settings: TileSettings, start: StartRay) -> int:
    """Make a tile store and print what is in it."""
    from microseg_ray.tiles import make as tiling

    with progress_bar() as bar:
        tiled = tiling.tile(settings, bar.update, _mapper(settings, start))
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
    if tiled.empty:
        console.print(f"{tiled.empty} training tiles of {escape(settings.classes[0].name)} alone were left out")
    for note in tiled.notes[:SHOWN_FAILURES]:
        console.print(escape(note))
    for leak in tiled.leaks[:SHOWN_FAILURES]:
        console.print(f"[yellow]leak:[/] {escape(str(leak))}")
    if tiled.leaks:
        console.print(f"{len(tiled.leaks)} leaks, listed in {escape(str(tiled.store.folder / 'leaks.csv'))}")
    if not tiled.written:
        console.print("the store is up to date: nothing to do")
    elif tiled.store.spec.parts:
        console.print(f"{tiled.written} tiles were appended")
    return quarantine(tiled.failures, tiled.store.folder / "failures.csv")


def _mapper(settings: TileSettings, start: StartRay) -> MapperFactory | None:
    """Ray Data; None where the job stays in this process, so that Ray is not imported."""
    if settings.workers == 0:
        return None
    from microseg_ray.on_ray.rows import dataset_mapper

    return partial(dataset_mapper, start)


def info(settings: InfoSettings, _start: StartRay) -> int:
    """Say what the engine sees in files."""
    from microseg_ray.errors import InputError

    failed = False
    for path in settings.files:
        try:
            seen = _looked_at(path, settings.source)
        except InputError as error:
            failed = True
            if settings.as_json:
                print(json.dumps({"path": path, "error": error.reason, "advice": error.advice}))
            else:
                console.print(f"[yellow]{escape(path)}[/]: {escape(str(error).removeprefix(f'{path}: '))}")
            continue
        if settings.as_json:
            # Not by the console, which breaks lines.
            print(json.dumps(seen))
        else:
            _print_info(seen)
    return QUARANTINED if failed else DONE


def _looked_at(path: str, source: SourceSettings) -> dict[str, Any]:
    """A file as `segment` would see it, in plain JSON types."""
    from microseg_ray.settings import Scaling
    from microseg_ray.sources import open_prepared
    from microseg_ray.sources.specimen.intensity import intensity_range

    with open_prepared(path, Scaling(), source) as micrograph:
        low, high = intensity_range(micrograph)
        info = asdict(micrograph.info)
    parts = info.pop("parts")
    info.pop("file_shape")
    return {**info, **parts, "path": path, "intensity_low": low, "intensity_high": high}


def _print_info(seen: dict[str, Any]) -> None:
    size = "unknown" if seen["pixel_size_um"] is None else "{:g} x {:g} um".format(*seen["pixel_size_um"])
    source = f" ({seen['pixel_size_source']})" if seen["pixel_size_source"] else ""
    lazily = "regions are read lazily" if seen["lazy"] else f"decoded whole, {seen['decoded_bytes'] / 1e6:.1f} MB"
    bar = f"{seen['info_bar_rows']} rows at the bottom" if seen["info_bar_rows"] else "none"
    found = f" ({seen['info_bar_source']})" if seen["info_bar_source"] else ""
    channel = "as it is" if seen["channel"] is None else f"channel {seen['channel']}"
    height, width = seen["shape"]
    lines = [
        f"{seen['format']}, {height} x {width} px (height x width), {seen['channels']} channel, {seen['dtype']}; {lazily}",
        f"page {seen['page']} of {seen['pages']}; channels: {', '.join(seen['channel_names'])}, read: {channel}",
        f"pixel size (y x x): {size}{source}",
        *seen["pixel_size_notes"],
        f"info bar: {bar}{found}",
        f"intensity: {seen['intensity_low']:g} to {seen['intensity_high']:g}",
    ]
    console.print(f"[bold]{escape(seen['path'])}[/]")
    for line in lines:
        console.print(f"  {escape(line)}")
