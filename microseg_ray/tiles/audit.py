"""The leak audit of the tile job, over the reductions that the survey makes anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microseg_ray.catalog import CatalogRow, Leak, find_leaks, write_leaks
from microseg_ray.errors import InputError
from microseg_ray.files import place
from microseg_ray.tiles.survey import look
from microseg_ray.tiles.tasks import LookTask

if TYPE_CHECKING:
    from collections.abc import Sequence

    from microseg_ray.catalog import Reduced
    from microseg_ray.files import Place
    from microseg_ray.settings import TileSettings
    from microseg_ray.tiles.mapping import Mapper
    from microseg_ray.tiles.tasks import Surveyed

__all__ = ["audit_splits"]

_NAMED = 10


def audit_splits(
    good: Sequence[Surveyed], held: dict[str, dict[str, Any]], settings: TileSettings, output: Place, mapper: Mapper
) -> list[Leak]:
    """Find pairs across splits and write them to `leaks.csv`; raises unless `data.audit` is `report`.

    Args:
        good: The usable pairs of this writing.
        held: Inputs of the store that grows, by name. They are read again; pairs among them were reported before.
        settings: `audit`, `scaling` and `source` are used.
        output: The store's folder.
        mapper: Runs one step for many tasks.

    Raises:
        InputError: There are such pairs, and `data.audit` is `stop`.
    """
    tasks = [LookTask(entry["image"], settings.source, settings.scaling) for entry in held.values()]
    looked = mapper(look, tasks, "audit")
    rows: list[CatalogRow] = []
    reduced: list[Reduced] = []
    for found in good:
        if found.reduced is not None:
            pair = found.pair
            rows.append(CatalogRow(pair.name, place(pair.image), None, pair.group, pair.split))
            reduced.append(found.reduced)
    for (name, entry), means in zip(held.items(), looked, strict=True):
        if means is not None:  # a micrograph of the store that cannot be read any more cannot be compared
            rows.append(CatalogRow(name, place(entry["image"]), None, entry["group"], entry["split"]))
            reduced.append(means)
    leaks = find_leaks(rows, reduced, source=settings.source)
    leaks = [leak for leak in leaks if leak.first not in held or leak.second not in held]
    if leaks or (output / "leaks.csv").exists():
        write_leaks(output / "leaks.csv", leaks)
    if leaks and settings.audit == "stop":
        named = "; ".join(map(str, leaks[:_NAMED])) + (" ..." if len(leaks) > _NAMED else "")
        raise InputError(
            settings.table or settings.images,
            f"{len(leaks)} pairs of micrographs show the same and are in different splits: {named}; all are in "
            f"{output / 'leaks.csv'}",
            "put the two of a pair into one group (data.group) or leave one out; `audit: report` goes on",
        )
    return leaks
