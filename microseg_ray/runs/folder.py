"""The run folder: its identity, and its tables.

```
RUN/
  run.json         identity (model digest, everything that decides pixels), settings, versions, verdict
  masks/           <path of the micrograph below the archive>.zarr
  areas.csv        a row per micrograph and class; areas.parquet holds the same
  groups.csv       groups of micrographs; boundaries.csv, intervals.csv, stereology.csv; .parquet, too (`measure`)
  chords.csv       chord lengths by direction; correlation.csv, anisotropy.csv; .parquet, too (`measure`)
  objects.csv      a row per object, in objects.parquet too; object_sizes.csv and object_classes.csv sum them up (`measure`)
  statistics.xlsx  all tables in one workbook; tables.md and tables.tex to paste, plots/ as PNG and SVG (`measure`)
  failures.csv     inputs that were quarantined: path, stage, reason
  accounting.csv   files, pages and pixels: seen = used + set aside + not taken
  logs/            segment.jsonl: what was done when, by whom, in how many seconds; no result depends on it
```
"""

from __future__ import annotations

import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import ACCOUNTS_FILE, Account, write_accounts
from microseg_ray.errors import UNREADABLE, MicrosegError, RunMismatchError, StoreError
from microseg_ray.files import ObjectPath, place, sole_writer, write_json
from microseg_ray.outputs import Kind, claim, drop, has_manifest
from microseg_ray.quarantine import FAILURES_FILE, Failure, read_failures, write_failures
from microseg_ray.recognition import is_record
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.totals import RunTotals
from microseg_ray.settings import ClassSpec
from microseg_ray.sources.scale.provenance import OPTION
from microseg_ray.statistics.areas import AreaTable, Measured, area_rows, write_areas
from microseg_ray.stitching.seams import SeamAudit, promise
from microseg_ray.tables import read_parquet
from microseg_ray.versions import versions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from microseg_ray.files import Place, Where

__all__ = ["FORMAT_VERSION", "OBJECT_TABLES", "Run"]

FORMAT_VERSION = 1
OBJECT_TABLES = ("objects.csv", "objects.parquet", "object_sizes.csv", "object_classes.csv")
INTERVAL_TABLES = tuple(
    f"{name}.{kind}"
    for name in ("groups", "boundaries", "intervals", "stereology", "chords", "correlation", "anisotropy")
    for kind in ("csv", "parquet")
)
EXPORTS = ("statistics.xlsx", "tables.md", "tables.tex", "plots")
OUTDATED = (
    *("sections.csv", "percentages.csv", "overlays", "report.html", "thumbnails"),
    *(*OBJECT_TABLES, "objects", *INTERVAL_TABLES, *EXPORTS),
)
"""What jobs make of a run's masks and tables, and what must not outlive them."""

SEAM_KEYS = tuple(each.name for each in fields(SeamAudit))
OWNER = "run"
"""Whose a run's files are in the manifest, whichever job writes them."""
AREAS_FILE = "areas.parquet"
LOG_FILES = ("logs/segment.jsonl", "logs/segment.1.jsonl")
"""The log of `segment`, and the one before it."""
_LISTINGS = 16
"""Listings of an object store at a time."""
TABLES = ("areas.csv", AREAS_FILE, FAILURES_FILE, ACCOUNTS_FILE)


@dataclass(frozen=True)
class Run:
    """One run, in a folder or in an object store. Make it with `create`, read it with `open`."""

    folder: Place
    identity: RunIdentity
    document: Mapping[str, Any]

    @classmethod
    def at(cls, folder: Where, identity: RunIdentity, *, overwrite: bool = False) -> Run:
        """The run of this identity in a folder that may be empty; nothing is written.

        Raises:
            RunMismatchError: The folder holds results of another model or of other settings.
        """
        folder = place(folder).absolute()
        if (folder / "run.json").exists():
            older = cls.open(folder)
            differing = older.identity.differences(identity)
            if differing and not overwrite and older.begun():
                raise RunMismatchError(
                    f"{folder}: this run was made otherwise ({'; '.join(differing)}), and results are never mixed; "
                    f"{_versions_advice(differing)}give another output, or --overwrite to start afresh"
                )
        elif (folder / "masks").is_dir() and any((folder / "masks").iterdir()):
            raise RunMismatchError(
                f"{folder}: holds masks but no run.json, so they are not a run's and are left alone; give another output"
            )
        return cls(folder, identity, {})

    @classmethod
    def create(
        cls,
        folder: Where,
        identity: RunIdentity,
        record: Mapping[str, Any],
        *,
        overwrite: bool = False,
    ) -> Run:
        """Start a run, or go on with one of the same identity.

        Args:
            folder: The run folder.
            identity: What the results are bound to.
            record: Settings, verdict and whatever else goes into run.json.
            overwrite: Delete an older run's results first.

        Raises:
            RunMismatchError: The folder holds results of another model or of other settings.
        """
        folder = cls.at(folder, identity, overwrite=overwrite).folder
        if not overwrite and (folder / "run.json").exists():
            # Another run is only let through where it computed nothing.
            overwrite = bool(cls.open(folder).identity.differences(identity))
        older = cls.open(folder).document if (folder / "run.json").exists() and not overwrite else {}
        folder.mkdir(parents=True, exist_ok=True)
        document = {
            "format_version": FORMAT_VERSION,
            "identity": {"model_digest": identity.model_digest, "pixels": dict(identity.pixels)},
            **record,
            **_versions(older),
        }
        run = cls(folder, identity, document)
        run.claim({"masks": Kind.STORES, **dict.fromkeys(("run.json", *TABLES), Kind.FILE)})
        if overwrite:
            drop(folder, OWNER)
        write_json(folder / "run.json", document, sort_keys=True, default=asdict)
        return run

    @classmethod
    def open(cls, folder: Where) -> Run:
        """Read an existing run.

        Raises:
            StoreError: There is no run, or its run.json is damaged.
        """
        folder = place(folder).absolute()
        try:
            document = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            identity = RunIdentity(document["identity"]["model_digest"], document["identity"]["pixels"])
            # Looked up now, so that a damaged file is named before a job has begun.
            _ = [document[key] for key in ("archive", "source", "checkpoint", "settings")]
            _ = [ClassSpec(**item) for item in document["classes"]]
        except FileNotFoundError as error:
            raise StoreError(
                f"{folder}: no run is here (run.json is missing); make one with `microseg segment`"
            ) from error
        except UNREADABLE as error:
            raise StoreError(f"{folder}/run.json: damaged ({error}); restore it, or give another output") from error
        return cls(folder, identity, document)

    def claim(self, entries: Mapping[str, Kind]) -> None:
        """Record what is about to be created in the folder of this run.

        Raises:
            RunMismatchError: Something is there that is not a run's.
        """
        # A run of an earlier version has no manifest; its run.json and its stores prove it.
        proven = is_record(self.folder / "run.json", "identity", "classes")
        if proven and not has_manifest(self.folder):
            older = ("run.json", *OUTDATED[:4], *TABLES, *LOG_FILES, *(f"overlays/{name}.png" for name in self.names()))
            entries = {**{name: Kind.FILE for name in older if (self.folder / name).is_file()}, **entries}
        claim(self.folder, OWNER, entries, proven=proven)

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """The model's classes."""
        return tuple(ClassSpec(**item) for item in self.document["classes"])

    def store_path(self, name: str) -> Place:
        """Where the mask of a micrograph lies, given its path below the archive.

        Example:
            >>> run = Run(place("/r"), RunIdentity("", {}), {})
            >>> str(run.store_path("2019/a.tif"))
            '/r/masks/2019/a.tif.zarr'
        """
        return self.folder / "masks" / f"{name}.zarr"

    def names(self) -> list[str]:
        """Micrographs that have a mask store, finished or not, sorted."""
        if isinstance(self.folder, ObjectPath):
            return sorted(_object_names(self.folder / "masks"))
        root = os.fspath(self.folder / "masks")
        found = []
        for parent, folders, _ in os.walk(root):
            # Of strings and a set: a page of ten thousand micrographs waits for this list.
            inner = {
                name
                for name in folders
                if name.endswith(".zarr") and os.path.isdir(f"{parent}/{name}/counts")  # noqa: PTH112
            }
            below = "" if parent == root else f"{parent[len(root) + 1 :]}/"
            found += [below + name.removesuffix(".zarr") for name in inner]
            folders[:] = [name for name in folders if name not in inner]
        return sorted(found)

    def begun(self) -> bool:
        """Whether any shard is computed; a run without one binds nothing."""
        try:
            return any((MaskStore.open(self.store_path(name)).counts >= 0).any() for name in self.names())
        except MicrosegError:
            # What cannot be read is not taken for nothing.
            return True

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second job out of this folder.

        Raises:
            RunMismatchError: Another process holds the run.
        """
        with sole_writer(self.folder):
            yield

    def measured(self, name: str) -> Measured | None:
        """The counts of a finished micrograph, None while it is not finished."""
        store = MaskStore.open(self.store_path(name))
        return self.measured_in(name, store) if store.finished else None

    def measured_in(self, name: str, store: MaskStore) -> Measured | None:
        """The counts in an open, finished store; None while a shard is missing."""
        counts = store.counts
        if (counts < 0).any():
            return None
        note = store.note
        size = note.get("pixel_size_um")
        return Measured(
            micrograph=name,
            counts=counts.sum(axis=(0, 1)),
            pixel_size_um=None if size is None else (float(size[0]), float(size[1])),
            pixel_size_source=str(note.get("pixel_size_source", "")),
            model_digest=self.identity.model_digest,
            seams={key: note[key] for key in SEAM_KEYS if key in note},
            pixels=store.spec.shape[0] * store.spec.shape[1],
            bar_pixels=int(note.get("info_bar", {}).get("rows", 0)) * store.spec.shape[1],
            pages=int(note.get("pages", 1)),
        )

    def recalibrate(self, pixel_size_um: tuple[float, float], scale_note: str = "") -> None:
        """Give all finished masks another pixel size; no pixel changes, so no inference is needed.

        Args:
            pixel_size_um: (y, x) of the micrographs; a mask that lies on a rescaled grid gets its own from it.
            scale_note: What is to be said of masks whose micrograph was read as it is at this size; "" for nothing.
        """
        for name in self.names():
            store = MaskStore.open(self.store_path(name))
            if store.finished:
                rescaled = store.note.get("rescaled", {})
                y, x = rescaled.get("factor", (1.0, 1.0))
                size = (pixel_size_um[0] * y, pixel_size_um[1] * x)
                note: dict[str, Any] = {"notes": [scale_note] if scale_note and not rescaled else []}
                if rescaled:
                    note["rescaled"] = {**rescaled, "file_pixel_size_um": list(pixel_size_um)}
                store.recalibrate(size, f"{OPTION}, rescaled" if rescaled else OPTION, note)

    def drop_outdated(self) -> list[str]:
        """Remove what `measure` and `report` made of the masks as they were; call it before the tables are written anew.

        Returns:
            The names of what was there.
        """
        self.claim({})
        found = [name for name in OUTDATED if (self.folder / name).exists()]
        drop(self.folder, OWNER, OUTDATED)
        return [name for name in found if not (self.folder / name).exists()]

    def write_tables(
        self, names: Iterable[str], failures: Iterable[Failure], known: Mapping[str, Measured] | None = None
    ) -> tuple[AreaTable, list[Account]]:
        """Write areas.csv, areas.parquet, failures.csv, accounting.csv and the worst seams (run.json) from what is on disk.

        Micrographs are read and written one after another: memory does not grow with their number.

        Args:
            names: The micrographs that belong to the run; unfinished ones are left out.
            failures: Inputs that were quarantined.
            known: Counts that this job has read already, by name.

        Returns:
            The rows of the areas tables, and what became of all files, pages and pixels.
        """
        failures = list(failures)
        totals = RunTotals.of(failures)
        self.claim(dict.fromkeys(TABLES, Kind.FILE))
        found = totals.adding(self._measured_of(sorted(names), {} if known is None else known))
        write_areas(self.folder, (row for measured in found for row in area_rows(measured, self.classes)))
        said = promise(
            str(self.document.get("verdict", "")), str(self.document.get("verdict_reason", "")), totals.seams
        )
        document = {**self.document, "seams": totals.seams, "promise": said}
        write_json(self.folder / "run.json", document, sort_keys=True, default=asdict)
        write_failures(self.folder / FAILURES_FILE, failures)
        accounts = totals.accounts(self.document.get("not_taken", {}))
        write_accounts(self.folder / ACCOUNTS_FILE, accounts)
        return AreaTable(self.folder / AREAS_FILE), accounts

    def accounts(self, names: Iterable[str] | None = None, failures: Iterable[Failure] | None = None) -> list[Account]:
        """Files, pages and pixels of this run: seen = used + set aside + not taken.

        Args:
            names: The micrographs that belong to the run; default: all that have a mask.
            failures: Inputs that were quarantined; default: those of the last run.
        """
        failures = self.failures() if failures is None else list(failures)
        failed = {failure.path for failure in failures}
        names = sorted(name for name in (self.names() if names is None else names) if name not in failed)
        totals = RunTotals.of(failures)
        for _ in totals.adding(self._measured_of(names, {})):
            pass
        return totals.accounts(self.document.get("not_taken", {}))

    def _measured_of(
        self, names: Sequence[str], known: Mapping[str, Measured]
    ) -> Iterator[tuple[str, Measured | None]]:
        return ((name, known.get(name) or self.measured(name)) for name in names)

    def failures(self) -> list[Failure]:
        """The quarantined inputs of the last run."""
        return read_failures(self.folder / FAILURES_FILE)

    def areas(self) -> list[dict[str, Any]]:
        """The rows of areas.parquet.

        Raises:
            StoreError: It is damaged.
        """
        try:
            rows: list[dict[str, Any]] = read_parquet(self.folder / AREAS_FILE).to_pylist()
        except FileNotFoundError:
            raise
        except (OSError, *UNREADABLE) as error:
            # Arrow raises OSError for damaged pages.
            raise StoreError(
                f"{self.folder / AREAS_FILE}: damaged ({error}); run measure again, which makes it anew"
            ) from error
        return rows


def _object_names(root: ObjectPath) -> Iterator[str]:
    """Mask stores below an address: a listing for each folder, and one for each mask, many at a time."""
    left = [root]
    with ThreadPoolExecutor(_LISTINGS) as pool:
        while left:
            inner = [each for found in pool.map(lambda folder: list(folder.iterdir()), left) for each in found]
            stores = [each for each in inner if each.suffix == ".zarr"]
            have_counts = list(pool.map(lambda store: (store / "counts").is_dir(), stores))
            yield from (
                str(store.relative_to(root)).removesuffix(".zarr")
                for store, has in zip(stores, have_counts, strict=True)
                if has
            )
            masks = {store for store, has in zip(stores, have_counts, strict=True) if has}
            left = [each for each in inner if each not in masks]


def _versions_advice(differing: list[str]) -> str:
    for each in differing:
        if each.startswith("computed_with.runtime:"):
            return f"set runtime: {each.split()[1]} to go on with it, "
    versions_differ = any(each.startswith("computed_with") for each in differing)
    return "install the versions that it was made with, " if versions_differ else ""


def _versions(older: Mapping[str, Any]) -> dict[str, Any]:
    """Versions that the run was begun with, and, apart from them, the others that it was continued with."""
    now = versions("zarr", "tifffile", "ray")
    first = older.get("versions", now)
    others = older.get("continued_with", [])
    if now not in [first, *others]:
        others = [*others, now]
    return {"versions": first} | ({"continued_with": others} if others else {})
