"""The export-run job: every finished micrograph of a run in each format that was asked for.

```
OUTPUT/
  export.json      which run this is
  classes.csv      index, name and colour of each class
  tiff/NAME.ome.tif  png/NAME.png  overlay/NAME.png  pdf/NAME.pdf  geojson/NAME.geojson
  ome-zarr/NAME.ome.zarr
  coco.json  cvat.xml
  areas.csv  areas.parquet
  failures.csv  accounting.csv
```
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import ACCOUNTS_FILE, Account, file_account, write_accounts
from microseg_ray.errors import InputError, MicrosegError, RunMismatchError, SettingsError
from microseg_ray.figures.pictures import class_palette
from microseg_ray.files import lies_in, sole_writer, whole, whole_folder, write_json
from microseg_ray.names import require_room, text
from microseg_ray.outputs import Kind, claim, drop, settle
from microseg_ray.quarantine import FAILURES_FILE, Failure, stop_if_full, write_failures
from microseg_ray.recognition import foreign_to, is_record, read_record
from microseg_ray.runs.exports.areas import AreaFiles
from microseg_ray.runs.exports.drawings import CocoFile, CvatFile, Drawn, write_geojson
from microseg_ray.runs.exports.ome_zarr import copy_image, link_image
from microseg_ray.runs.exports.overlays import overlay_of
from microseg_ray.runs.exports.rasters import require_png, write_png, write_tiff
from microseg_ray.runs.folder import Run
from microseg_ray.runs.objects import object_rule
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.waiting import not_begun
from microseg_ray.statistics.objects.finding import ObjectRule, find_objects
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from microseg_ray.runs.exports.overlays import Overlay
    from microseg_ray.settings.export_run import ExportRunSettings
    from microseg_ray.statistics.areas import Measured

__all__ = ["Exported", "export_run"]

OWNER = "export-run"
STAGE = "export"
_SUFFIXES = {
    "tiff": ".ome.tif",
    "png": ".png",
    "overlay": ".png",
    "pdf": ".pdf",
    "geojson": ".geojson",
    "ome-zarr": ".ome.zarr",
}
_WHOLE = {"coco": "coco.json", "cvat": "cvat.xml", "csv": "areas.csv", "parquet": "areas.parquet"}
_DRAWINGS = frozenset({"geojson", "coco", "cvat"})
_BOOKS = ("export.json", "classes.csv", FAILURES_FILE, ACCOUNTS_FILE)
_UNFINISHED = "it is not finished in the run; run segment there again, then export again"


@dataclass
class Exported:
    """The result of the export-run job.

    Attributes:
        folder: Where the files are.
        written: How many files of each format.
        failures: Micrographs, or formats of them, that were set aside.
        accounts: Files and objects: seen = used + set aside + not taken.
    """

    folder: Path
    written: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)


def export_run(settings: ExportRunSettings, report: Callable[[int, int], None] = lambda *_: None) -> Exported:
    """Write the finished masks of a run in other formats; the run is only read.

    A second call writes the same bytes again, and removes what an earlier one wrote of the same formats and this one does not.

    Args:
        settings: The job's settings.
        report: Called with (done, total) in micrographs.

    Raises:
        StoreError: There is no run, or the disk is full.
        SettingsError: A class is not one of the run's, or the output lies in the run's masks.
        RunMismatchError: The output holds the export of another run, or files that are not ours.
        InputError: COCO is asked for and pycocotools is not installed.
    """
    run = Run.open(settings.run)
    output = Path(settings.output).absolute()
    if lies_in(output.resolve(), run.folder.resolve() / "masks"):
        raise SettingsError(f"export-run.output: {output} lies in the run's masks; give another folder")
    _require_libraries(settings)
    with sole_writer(output):
        _claim(run, output, settings)
        return _Export(run, output, settings, object_rule(run, settings, "export-run.classes")).work(report)


def _require_libraries(settings: ExportRunSettings) -> None:
    if "coco" not in settings.format:
        return
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        advice = "install it with pip install 'microseg_ray[annotations]'"
        raise InputError("the format coco", "needs pycocotools", advice) from error


def _claim(run: Run, output: Path, settings: ExportRunSettings) -> None:
    """Exports of two runs are never mixed."""
    path = output / "export.json"
    record = {"run": text(str(run.folder)), "identity": run.document["identity"]}
    entries = dict.fromkeys([*_BOOKS, *(_WHOLE[kind] for kind in settings.format if kind in _WHOLE)], Kind.FILE)
    for kind in settings.format:
        if kind in _SUFFIXES:
            what = Kind.LINKED if kind == "ome-zarr" else Kind.FILE
            entries |= {_name(kind, name): what for name in run.names()}
    claim(output, OWNER, entries, proven=is_record(path, "run", "identity"))
    if not settings.overwrite and read_record(path, "run", "identity") not in (None, record):
        raise RunMismatchError(f"{output}: holds the export of another run; give another output, or --overwrite")
    write_json(path, record)


def _name(kind: str, micrograph: str) -> str:
    return f"{kind}/{micrograph}{_SUFFIXES[kind]}"


class _Export:
    """One call of the job."""

    def __init__(self, run: Run, output: Path, settings: ExportRunSettings, rule: ObjectRule) -> None:
        self._run, self._output, self._settings, self._rule = run, output, settings, rule
        self._formats: tuple[str, ...] = tuple(dict.fromkeys(settings.format))
        self._done = Exported(output, {kind: int(kind in _WHOLE) for kind in self._formats})
        self._kept: set[str] = {*_BOOKS, *(_WHOLE[kind] for kind in self._formats if kind in _WHOLE)}
        self._found = self._left_out = 0

    def work(self, report: Callable[[int, int], None]) -> Exported:
        """All micrographs, then the tables."""
        run, done = self._run, self._done
        failed = {failure.path: failure for failure in run.failures()}
        names = run.names()
        done.failures += [failure for path, failure in failed.items() if path not in names]
        later = not_begun(run, {*names, *failed})
        done.failures += [Failure(name, STAGE, _UNFINISHED) for name in later]
        used = []
        with ExitStack() as stack:
            together = self._files_of_all(stack)
            for number, name in enumerate(names, 1):
                if self._micrograph(name, failed.get(name), together):
                    used.append(name)
                report(number, len(names))
        palette = class_palette(run.classes)
        rows = ((index, spec.name, f"#{palette[index].tobytes().hex()}") for index, spec in enumerate(run.classes))
        write_csv(self._output / "classes.csv", ("index", "class", "color"), rows)
        write_failures(self._output / FAILURES_FILE, done.failures)
        listed = {*names, *failed, *later}
        done.accounts = [file_account(listed, used, done.failures, run.document.get("not_taken", {}))]
        if _DRAWINGS & set(self._formats):
            small = {"smaller than min_pixels": self._left_out}
            done.accounts.append(Account("objects", self._found, self._found - self._left_out, 0, small))
        write_accounts(self._output / ACCOUNTS_FILE, done.accounts)
        self._drop_older()
        settle(self._output, OWNER)
        return done

    def _files_of_all(self, stack: ExitStack) -> dict[str, Any]:
        """What is one file for all micrographs: written as they pass, in place when all have passed."""
        made: dict[str, Any] = {}
        for kind, writer in (("coco", CocoFile), ("cvat", CvatFile)):
            if kind in self._formats:
                partial = stack.enter_context(whole(self._output / _WHOLE[kind]))
                file = stack.enter_context(partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n"))
                made[kind] = writer(file, self._run.classes)
                stack.callback(made[kind].close)
        tables = {kind: self._output / _WHOLE[kind] for kind in self._formats if kind in {"csv", "parquet"}}
        if tables:
            made["areas"] = stack.enter_context(AreaFiles(tables, self._run.classes))
        return made

    def _micrograph(self, name: str, failure: Failure | None, together: dict[str, Any]) -> bool:
        """All formats of one micrograph; whether it is in the result."""
        try:
            if failure is not None:
                raise InputError(name, failure.reason)
            store = MaskStore.open(self._run.store_path(name))
            measured = self._run.measured_in(name, store) if store.finished else None
            if measured is None or store.missing():
                raise InputError(name, _UNFINISHED)
            mark = (self._found, self._left_out)
            drawn = self._drawn(store, measured)
        except (MicrosegError, ValueError, RuntimeError, OSError) as error:
            self._set_aside(name, STAGE, error)
            return False
        steps = self._steps(store, measured, drawn, together)
        good = [self._tried(name, kind, step) for kind, step in steps]
        if drawn is not None and not any(ok for ok, (kind, _) in zip(good, steps, strict=True) if kind in _DRAWINGS):
            self._found, self._left_out = mark
        return any(good)

    def _drawn(self, store: MaskStore, measured: Measured) -> Drawn | None:
        if not _DRAWINGS & set(self._formats):
            return None

        objects = find_objects(store.spec.shape, store.read, self._rule)
        self._found += len(objects) + objects.left_out
        self._left_out += objects.left_out
        return Drawn(
            text(measured.micrograph), measured.model_digest, self._run.classes, objects, store.read, self._rule
        )

    def _steps(
        self, store: MaskStore, measured: Measured, drawn: Drawn | None, together: dict[str, Any]
    ) -> list[tuple[str, Callable[[], None]]]:
        """What is written of one micrograph: (format, function)."""
        made: dict[str, Overlay] = {}

        def picture() -> Overlay:
            if not made:
                made[""] = overlay_of(self._run, store, measured, self._settings.overlay_side)
            return made[""]

        def png(path: Path) -> None:
            require_png(path, store.spec.shape, self._settings.png_pixels)
            write_png(path, store, measured)

        def geojson(path: Path) -> None:
            # A name that is not UTF-8 is shown with escapes.
            with path.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
                if drawn is not None:
                    write_geojson(file, drawn, self._settings.qupath_type)

        files: dict[str, Callable[[Path], None]] = {
            "tiff": lambda path: write_tiff(path, store, measured),
            "png": png,
            "overlay": lambda path: picture().save_png(path),
            "pdf": lambda path: picture().save_pdf(path),
            "geojson": geojson,
        }

        def file(kind: str) -> Callable[[], None]:
            return lambda: self._file(kind, measured.micrograph, files[kind])

        def added(kind: str, item: Any) -> Callable[[], None]:
            return lambda: together[kind].add(item)

        steps = [(kind, file(kind)) for kind in self._formats if kind in files]
        if "ome-zarr" in self._formats:
            steps.append(("ome-zarr", lambda: self._image(store, measured)))
        steps += [(kind, added(kind, drawn)) for kind in ("coco", "cvat") if kind in together]
        steps += [("areas", added("areas", measured))] if "areas" in together else []
        return steps

    def _file(self, kind: str, name: str, write: Callable[[Path], None]) -> None:
        target = self._output / _name(kind, name)
        require_room(name, name, _SUFFIXES[kind])
        with whole(target) as partial:
            write(partial)
        self._kept.add(_name(kind, name))
        self._done.written[kind] += 1

    def _image(self, store: MaskStore, measured: Measured) -> None:
        name = _name("ome-zarr", measured.micrograph)
        target = self._output / name
        require_room(measured.micrograph, measured.micrograph, _SUFFIXES["ome-zarr"])
        with whole_folder(target, lambda path: not foreign_to(path, Kind.LINKED)) as partial:
            if self._settings.image == "link":
                link_image(partial, target, self._run, store, measured)
            else:
                copy_image(partial, self._run, store, measured)
        self._kept.add(name)
        self._done.written["ome-zarr"] += 1

    def _tried(self, name: str, kind: str, step: Callable[[], None]) -> bool:
        try:
            step()
        except (MicrosegError, ValueError, RuntimeError, OSError) as error:
            self._set_aside(name, f"{STAGE} {kind}", error)
            return False
        return True

    def _set_aside(self, name: str, stage: str, error: Exception) -> None:
        stop_if_full(error, self._output)
        reason = (
            error.reason + (f"; {error.advice}" if error.advice else "")
            if isinstance(error, InputError)
            else str(error)
        )
        self._done.failures.append(Failure(name, stage, reason))

    def _drop_older(self) -> None:
        """Remove what an earlier export wrote of these formats and this one did not."""
        drop(self._output, OWNER, list(self._outdated()))

    def _outdated(self) -> Iterator[str]:
        for kind in self._formats:
            if kind not in _SUFFIXES:
                continue
            for parent, folders, files in os.walk(self._output / kind):
                stores = {name for name in folders if kind == "ome-zarr" and name.endswith(_SUFFIXES[kind])}
                folders[:] = [name for name in folders if name not in stores]
                for each in sorted((*stores, *files)):
                    name = Path(parent, each).relative_to(self._output).as_posix()
                    if name not in self._kept:
                        yield name
