"""Tables that several jobs print: a run's areas, a run's forecast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import console
from microseg_ray.names import text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from microseg_ray.runs.forecast import Forecast
    from microseg_ray.stitching import EnginePlan

__all__ = [
    "joined",
    "pieces",
    "print_areas",
    "print_dropped",
    "print_forecast",
    "print_grain_size",
    "print_intervals",
    "print_objects",
]

SHOWN_NOTES = 10


def _table(*columns: str, figures: Sequence[str]) -> Table:
    """A table whose names wrap where the terminal is narrow; a figure, which is wrong without its end, is never cut."""
    table = Table()
    for name in columns:
        table.add_column(name, no_wrap=name in figures, overflow="fold")
    return table


def print_areas(rows: Sequence[Any], limit: int = 30) -> None:
    """Print the first rows of areas.csv."""
    figures = ("pixels", "area\nfraction", "area um2", "pixel size\num")
    table = _table("micrograph", "class", *figures, figures=figures)
    for row in rows[:limit]:
        fraction = "-" if row.area_fraction is None else f"{row.area_fraction:.5f}"
        area = "-" if row.area_um2 is None else f"{row.area_um2:.6g}"
        size = "unknown" if row.pixel_size_um_y is None else f"{row.pixel_size_um_y:g} x {row.pixel_size_um_x:g}"
        table.add_row(escape(text(row.micrograph)), escape(row.class_name), str(row.pixel_count), fraction, area, size)
    console.print(table)
    if len(rows) > limit:
        console.print(f"... and {len(rows) - limit} more rows in areas.csv")


def print_objects(rows: Sequence[Any], notes: Mapping[str, str], remark: str, limit: int = 30) -> None:
    """Print the first rows of object_classes.csv, what is to be said of them, and which micrographs have no intensities."""
    figures = ("objects", "inside", "per mm2", "d50")
    table = _table("micrograph", "class", *figures, figures=figures)
    for row in rows[:limit]:
        diameter = "-" if row.number_d50 is None else f"{row.number_d50:.4g} {row.unit}"
        density = "-" if row.density_per_mm2 is None else f"{row.density_per_mm2:.4g}"
        counts = (str(row.object_count), str(row.inside_count))
        table.add_row(escape(text(row.micrograph)), escape(row.class_name), *counts, density, diameter)
    console.print(table)
    if len(rows) > limit:
        console.print(f"... and {len(rows) - limit} more rows in object_classes.csv")
    if remark:
        console.print(f"[yellow]{escape(remark)}[/]")
    for name, note in list(notes.items())[:SHOWN_NOTES]:
        console.print(f"[yellow]{escape(text(name))}[/]: {escape(note)}")
    if len(notes) > SHOWN_NOTES:
        console.print(f"... and {len(notes) - SHOWN_NOTES} more micrographs without intensities")


def print_intervals(rows: Sequence[Any], notes: Sequence[str], limit: int = 30) -> None:
    """Print the error bars of the archive, then of groups."""
    shown = sorted((row for row in rows if row.scope != "micrograph"), key=lambda row: row.scope != "archive")
    table = Table("", "class", "error by", "area fraction", "95 % interval", "note", title="intervals")
    for row in shown[:limit]:
        name = "all micrographs" if row.scope == "archive" else text(row.name)
        ends = "-" if row.low is None else f"{row.low:.5f} to {row.high:.5f}"
        fraction = "-" if row.estimate is None else f"{row.estimate:.5f}"
        table.add_row(escape(name), escape(row.class_name), row.part, fraction, ends, escape(row.reason))
    console.print(table)
    if len(shown) > limit:
        console.print(f"... and {len(shown) - limit} more rows in intervals.csv")
    for note in notes:
        console.print(f"[yellow]{escape(note)}[/]")


def print_grain_size(rows: Sequence[Any]) -> None:
    """Print the ASTM grain size number of each group, and that of its largest grain, where they were measured."""
    ways = {"grain_size_number": "", "planimetric_grain_size_number": " by counting grains"}
    for row in rows:
        if row.quantity in ways:
            name = "all micrographs" if row.scope == "archive" else text(row.name)
            ends = f" (95 % {row.low:.2f} to {row.high:.2f})" if row.low is not None and row.high is not None else ""
            size = "-" if row.mean is None else f"{row.mean:.2f}"
            said = f"; {row.reason}" if row.reason else ""
            console.print(
                f"{name}: ASTM grain size number G{ways[row.quantity]} {size}{ends} from {row.fields} fields{said}",
                markup=False,
            )
        if row.quantity == "largest_grain_size_number":
            name = "all micrographs" if row.scope == "archive" else text(row.name)
            size = "-" if row.mean is None else f"{row.mean:.2f}"
            console.print(f"{name}: ASTM E930 G of the largest grain {size}; {row.reason}", markup=False)


def joined(engine: EnginePlan) -> str:
    """How tiles are joined, with the one value that this blend uses."""
    return f"halo {engine.halo}" if engine.blend == "crop" else f"blend {engine.blend}, overlap {engine.overlap:g}"


def _noted(note: str) -> str:
    return f"; {note}" if note else ""


def pieces(engine: EnginePlan) -> str:
    """Of what a micrograph is put together."""
    return f"strips of {engine.strip} rows" if engine.strip else f"{tile_size(engine)}, {joined(engine)}"


def tile_size(engine: EnginePlan) -> str:
    """How large a tile is at most."""
    return f"tiles of at most {engine.tile_area / 1e6:.2f} MPix" if engine.tile_area else f"tile {engine.tile}"


def print_dropped(names: Sequence[str]) -> None:
    """Print which files showed older masks and were removed."""
    if names:
        console.print(f"removed, because the tables are new: {', '.join(names)}; run measure or report again")


def print_forecast(cost: Forecast) -> None:
    """Print what a run will cost."""
    engine = cost.plan.engine
    reason = f" ({cost.plan.reason})" if cost.plan.reason else ""
    table = Table("plan", "", show_header=False)
    free = "" if cost.free_bytes is None else f", {cost.free_bytes / 1e9:.1f} GB free"
    for name, value in (
        (
            "micrographs",
            f"{cost.micrographs}, {cost.complete} complete already, {len(cost.failures)} to be quarantined",
        ),
        ("shards", f"{cost.missing} of {cost.shards} to compute, {engine.shard} px a side"),
        (
            "tiles",
            f"about {cost.tiles}, {tile_size(engine)}, {joined(engine)}, batch {engine.batch}",
        )
        if not engine.strip
        else (
            "strips",
            f"{engine.strip} rows each, up to {engine.strip_width} px wide, {cost.tiles} bands, halo {engine.halo} at their ends",
        ),
        ("path", f"tiles ({cost.plan.path_reason})" if cost.plan.path_reason else "strips"),
        (
            "specimen",
            f"{cost.info_bars} with an info bar, which is left out; {cost.rescaled} rescaled to the model's pixel size",
        ),
        ("runtime", f"{cost.plan.computing.words}{_noted(cost.plan.computing.note)}"),
        ("halo tax", f"{cost.halo_tax:.2f} pixels computed for each pixel kept"),
        ("seams", f"{cost.plan.verdict}{reason or ' up to kernel rounding'}"),
        ("memory", f"{cost.worker_bytes / 1024**3:.2f} GiB per worker, projected peak"),
        ("disk", f"at most {cost.disk_bytes / 1e9:.3f} GB{free}"),
    ):
        table.add_row(name, escape(value))
    console.print(table)
    for note, names in list(cost.notes.items())[:SHOWN_NOTES]:
        rest = f" and {len(names) - 1} more" if len(names) > 1 else ""
        console.print(f"[yellow]{escape(names[0])}{rest}[/]: {escape(note)}")
    if len(cost.notes) > SHOWN_NOTES:
        console.print(f"... and {len(cost.notes) - SHOWN_NOTES} more notes; each mask keeps its own")
