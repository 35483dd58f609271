"""The tile job: prints what is in the store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import SHOWN_FAILURES, StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from microseg_ray.settings import TileSettings
    from microseg_ray.tiles.make import MapperFactory

__all__ = ["tile"]


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
    return quarantine(tiled.failures, tiled.store.folder / "failures.csv", tiled.accounts)


def _mapper(settings: TileSettings, start: StartRay) -> MapperFactory | None:
    """Ray Data; None where the job stays in this process, so that Ray is not imported."""
    if settings.workers == 0:
        return None
    from microseg_ray.on_ray.rows import dataset_mapper

    return partial(dataset_mapper, start, settings.ray)
