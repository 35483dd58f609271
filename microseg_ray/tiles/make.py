"""tile(): make a store, add to one, or find that there is nothing to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.accounts import ACCOUNTS_FILE, Account, write_accounts
from microseg_ray.catalog import build_catalog
from microseg_ray.errors import InputError, ObjectStoreError, RunMismatchError, SettingsError, StoreError
from microseg_ray.fence import Fence
from microseg_ray.files import place, sole_writer
from microseg_ray.outputs import Kind, check, claim, settle
from microseg_ray.quarantine import Failure, write_failures
from microseg_ray.recognition import is_store
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.sources import fingerprint
from microseg_ray.sources.specimen.profile import pooled_profile
from microseg_ray.sources.unchanged import require_unchanged
from microseg_ray.tiles.audit import audit_splits
from microseg_ray.tiles.checks import class_notes, common_pixel_size, scale_notes
from microseg_ray.tiles.history import differences, made_from, merged, refuse_other_settings, settled_groups
from microseg_ray.tiles.mapping import Mapper, Report, in_process
from microseg_ray.tiles.shards import TRAINED_ON, changed_pair, shard_task, stop_if_over, tile_rows, write_shard
from microseg_ray.tiles.spec import TileSpec
from microseg_ray.tiles.store import TileStore, write_table
from microseg_ray.tiles.survey import OUTAGE, survey, survey_task
from microseg_ray.tiles.tasks import Surveyed, Unusable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from microseg_ray.catalog import Catalog, CatalogRow, Leak
    from microseg_ray.files import Place
    from microseg_ray.settings import TileSettings
    from microseg_ray.tiles.shards import LeftOut
    from microseg_ray.tiles.tasks import TileRow

MapperFactory = Callable[[Report, int], Mapper]
"""Makes the mapper of a job with `workers` above 0, from its report and its number of workers."""

__all__ = ["TileSummary", "Tiled", "tile"]


@dataclass(frozen=True)
class TileSummary:
    """One line of the summary.

    Attributes:
        split: Name of the split.
        micrographs: Micrographs in it.
        tiles: Tiles in it.
        fractions: Share of each class in the labelled pixels.
    """

    split: str
    micrographs: int
    tiles: int
    fractions: tuple[float, ...]


@dataclass(frozen=True)
class Tiled:
    """The result of the tile job.

    Attributes:
        store: The finished store.
        summary: A line per split.
        failures: Inputs that were set aside.
        left_out: Tiles without enough labelled pixels.
        empty: Training tiles of the first class alone that were left out (`keep_empty`).
        written: Tiles that this call wrote; 0 where the store was up to date.
        leaks: Pairs across splits that the audit found, with `audit: report`.
        notes: Notes on single micrographs.
        accounts: Files, masks, pages, pixels and tiles: seen = used + set aside + not taken.
    """

    store: TileStore
    summary: list[TileSummary]
    failures: list[Failure]
    left_out: int
    empty: int = 0
    written: int = 0
    leaks: tuple[Leak, ...] = ()
    notes: tuple[str, ...] = ()
    accounts: tuple[Account, ...] = ()


def tile(settings: TileSettings, report: Report = lambda *_: None, mapper: MapperFactory | None = None) -> Tiled:
    """Make a tile store, or add to one.

    A finished store that was made from the same inputs with the same settings is left alone. With `append`, micrographs
    that the store does not hold yet are added in shards of their own; groups that are in it keep their split.

    Args:
        settings: The job's settings; `workers: 0` runs in this process, without Ray.
        report: Called with (stage, done, total).
        mapper: Makes the mapper where `workers` is above 0; called after the settings and file names were checked.

    Returns:
        The store, a summary per split, and what was left out.

    Raises:
        SettingsError: No classes, images or masks are named; the output holds a store of other inputs or settings.
        InputError: Nothing usable is in the archive, or splits share micrographs (`data.audit`).
        StoreError: The store in the output is damaged.
        RunMismatchError: Another job is writing there, or something there is not ours.
    """
    _check(settings)
    if settings.workers and mapper is None:
        raise SettingsError(
            f"tile.workers: {settings.workers} worker processes need Ray; call microseg_ray.on_ray.rows.tile, or give "
            "workers 0 to run in this process"
        )
    output = place(settings.output).absolute()
    entries = {
        "tiles.zarr": Kind.STORE,
        **dict.fromkeys(("tiles.parquet", "failures.csv", "leaks.csv", ACCOUNTS_FILE), Kind.FILE),
    }
    proven = is_store(output / "tiles.zarr")
    check(output, "tile", entries, proven=proven)
    found = _table_mark(output)
    finished = bool(found)
    if settings.append and not finished:
        raise SettingsError(f"tile.append: {output} holds no finished tile store; run without --append to make one")
    old = TileStore.open(output) if finished and not settings.overwrite else None
    if old is not None and settings.append:
        refuse_other_settings(old, settings)
    catalog = build_catalog(settings.data, settled_groups(old, settings))
    rows = catalog.rows
    if old is not None:
        changes = differences(old, rows, settings)
        if not changes.any or (settings.append and not changes.added and not changes.refused):
            return _unchanged(old, catalog, settings)
        if not settings.append or changes.refused:
            raise SettingsError(changes.message(output, append=settings.append))
        rows = [row for row in rows if row.name in changes.added]
    with sole_writer(output):
        # What was found without the lock decides what is written.
        if _table_mark(output) != found:
            raise RunMismatchError(f"{output}: another job has written here meanwhile; run the same command again")
        fence = Fence.raised(output)
        claim(output, "tile", entries, proven=proven)
        made = mapper(report, settings.workers) if mapper is not None and settings.workers else in_process(report)
        return _Making(settings, (output, fence), made, old).run(rows, catalog)


def _table_mark(output: Place) -> str:
    """The fingerprint of the table, which is replaced whenever tiles become part of a store; empty where there is none."""
    table = output / "tiles.parquet"
    return fingerprint(table, "stat") if table.exists() else ""


def summarise(tiles: Iterable[dict[str, Any]], settings: TileSettings) -> list[TileSummary]:
    """Micrographs, tiles and class fractions of each split, from the rows of tiles.parquet."""
    lines = []
    rows = list(tiles)
    for split in sorted({row["split"] for row in rows}):
        own = [row for row in rows if row["split"] == split]
        counts = np.array([[row[f"count_{index}"] for index in range(len(settings.classes))] for row in own]).sum(
            axis=0
        )
        total = max(1, int(counts.sum()))
        fractions = tuple(float(count) / total for count in counts)
        lines.append(TileSummary(split, len({row["micrograph"] for row in own}), len(own), fractions))
    return lines


def _check(settings: TileSettings) -> None:
    if not settings.classes:
        raise SettingsError(
            "tile.classes: name the classes in the order of the mask values, as in classes: [matrix, pore]"
        )
    for key in ("images", "masks") if settings.table is None else ():
        if getattr(settings, key) is None:
            raise SettingsError(f"tile.{key}: missing; give --{key} or put `{key}:` under `data:` in the config")


def _unchanged(store: TileStore, catalog: Catalog, settings: TileSettings) -> Tiled:
    """The store as it is, with the reasons that were recorded when it was made."""
    made = store.made_from
    failures = catalog.failures + [
        Failure(name, entry["stage"], entry["reason"]) for name, entry in made.get("set_aside", {}).items()
    ]
    used = [row for row in catalog.rows if row.name in made.get("inputs", {})]
    left = made.get("left_out", {})
    rows = [] if store.table is None else store.table.to_pylist()
    return Tiled(
        store,
        summarise(rows, settings),
        failures,
        left.get("unlabelled", 0),
        left.get("empty", 0),
        accounts=catalog.accounts(used, failures),
    )


class _Making:
    """One writing of tiles: a whole store, or what is added to `old`."""

    def __init__(
        self, settings: TileSettings, output: tuple[Place, Fence], mapper: Mapper, old: TileStore | None
    ) -> None:
        self.settings = settings
        self.output, self.fence = output
        self.mapper = mapper
        self.old = old
        self.where = settings.table or settings.images

    def run(self, rows: list[CatalogRow], catalog: Catalog) -> Tiled:
        """Survey, audit, write."""
        settings, failures = self.settings, catalog.failures
        failures += [
            Failure(row.name, "catalog", f"no mask; give one in {settings.table}") for row in rows if row.mask is None
        ]
        rows = [row for row in rows if row.mask is not None]
        held = {} if self.old is None else self.old.made_from["inputs"]
        splits = {row.split for row in rows} | {entry["split"] for entry in held.values()}
        audit = settings.audit != "off" and len(splits) > 1
        surveys = self.mapper(survey, [survey_task(row, settings, audit=audit) for row in rows], "survey")
        bad = [found for found in surveys if isinstance(found, Unusable)]
        outage = next((found for found in bad if found.stage == OUTAGE), None)
        if outage is not None:
            raise ObjectStoreError(f"{outage.reason}; then run the same command again")
        good = [found for found in surveys if isinstance(found, Surveyed)]
        failures += [Failure(found.pair.name, found.stage, found.reason) for found in bad]
        if not good:
            listed = "; ".join(f"{failure.path}: {failure.reason}" for failure in failures[:3])
            raise InputError(
                self.where, f"no usable pair of micrograph and mask is left ({listed})", "see the reasons above"
            )
        leaks = audit_splits(good, held, settings, self.output, self.mapper) if audit else []
        while True:
            try:
                return self._make(good, bad, catalog, leaks)
            except _Changed as error:
                # The layout of the store counts the tiles of all inputs, so it is made anew without those that changed.
                good, bad = _without(good, bad, error.reasons)
                failures += [Failure(name, "write", reason) for name, reason in error.reasons.items()]
                if not good or self.old is not None:
                    reason = f"an input changed while it was tiled ({error})"
                    raise InputError(self.where, reason, "run the tile job again") from None

    def _make(self, good: list[Surveyed], bad: list[Unusable], catalog: Catalog, leaks: list[Leak]) -> Tiled:
        """Lay the store out and write it.

        Raises:
            _Changed: Inputs are not those any more that were surveyed.
        """
        settings, failures = self.settings, catalog.failures
        held = {} if self.old is None else self.old.made_from["inputs"]
        first = 0 if self.old is None else self.old.spec.tiles
        tiles, left_out = tile_rows(good, settings, first)
        if not tiles:
            raise InputError(self.where, "every tile was left out", f"lower min_labelled ({settings.min_labelled})")
        record = made_from(good, bad, settings, left_out)
        with self.fence.writing():
            if self.old is None:
                store = TileStore.create(self.output, _spec(good, len(tiles), settings), record)
            else:
                store = self._grown(self.old, good, len(tiles))
                record = merged(self.old.made_from, record)
        used = {found.pair.name for found in good} | set(held)
        accounts = (
            *catalog.accounts([row for row in catalog.rows if row.name in used], failures),
            *_parts(good, len(tiles), left_out),
        )
        write_accounts(self.output / ACCOUNTS_FILE, accounts)
        self._write(store, tiles, good, failures)
        with self.fence.writing():
            if self.old is None:
                write_table(self.output, [row.record() for row in tiles])
            else:
                self.old.finish_append([row.record() for row in tiles], record, store.spec)
            settle(self.output, "tile")
        made = self._result(TileStore.open(self.output), failures, left_out, (len(tiles), leaks, good))
        return replace(made, accounts=accounts)

    def _write(
        self, store: TileStore, tiles: Sequence[TileRow], good: Sequence[Surveyed], failures: list[Failure]
    ) -> None:
        # Before the table, which finishes the store: a finished store always has its failures.csv.
        write_failures(self.output / "failures.csv", failures)
        start = 0 if self.old is None else self.old.spec.shards
        sources = {found.pair.name: (found.pair, found.fingerprints) for found in good}
        tasks = [shard_task(store, shard, tiles, sources, self.fence) for shard in range(start, store.spec.shards)]
        broken = [found for found in self.mapper(write_shard, tasks, "write") if found.reason]
        stop_if_over(broken, self.output)
        changed = {found.pair: found.reason for found in broken if found.pair}
        if self.settings.fingerprint == "content":
            # Workers look at sizes and times only.
            reasons = {each.pair.name: changed_pair(each.pair, each.fingerprints, require_unchanged) for each in good}
            changed |= {name: reason for name, reason in reasons.items() if reason}
        if changed:
            raise _Changed(changed)
        if broken:
            raise StoreError(f"{self.output}: {broken[0].reason}; run the tile job again")

    def _grown(self, old: TileStore, good: Sequence[Surveyed], tiles: int) -> TileStore:
        """The old store with room for more, if what is added fits it."""
        new = _spec(good, tiles, self.settings)
        if np.result_type(old.spec.dtype, new.dtype) != np.dtype(old.spec.dtype) or new.channels > old.spec.channels:
            raise SettingsError(
                f"tile.append: the store holds {old.spec.channels} channel {old.spec.dtype}, the new micrographs need "
                f"{new.channels} channel {new.dtype}; make the store again with --overwrite"
            )
        sizes = {"the store": old.spec.pixel_size_um, **{found.pair.name: found.pixel_size_um for found in good}}
        size = common_pixel_size(sizes, self.settings)
        both = [profile.sample() for profile in (old.spec.intensities, new.intensities) if profile is not None]
        store = TileStore.open(self.output, unfinished=True, parts=old.grow(tiles).spec.parts)
        # The pixel size of a store stays where it is known: a few new micrographs do not move the median of many.
        return store.described(size and (old.spec.pixel_size_um or size), pooled_profile(both))

    def _result(
        self,
        store: TileStore,
        failures: list[Failure],
        left_out: LeftOut,
        done: tuple[int, list[Leak], list[Surveyed]],
    ) -> Tiled:
        written, leaks, good = done
        rows = [] if store.table is None else store.table.to_pylist()
        notes = [f"{found.pair.name}: {note}" for found in good for note in found.notes]
        notes = scale_notes([found.pixel_size_um for found in good], store.spec.pixel_size_um) + notes
        if TRAINED_ON in store.splits:
            notes = class_notes(good, store.tile_counts(TRAINED_ON), store.spec.classes) + notes
        bars = sum(found.bar > 0 for found in good)
        if bars:
            notes.insert(0, f"{bars} of {len(good)} micrographs have an info bar, which is left out")
        summary = summarise(rows, self.settings)
        return Tiled(store, summary, failures, left_out.unlabelled, left_out.empty, written, tuple(leaks), tuple(notes))


class _Changed(Exception):  # noqa: N818 - it never leaves this module
    """Inputs that are not those any more that were surveyed: the reason by name."""

    def __init__(self, reasons: dict[str, str]) -> None:
        self.reasons = reasons
        super().__init__("; ".join(f"{name}: {reason}" for name, reason in list(reasons.items())[:3]))


def _without(
    good: list[Surveyed], bad: list[Unusable], reasons: Mapping[str, str]
) -> tuple[list[Surveyed], list[Unusable]]:
    """Usable and unusable pairs, now that some have changed."""
    gone = [found for found in good if found.pair.name in reasons]
    bad = bad + [Unusable(found.pair, found.fingerprints, "write", reasons[found.pair.name]) for found in gone]
    return [found for found in good if found.pair.name not in reasons], bad


def _parts(good: Sequence[Surveyed], tiles: int, left_out: LeftOut) -> tuple[Account, ...]:
    """Pages, pixels and tiles of the micrographs that were tiled now."""
    pages = sum(found.pages for found in good)
    bars = sum(found.bar * found.shape[1] for found in good)
    pixels = sum(found.shape[0] * found.shape[1] for found in good) + bars
    ignored = sum(count for found in good for value, count in found.values if value == IGNORE_INDEX)
    short = {
        "with less than min_labelled": left_out.unlabelled,
        "of the first class alone (keep_empty)": left_out.empty,
    }
    other = {"of other pages (source.page)": pages - len(good)} if pages > len(good) else {}
    return (
        Account("pages", pages, len(good), 0, other),
        Account("pixels", pixels, pixels - bars - ignored, 0, {"of info bars": bars, "without a class (255)": ignored}),
        Account("tiles", sum(len(found.tiles) for found in good), tiles, 0, short),
    )


def _spec(good: Sequence[Surveyed], tiles: int, settings: TileSettings) -> TileSpec:
    trained = [found for found in good if found.pair.split == TRAINED_ON] or good
    return TileSpec(
        tiles=tiles,
        side=settings.tile,
        overlap=settings.overlap,
        channels=max(found.channels for found in good),
        # The widest type holds all values unchanged; each tile keeps its own intensity limits.
        dtype=str(np.result_type(*{found.dtype for found in good})),
        classes=settings.classes,
        scaling=settings.scaling,
        pixel_size_um=common_pixel_size({found.pair.name: found.pixel_size_um for found in good}, settings),
        intensities=pooled_profile([found.intensities for found in trained]),
    )
