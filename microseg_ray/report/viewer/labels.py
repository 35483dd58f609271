"""What people painted: an index mask per micrograph that `tile` reads, and who painted what and when beside it.

```
LABELS/
  labels.csv      micrograph, mask: `microseg tile --table LABELS/labels.csv`
  classes.json    names and colours, in the order of the class index
  masks/          <path of the micrograph>.zarr: OME-Zarr label image, uint8, 255 = not labelled; only painted chunks exist
  records/        a .jsonl per micrograph: each stroke with who, when, class, box, pixels
  undo/           what the last strokes painted over
```
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError, MicrosegError, RunMismatchError
from microseg_ray.files import delete_file, sole_writer, sync, whole
from microseg_ray.geometry import Box
from microseg_ray.outputs import Kind, claim
from microseg_ray.report.viewer.label_records import read_classes, read_strokes, record_mask, write_classes
from microseg_ray.report.viewer.levels import TILE, level_box
from microseg_ray.report.viewer.strokes import Stroke, filled
from microseg_ray.report.viewer.subject import short_digest
from microseg_ray.runs.store.pyramid import label_metadata, mode_downsample
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import IGNORE_INDEX, ClassSpec, default_color

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    import zarr
    from numpy.typing import NDArray

__all__ = ["Labels", "Sheet", "SomebodyElseError", "Ticket"]

_UNDO = 100
_MOST_COPIED = 1 << 28
_PATIENCE = 100


class SomebodyElseError(MicrosegError):
    """Another person painted in this micrograph since the page was read."""


@dataclass(frozen=True)
class Ticket:
    """Who asks for a change, and what they have seen.

    Attributes:
        who: The person.
        session: The page, one for each tab of a browser.
        version: The version of the labels that the page shows.
        stroke: Parts of one stroke have the same text, and are undone together.
    """

    who: str
    session: str
    version: int
    stroke: str


@dataclass(frozen=True)
class Sheet:
    """What is painted on.

    Attributes:
        name: The micrograph.
        path: Its file.
        shape: (height, width).
        pixel_size_um: (y, x), or None.
    """

    name: str
    path: str
    shape: tuple[int, int]
    pixel_size_um: tuple[float, float] | None


class Labels:
    """The folder of labels of a run or an archive.

    Args:
        folder: Where labels are; made with the first stroke.
        classes: Those of the run, to begin with.
    """

    def __init__(self, folder: Path, classes: Sequence[ClassSpec]) -> None:
        self.folder = folder.absolute()
        self._first = tuple(classes)
        self._lock = threading.Lock()

    @property
    def classes(self) -> tuple[ClassSpec, ...]:
        """Names and colours; the run's come first, at their own index."""
        return read_classes(self.folder / "classes.json") or self._first

    def add_class(self, name: str, color: str = "") -> int:
        """Add a class; its index.

        Raises:
            InputError: The name is taken or empty, the colour is none, or a mask has no room.
        """
        with self._writing():
            known = self.classes
            if not name.strip() or any(each.name == name for each in known) or len(known) >= IGNORE_INDEX:
                raise InputError(
                    name, "cannot be the name of another class", "give one that is not empty and not taken"
                )
            try:
                added = ClassSpec(name=name, color=color or default_color(len(known)))
            except ValueError as error:
                raise InputError(name, f"cannot be a class ({error})", "give a colour as #rrggbb") from error
            self._write_classes((*known, added))
        return len(known)

    def entries(self, name: str) -> list[dict[str, Any]]:
        """What was done to a micrograph, from first to last. The version is their number."""
        return read_strokes(self._record(name))

    def mask_path(self, name: str) -> Path:
        """Where the labels of a micrograph lie."""
        return self.folder / "masks" / f"{name}.zarr"

    def labelled(self, name: str) -> bool:
        """Whether anything was painted in a micrograph, by its files; all of it may have been erased since."""
        return (self.mask_path(name) / "0" / "c").is_dir()

    def pixels(self, sheet: Sheet, box: Box) -> NDArray[np.uint8]:
        """Labels of a box; 255 where nobody painted."""
        array = self._array(sheet)
        return np.full(box.shape, IGNORE_INDEX, np.uint8) if array is None else np.asarray(array[box.slices])

    def tile(self, sheet: Sheet, level: int, box: Box) -> NDArray[np.uint8]:
        """Labels of a tile of a level. A painted pixel counts more than any number of others, so thin strokes stay visible."""
        found = np.full(box.shape, IGNORE_INDEX, np.uint8)
        array = self._array(sheet)
        if array is None:
            return found
        step = 1 << level
        for chunk in self._chunks(sheet, level_box(box, level, sheet.shape)):
            labels = np.asarray(array[chunk.slices])
            for _ in range(level):
                labels = mode_downsample(labels)
            y0, x0 = chunk.y0 // step - box.y0, chunk.x0 // step - box.x0
            found[y0 : y0 + labels.shape[0], x0 : x0 + labels.shape[1]] = labels
        return found

    def draw(
        self, sheet: Sheet, stroke: Stroke, ticket: Ticket, shown: Callable[[Box], NDArray[np.uint8]] | None = None
    ) -> dict[str, Any]:
        """Paint a stroke, or a part of one; it is on the disk when this returns.

        Args:
            sheet: The micrograph.
            stroke: What was drawn.
            ticket: Who drew it.
            shown: The model's mask of a box; None where there is none.

        Returns:
            The entry that was recorded.

        Raises:
            SomebodyElseError: Another page painted here since; nothing is drawn.
            InputError: The stroke is too large.
        """
        with self._writing():
            version = len(self._require_seen(sheet.name, ticket)) + 1
            if stroke.tool == "fill":

                def seen(box: Box) -> NDArray[np.uint8]:
                    labels = self.pixels(sheet, box)
                    return labels if shown is None else np.where(labels == IGNORE_INDEX, shown(box), labels)

                box, inside = filled(stroke.points[0], sheet.shape, seen)
                changes = [(box, np.where(inside, np.uint8(stroke.value), self.pixels(sheet, box)))]
                return self._commit(sheet, version, changes, ticket, {"tool": "fill", "value": stroke.value})
            changes_of = (
                (chunk, np.where(stroke.fill(chunk), np.uint8(stroke.value), self.pixels(sheet, chunk)))
                for chunk in _cut(stroke.bounds(sheet.shape))
            )
            return self._commit(sheet, version, changes_of, ticket, {"tool": stroke.tool, "value": stroke.value})

    def copy(self, sheet: Sheet, box: Box, shown: Callable[[Box], NDArray[np.uint8]], ticket: Ticket) -> dict[str, Any]:
        """Start from the model's mask: it becomes the label of what is not labelled in a box.

        Raises:
            SomebodyElseError: As `draw`.
            InputError: The box is too large.
        """
        box = box.intersection(Box.of_shape(sheet.shape))
        if box.area > _MOST_COPIED:
            raise InputError(sheet.name, f"{box.area} pixels are too many to copy at once", "zoom in and copy the view")
        with self._writing():
            version = len(self._require_seen(sheet.name, ticket)) + 1

            def changes() -> Iterator[tuple[Box, NDArray[np.uint8]]]:
                for chunk in _cut(box):
                    labels = self.pixels(sheet, chunk)
                    yield chunk, np.where(labels == IGNORE_INDEX, shown(chunk), labels)

            return self._commit(sheet, version, changes(), ticket, {"tool": "copy", "value": None})

    def undo(self, sheet: Sheet, ticket: Ticket) -> dict[str, Any]:
        """Take back the last stroke of a page.

        Raises:
            InputError: There is none to take back, or somebody painted over it.
        """
        with self._writing():
            entries = self._require_seen(sheet.name, ticket)
            undone = {each["stroke"] for each in entries if each["tool"] == "undo"}
            own = [
                (place, each)
                for place, each in enumerate(entries, 1)
                if each["session"] == ticket.session and each["tool"] != "undo" and each["stroke"] not in undone
            ]
            if not own:
                raise InputError(sheet.name, "there is no stroke of this page to take back", "use the eraser")
            last = own[-1][1]["stroke"]
            parts = [(place, each) for place, each in own if each["stroke"] == last]
            for place, part in parts:
                for later in entries[place:]:
                    if later["session"] != ticket.session and _touch(later["box"], part["box"]):
                        raise InputError(sheet.name, f"{later['who']} painted over this stroke since", "use the eraser")
            changes: list[tuple[Box, NDArray[np.uint8]]] = []
            for place, _ in reversed(parts):
                changes += self._older(sheet.name, place)
            entry = {"tool": "undo", "value": None, "stroke": last}
            return self._commit(sheet, len(entries) + 1, changes, ticket, entry)

    def _require_seen(self, name: str, ticket: Ticket) -> list[dict[str, Any]]:
        """What was done here so far, if the page has seen what others did."""
        entries = self.entries(name)
        others = [each for each in entries[ticket.version :] if each["session"] != ticket.session]
        if others:
            last = others[-1]
            raise SomebodyElseError(f"{last['who']} painted here at {last['when']}; look at it, then paint again")
        return entries

    def _commit(
        self,
        sheet: Sheet,
        version: int,
        changes: Iterable[tuple[Box, NDArray[np.uint8]]],
        ticket: Ticket,
        what: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write pixels, then what they were before, then the record: the record is there once all else is."""
        array, older, changed, touched = self._require_array(sheet), [], 0, Box(0, 0, 0, 0)
        for box, new in changes:
            before = np.asarray(array[box.slices])
            differs = before != new
            if differs.any():
                array[box.slices] = new
                older.append((box, before))
                changed += int(differs.sum())
                touched = box if touched.area == 0 else touched.union(box)
        self._keep(sheet.name, version, older)
        entry = {
            "version": version,
            "name": os.fsencode(sheet.name).hex(),
            "stroke": ticket.stroke,
            "who": ticket.who,
            "session": ticket.session,
            "when": datetime.now(UTC).isoformat(timespec="seconds"),
            "pixels": changed,
            "box": [touched.y0, touched.x0, touched.y1, touched.x1],
            **what,
        }
        path = self._record(sheet.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(json.dumps(entry).encode("ascii") + b"\n")
        sync(path)
        return entry

    def _keep(self, name: str, version: int, older: Sequence[tuple[Box, NDArray[np.uint8]]]) -> None:
        arrays: dict[str, Any] = {"count": np.array(len(older))}
        for place, (box, before) in enumerate(older):
            arrays |= {f"box{place}": np.array([box.y0, box.x0, box.y1, box.x1]), f"before{place}": before}
        with whole(self._undo_file(name, version), durable=False) as partial, partial.open("wb") as file:
            np.savez_compressed(file, **arrays)
        delete_file(self._undo_file(name, version - _UNDO))

    def _older(self, name: str, version: int) -> list[tuple[Box, NDArray[np.uint8]]]:
        path = self._undo_file(name, version)
        if not path.is_file():
            raise InputError(name, f"only the last {_UNDO} strokes can be taken back", "use the eraser")
        with np.load(path) as kept:
            count = int(kept["count"])
            return [(Box(*(int(v) for v in kept[f"box{n}"])), kept[f"before{n}"]) for n in range(count)]

    def _require_array(self, sheet: Sheet) -> zarr.Array[Any]:
        found = self._array(sheet)
        if found is not None:
            return found
        import zarr

        path = self.mask_path(sheet.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(str(path), mode="a")
        self._describe(group, sheet)
        self._write_classes(self.classes)
        image = Path(sheet.path)
        # A micrograph of another place than a folder has no row.
        if image.is_absolute():
            from microseg_ray.catalog.rows import CatalogRow

            row = CatalogRow(sheet.name, image, path, "", "", sheet.pixel_size_um)
            record_mask(self.folder / "labels.csv", row)
        # Last: where it is, all else is.
        return group.create_array(
            "0",
            shape=sheet.shape,
            chunks=(TILE, TILE),
            dtype="uint8",
            fill_value=IGNORE_INDEX,
            dimension_names=("y", "x"),
            overwrite=True,
        )

    def _describe(self, group: zarr.Group, sheet: Sheet) -> None:
        spec = MaskSpec(sheet.shape, self.classes)
        ome = label_metadata(Path(sheet.name).name, spec, [sheet.shape], sheet.pixel_size_um)
        group.attrs.put({"microseg": {"labels": True, "shape": list(sheet.shape)}, "ome": ome})

    def _array(self, sheet: Sheet) -> zarr.Array[Any] | None:
        path = self.mask_path(sheet.name)
        if not (path / "0" / "zarr.json").is_file():
            return None
        import zarr

        array = zarr.open_array(path / "0", mode="r+")
        if array.shape != sheet.shape:
            reason = f"these labels are {array.shape}, the micrograph is {sheet.shape} (height, width)"
            raise InputError(str(path), reason, "the file has changed since it was labelled; move its labels away")
        return array

    def _chunks(self, sheet: Sheet, box: Box) -> Iterator[Box]:
        """The painted chunks in a box."""
        folder = self.mask_path(sheet.name) / "0" / "c"
        for chunk in _cut(box):
            if (folder / str(chunk.y0 // TILE) / str(chunk.x0 // TILE)).is_file():
                yield chunk

    def _write_classes(self, classes: Sequence[ClassSpec]) -> None:
        write_classes(self.folder / "classes.json", classes)

    def _record(self, name: str) -> Path:
        return self.folder / "records" / f"{short_digest(name)}.jsonl"

    def _undo_file(self, name: str, version: int) -> Path:
        return self.folder / "undo" / short_digest(name) / f"{version}.npz"

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One writer at a time, in this process and in others."""
        with self._lock, contextlib.ExitStack() as held:
            for attempt in range(_PATIENCE):
                try:
                    held.enter_context(sole_writer(self.folder))
                    break
                except RunMismatchError:
                    if attempt == _PATIENCE - 1:
                        raise
                    time.sleep(0.05)
            entries = {"labels.csv": Kind.FILE, "classes.json": Kind.FILE, "masks": Kind.STORES}
            claim(self.folder, "view", entries)
            yield


def _cut(box: Box) -> Iterator[Box]:
    """A box by the chunks of the store."""
    for y in range(box.y0 // TILE, -(-box.y1 // TILE)):
        for x in range(box.x0 // TILE, -(-box.x1 // TILE)):
            chunk = Box(y * TILE, x * TILE, (y + 1) * TILE, (x + 1) * TILE).intersection(box)
            if chunk.area:
                yield chunk


def _touch(one: Sequence[int], other: Sequence[int]) -> bool:
    return Box(*one).intersection(Box(*other)).area > 0
