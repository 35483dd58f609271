"""The export job: prints what goes into the exported model and what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import DONE, StartRay, console

if TYPE_CHECKING:
    from microseg_ray.settings import ExportSettings

__all__ = ["export"]


def export(settings: ExportSettings, _start: StartRay) -> int:
    """Write the file and print what goes in and comes out."""
    from microseg_ray.models.export import export_checkpoint

    done = export_checkpoint(
        settings.checkpoint, settings.output, settings.format, settings.dtype, overwrite=settings.overwrite
    )
    into, out = done.metadata["input"], done.metadata["output"]
    names = ", ".join(item["name"] for item in done.metadata["classes"])
    console.print(f"{escape(str(done.path))} and {escape(done.path.name)}.json")
    console.print(
        escape(f"in: {into['name']} ({into['axes']}) {into['dtype']}, {into['values']}, sides: {into['sides']}")
    )
    console.print(escape(f"out: {out['name']} ({out['axes']}) {out['dtype']}; classes: {names}"))
    console.print(
        "not compared with the checkpoint: pip install 'microseg_ray\\[export]'"
        if done.largest_difference is None
        else f"compared with the checkpoint on noise: equal classes, logits differ by at most {done.largest_difference:.2g}"
    )
    return DONE
