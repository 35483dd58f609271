"""What a store was made from, and how that differs from the present settings and inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import InputError, SettingsError, StoreError
from microseg_ray.files import place
from microseg_ray.settings import TileSettings
from microseg_ray.sources import fingerprint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from microseg_ray.catalog import CatalogRow
    from microseg_ray.files import Place
    from microseg_ray.tiles.shards import LeftOut
    from microseg_ray.tiles.store import TileStore
    from microseg_ray.tiles.tasks import Surveyed, Unusable

__all__ = ["Differences", "deciding", "differences", "made_from", "merged", "refuse_other_settings", "settled_groups"]

# Settings of how the job runs; they do not change the store.
_RUNNING = ("ray", "workers", "overwrite", "append", "output", "audit", "scale_tolerance", "on_scale_mismatch")
# The inputs are compared row by row.
_WHERE = ("images", "masks", "table", "image_suffix", "mask_suffix")
# Settings that all tiles of one store share.
_COMMON = ("classes", "tile", "overlap", "scaling", "fingerprint")
_NAMED = 5


@dataclass(frozen=True)
class Differences:
    """How a finished store differs from the present settings and inputs.

    Attributes:
        settings: Keys with another value.
        added: Names that the store does not hold.
        gone: Names that are in the store only.
        refused: Differences that no append can resolve, by name: changed inputs, other splits.
    """

    settings: tuple[str, ...]
    added: frozenset[str]
    gone: tuple[str, ...]
    refused: dict[str, str]

    @property
    def any(self) -> bool:
        """Whether there is a difference at all."""
        return bool(self.settings or self.added or self.gone or self.refused)

    def message(self, output: Place, *, append: bool) -> str:
        """The error message."""
        parts = [f"tile.{key} is another" for key in self.settings if not append]
        parts += [f"{name}: {what}" for name, what in sorted(self.refused.items())[:_NAMED]]
        if not append:
            parts += [f"{name} is new" for name in sorted(self.added)[:_NAMED]]
            parts += [f"{name} is in the store only" for name in self.gone[:_NAMED]]
        count = len(self.refused) + (0 if append else len(self.settings) + len(self.added) + len(self.gone))
        more = f"; {count - len(parts)} more" if count > len(parts) else ""
        can_append = bool(self.added) and not (self.settings or self.refused or append)
        add = ", --append to add the new ones to it" if can_append else ""
        return (
            f"tile.output: {output} holds a finished tile store that was made otherwise ({'; '.join(parts)}{more}); "
            f"give another folder{add}, or --overwrite to make it anew"
        )


def deciding(settings: TileSettings) -> dict[str, Any]:
    """The settings that decide what a store holds, as plain JSON types."""
    return {key: value for key, value in settings.resolved().items() if key not in _RUNNING}


def made_from(
    good: Sequence[Surveyed], bad: Sequence[Unusable], settings: TileSettings, left_out: LeftOut
) -> dict[str, Any]:
    """The record of a store: settings, inputs with their fingerprints, what was set aside and left out."""
    inputs = {found.pair.name: _input(found) for found in good}
    aside = {found.pair.name: {**_input(found), "stage": found.stage, "reason": found.reason} for found in bad}
    left = {"unlabelled": left_out.unlabelled, "empty": left_out.empty}
    return {"settings": deciding(settings), "inputs": inputs, "set_aside": aside, "left_out": left}


def _input(found: Surveyed | Unusable) -> dict[str, Any]:
    pair = found.pair
    files = {"image": pair.image, "mask": pair.mask, "group": pair.group, "split": pair.split}
    return {**files, "fingerprints": list(found.fingerprints)}


def merged(before: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The record of both writings; the settings are those of the later one."""
    inputs = {**before["inputs"], **new["inputs"]}
    aside = {**before.get("set_aside", {}), **new["set_aside"]}
    left = {key: before.get("left_out", {}).get(key, 0) + count for key, count in new["left_out"].items()}
    return {
        "settings": new["settings"],
        "inputs": inputs,
        "set_aside": {name: entry for name, entry in aside.items() if name not in inputs},
        "left_out": left,
    }


def settled_groups(store: TileStore | None, settings: TileSettings) -> dict[str, str]:
    """The split of each group of a store that grows or has grown; a group keeps its split."""
    if store is None or not (settings.append or store.spec.parts):
        return {}
    return {entry["group"]: entry["split"] for entry in store.made_from["inputs"].values()}


def refuse_other_settings(store: TileStore, settings: TileSettings) -> None:
    """Raise SettingsError where appended tiles would not be like those that are there."""
    made = store.made_from
    if not all(isinstance(entry, dict) for entry in made.get("inputs", {"": ""}).values()):
        raise StoreError(f"{store.folder}: made by an older version, which did not keep its inputs; make it again")
    now = deciding(settings)
    before = _filled(made["settings"])
    for key in _COMMON:
        if before[key] != now[key]:
            raise SettingsError(
                f"tile.{key}: the store was made with {before[key]!r}, not {now[key]!r}; append with the same, or make "
                "another store"
            )


def differences(store: TileStore, rows: list[CatalogRow], settings: TileSettings) -> Differences:
    """Compare the present settings and inputs with those of the store."""
    made = store.made_from
    before, now = _filled(made.get("settings", {})), deciding(settings)
    keys = tuple(sorted(key for key in now if key not in _WHERE and before.get(key) != now[key]))
    inputs = {name: entry for name, entry in made.get("inputs", {}).items() if isinstance(entry, dict)}
    # An input that was set aside may have been repaired since: an append tries it again.
    known = inputs if settings.append else {**inputs, **made.get("set_aside", {})}
    refused = {
        row.name: what for row in rows if row.name in known if (what := _changed(row, known[row.name], settings))
    }
    added = frozenset(row.name for row in rows if row.name not in known and row.mask is not None)
    gone = tuple(sorted(set(known) - {row.name for row in rows}))
    return Differences(keys, added, gone, refused)


def _changed(row: CatalogRow, entry: dict[str, Any], settings: TileSettings) -> str:
    if (str(row.image), str(row.mask)) != (entry["image"], entry["mask"]):
        return f"its files are {row.image} and {row.mask}, not {entry['image']} and {entry['mask']}"
    if row.group != entry["group"]:
        return f"its group is {row.group!r}, not {entry['group']!r}"
    if row.split != entry["split"]:
        return f"its split is {row.split}, not {entry['split']}"
    for what, before in zip(("image", "mask"), entry["fingerprints"], strict=True):
        try:
            now = fingerprint(entry[what], settings.fingerprint)
        except InputError:
            now = ""
        if now != before:
            return f"the {what} changed" if place(entry[what]).exists() else f"the {what} is gone"
    return ""


def _filled(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of a store that was made before a key was there, with the key's default."""
    defaults = {
        name: field.get_default(call_default_factory=True)
        for name, field in TileSettings.model_fields.items()
        if not field.is_required() and name not in _RUNNING
    }
    plain = {
        name: value.model_dump(mode="json") if hasattr(value, "model_dump") else value
        for name, value in defaults.items()
    }
    return {**plain, **settings}
