"""The places most worth labelling of a whole run: gathered micrograph by micrograph, ranked, written as a table."""

from __future__ import annotations

import heapq
import itertools
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError, MicrosegError
from microseg_ray.files import write_json
from microseg_ray.names import text
from microseg_ray.outputs import Kind, claim
from microseg_ray.quarantine import Failure
from microseg_ray.report.kept import kept_of
from microseg_ray.report.labelling.ranking import Candidates, choose, rarity
from microseg_ray.report.labelling.windows import Window, looks, spread_boxes, windows_of
from microseg_ray.report.viewer.labels import Labels, Sheet
from microseg_ray.report.viewer.subject import key_of
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.report.labelling.windows import Look
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.store.masks import MaskStore

__all__ = ["COLUMNS", "NEXT_FAILURES", "NEXT_FILES", "Found", "Place", "Search", "find_places", "write_places"]

NEXT_FAILURES = "next_failures.csv"
NEXT_FILES = ("next.csv", "next.json", NEXT_FAILURES)
STAGE = "next"
COLUMNS = (
    *("rank", "micrograph", "y0", "x0", "y1", "x1", "y0_um", "x0_um", "y1_um", "x1_um"),
    *("score", "doubt", "doubt_of", "class", "reasons"),
)
_OF_ONE = 8
"""Windows of one micrograph among the candidates: more than a greedy choice takes from it unless there are few micrographs."""

_POOL = 4096
"""Candidates in memory, the best of all micrographs."""


@dataclass(frozen=True)
class Search:
    """How places are looked for.

    Attributes:
        count: How many are wanted.
        side: Of a place, in pixels.
        shards: Of each micrograph that are looked at, at most.
    """

    count: int = 30
    side: int = 256
    shards: int = 64


@dataclass(frozen=True)
class Place:
    """A place to label.

    Attributes:
        window: Where, and what was found there.
        value: Its score beside the places before it.
        reasons: Why, in words.
    """

    window: Window
    value: float
    reasons: str

    def record(self, classes: Sequence[str]) -> dict[str, Any]:
        """The place as plain JSON types."""
        window, box = self.window, self.window.box
        size = window.pixel_size_um
        sides = [box.y0, box.x0, box.y1, box.x1]
        um = None if size is None else [side * size[place % 2] for place, side in enumerate(sides)]
        return {
            "micrograph": text(window.micrograph),
            "key": key_of(window.micrograph),
            "box": sides,
            "box_um": um,
            "score": round(self.value, 6),
            "doubt": round(window.doubt, 6),
            "doubt_of": window.source,
            "class": classes[int(np.argmax(window.shares))],
            "reasons": self.reasons,
        }


@dataclass(frozen=True)
class Found:
    """Result of the search.

    Attributes:
        places: The places in the order in which they are to be labelled.
        failures: Micrographs that were left out, and why.
        looked_at: Micrographs that were looked at.
        note: What would make the choice better; "" for nothing.
    """

    places: list[Place]
    failures: list[Failure]
    looked_at: int
    note: str


def find_places(
    run: Run,
    labels: Labels,
    search: Search,
    newest: Callable[[str], MaskStore | None] = lambda _: None,
    report: Callable[[int, int], None] = lambda *_: None,
) -> Found:
    """The places of a run that are most worth labelling.

    Memory does not grow with the archive: of each micrograph a few windows are kept, of all of them the best 4096.

    Args:
        run: The run, finished or not.
        labels: What is labelled already.
        search: How many, how large.
        newest: The mask of a newer model by name, or None.
        report: Called with (done, total) after each micrograph.
    """
    names = run.names()
    rare = rarity(_fractions(run, len(run.classes)))
    pool: list[tuple[float, int, Window]] = []
    failures: list[Failure] = []
    marked: set[str] = set()
    number = itertools.count()
    for done, name in enumerate(names, 1):
        try:
            found, labelled = _of_micrograph(run, labels, name, newest(name), rare, search)
        except (MicrosegError, KeyError, ValueError, OSError) as error:
            failures.append(Failure(name, STAGE, str(error)))
            found, labelled = [], False
        if labelled:
            marked.add(name)
        for window in found:
            heapq.heappush(pool, (window.score, -next(number), window))
            if len(pool) > _POOL:
                heapq.heappop(pool)
        report(done, len(names))
    windows = sorted((window for *_, window in pool), key=lambda each: (each.micrograph, each.box.y0, each.box.x0))
    kept, seen = _seen(run, windows, failures)
    order = sorted({window.micrograph for window in kept})
    numbers = {name: place for place, name in enumerate(order)}
    candidates = Candidates(
        np.array([window.score for window in kept], np.float64),
        np.array([numbers[window.micrograph] for window in kept], np.int64),
        _features(kept, seen),
    )
    chosen, values = choose(candidates, search.count, {numbers[name] for name in marked if name in numbers})
    places = [
        Place(kept[index], value, _reasons(kept[index], run, rare)) for index, value in zip(chosen, values, strict=True)
    ]
    return Found(places, sorted(failures), len(names) - len(failures), _note(kept))


def _of_micrograph(
    run: Run, labels: Labels, name: str, newer: MaskStore | None, rare: NDArray[np.float64], search: Search
) -> tuple[list[Window], bool]:
    kept = kept_of(run.store_path(name))
    if (kept.identity.get("view") or {}).get("file_shape") is not None:
        raise InputError(name, "was segmented at another pixel size than its own, so it cannot be painted in")
    sheet = Sheet(name, "", kept.spec.shape, None)
    marked = labels.labelled(name)

    def painted(box: Box) -> NDArray[np.bool_]:
        return labels.pixels(sheet, box) != IGNORE_INDEX if marked else np.zeros(box.shape, bool)

    classes = len(kept.record["classes"])
    if newer is not None and newer.spec.shape == kept.spec.shape:
        kept, classes = kept_of(newer.path), len(newer.spec.classes)
    boxes = spread_boxes(kept.spec, search.shards)
    return windows_of(name, kept, boxes, rare[:classes], painted, search.side, _OF_ONE), marked


def _fractions(run: Run, classes: int) -> NDArray[np.float64]:
    """Area fraction of each class of all micrographs that are measured; equal ones before the tables are there."""
    total = np.zeros(classes)
    if (run.folder / "areas.parquet").is_file():
        for row in run.areas():
            if row["class_index"] < classes:
                total[row["class_index"]] += row["pixel_count"]
    return total / total.sum() if total.sum() else np.full(classes, 1 / classes)


def _seen(run: Run, windows: Iterable[Window], failures: list[Failure]) -> tuple[list[Window], list[Look]]:
    """The windows whose micrograph can be read, and what they look like; the others become failures."""
    kept: list[Window] = []
    seen: list[Look] = []
    for name, group in itertools.groupby(windows, key=lambda each: each.micrograph):
        of_one = list(group)
        try:
            seen += looks(run, kept_of(run.store_path(name)), of_one)
            kept += of_one
        except (MicrosegError, KeyError, ValueError, OSError) as error:
            failures.append(Failure(name, STAGE, str(error)))
    return kept, seen


def _features(windows: Sequence[Window], seen: Sequence[Look]) -> NDArray[np.float64]:
    """Brightness and contrast in standard deviations of all candidates, and twice the shares of the classes."""
    if not windows:
        return np.zeros((0, 2))
    look = np.array([[each.mean, each.deviation] for each in seen])
    spread = look.std(axis=0)
    look = (look - look.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    most = max(len(each.shares) for each in windows)
    shares = np.array([[*each.shares, *[0.0] * (most - len(each.shares))] for each in windows])
    return np.concatenate([look, 2 * shares], axis=1)


def _reasons(window: Window, run: Run, rare: NDArray[np.float64]) -> str:
    words = {
        "margin": f"mean margin {1 - window.doubt:.2f}",
        "entropy": f"mean entropy {window.doubt:.2f} of the largest one",
        "probabilities": f"mean margin {1 - window.doubt:.2f}",
        "borders": f"{100 * window.doubt:.0f} % of the pixels lie at a border of classes",
    }
    said = [words[window.source]]
    shown = [index for index in np.argsort(-rare, kind="stable") if index < len(window.shares)]
    said += [
        f"{100 * window.shares[index]:.0f} % {run.classes[index].name}, which is rare"
        for index in shown
        if rare[index] > 0.5 and window.shares[index] > 0.01
    ]
    return "; ".join(said)


def _note(windows: Sequence[Window]) -> str:
    blind = sum(window.source == "borders" for window in windows)
    if not blind:
        return ""
    return (
        "the run kept neither margin nor entropy, so places are ranked by borders of classes; `segment --extra margin` keeps it"
        if blind == len(windows)
        else "some micrographs have no margin, there places are ranked by borders of classes; `segment --extra margin` keeps it"
    )


def write_places(folder: Path, found: Found, classes: Sequence[str]) -> None:
    """Write next.csv and next.json, each whole or not at all.

    Args:
        folder: The folder of labels.
        found: The places.
        classes: Names of the run's classes.
    """
    claim(folder, STAGE, dict.fromkeys(NEXT_FILES, Kind.FILE))
    records = [place.record(classes) for place in found.places]
    rows = []
    for rank, (place, record) in enumerate(zip(found.places, records, strict=True), 1):
        um = record["box_um"] or [""] * 4
        # The name with its own bytes: it is for programs.
        own = [record[key] for key in ("score", "doubt", "doubt_of", "class", "reasons")]
        rows.append([rank, os.fspath(place.window.micrograph), *record["box"], *um, *own])
    write_csv(folder / "next.csv", COLUMNS, rows)
    write_json(folder / "next.json", {"places": records, "note": found.note, "left_out": len(found.failures)})
