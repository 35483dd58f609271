"""The simulate job: prints what was written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import DONE, StartRay, console

if TYPE_CHECKING:
    from microseg_ray.settings import SimulateSettings

__all__ = ["simulate"]


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
