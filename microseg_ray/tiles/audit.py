"""Where splits become real: the leak audit over what the survey read anyway."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.catalog import CatalogRow, Leak, Reduced, find_leaks, write_leaks
from microseg_ray.errors import InputError
from microseg_ray.tiles.survey import look_row

if TYPE_CHECKING:
    from microseg_ray.settings import TileSettings
    from microseg_ray.tiles.mapping import Mapper

__all__ = ["audit_splits"]

_NAMED = 10


def audit_splits(
    good: list[dict[str, Any]], held: dict[str, dict[str, Any]], settings: TileSettings, output: Path, mapper: Mapper
) -> list[Leak]:
    """Pairs across splits, written to `leaks.csv`; stops the job unless `data.audit` says to report them only.

    Args:
        good: What the survey found.
        held: What a store that grows was made from, by name; these micrographs are read again, and pairs among
            themselves are not reported again.
        settings: `audit` and `source` count.
        output: The store's folder.
        mapper: Runs one step for many rows.

    Raises:
        InputError: There are such pairs, and `data.audit` is `stop`.
    """
    looked = mapper(look_row, [{**entry, "source": _source(entry, settings)} for entry in held.values()], "audit")
    entries = [(found["name"], found, found["reduced"]) for found in good]
    entries += [
        (name, entry, found["reduced"])
        for (name, entry), found in zip(held.items(), looked, strict=True)
        if found  # a micrograph of the store that cannot be read any more cannot be compared
    ]
    rows = [CatalogRow(name, Path(entry["image"]), None, entry["group"], entry["split"]) for name, entry, _ in entries]
    leaks = find_leaks(rows, [Reduced.unpacked(packed) for *_, packed in entries], source=settings.source)
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


def _source(entry: dict[str, Any], settings: TileSettings) -> dict[str, Any]:
    return dict(entry.get("source") or settings.source.model_dump())
