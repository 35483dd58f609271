"""One round of learning: tile what is labelled, train for a few minutes, segment again, compare."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import InputError, MicrosegError, SettingsError
from microseg_ray.files import absolute_text, local_folder, sole_writer, write_json
from microseg_ray.names import text
from microseg_ray.outputs import Kind, claim
from microseg_ray.quarantine import Failure
from microseg_ray.report.labelling.rounds import PROGRESS_FILE, Change, Round, Rounds
from microseg_ray.report.viewer.labels import Labels, Sheet
from microseg_ray.report.viewer.subject import key_of
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import IGNORE_INDEX, SegmentSettings, TileSettings, TrainSettings, settings_from
from microseg_ray.sources import member_path

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.fitting.train import TrainProgress
    from microseg_ray.settings.learn import LearnSettings

__all__ = ["Learnt", "compare", "learn"]

_STEPS = 10
"""Steps of an epoch: a fit ends after whole epochs only, so they must be short."""

_REPORT_SECONDS = 0.5


@dataclass(frozen=True)
class Learnt:
    """Result of a round.

    Attributes:
        round: What was recorded.
        checkpoint: The new checkpoint.
        failures: Micrographs that could not be tiled or segmented.
        notes: What the user should know.
    """

    round: Round
    checkpoint: Path
    failures: list[Failure]
    notes: list[str]


def learn(settings: LearnSettings, report: Callable[[str, int, int, str], None] = lambda *_: None) -> Learnt:
    """Run a round.

    Args:
        settings: The job's settings.
        report: Called with (stage, done, total, detail).

    Raises:
        InputError: Too little is labelled, or no such micrograph.
        SettingsError: No checkpoint to start from.
        RunMismatchError: Another round is running.
        MicrosegError: The process that started this one has ended.
    """
    run = Run.open(settings.run)
    folder = (
        local_folder(run.folder, "learn") / "labels"
        if settings.labels is None
        else Path(settings.labels).expanduser().absolute()
    )
    labels, rounds = Labels(folder, run.classes), Rounds(folder)
    given = settings.micrographs
    names = _wanted(run, labels, (given,) if isinstance(given, str) else given)
    with sole_writer(rounds.folder):
        claim(rounds.folder, "learn", {PROGRESS_FILE: Kind.FILE})
        said = _Said(rounds.folder / PROGRESS_FILE, report, settings.parent)
        try:
            found = _Round(settings, run, labels, rounds, said).run(names)
        except BaseException as error:
            said.end("cancelled" if isinstance(error, KeyboardInterrupt) else text(str(error)))
            raise
        said.end("")
    return found


def _wanted(run: Run, labels: Labels, micrographs: tuple[str, ...]) -> list[str]:
    known = run.names()
    labelled = [name for name in known if labels.labelled(name)]
    if not labelled:
        raise InputError(labels.folder, "nothing is labelled yet", "paint in the page of `microseg view` first")
    for name in micrographs:
        if name not in known:
            raise InputError(name, f"is no micrograph of {run.folder}", "give its path below the archive")
    return list(micrographs) or labelled


class _Said:
    """Progress, to a callback and to a file that the page reads."""

    def __init__(self, path: Path, report: Callable[[str, int, int, str], None], parent: int | None) -> None:
        self._path, self._report, self._parent = path, report, parent
        self._began, self._written = time.time(), 0.0

    def __call__(self, stage: str, done: int, total: int, detail: str = "") -> None:
        # A page that was killed cannot end what it started.
        if self._parent is not None and os.getppid() != self._parent:
            raise MicrosegError("the page that started this round is gone, so it ends")
        self._report(stage, done, total, detail)
        if time.monotonic() - self._written >= _REPORT_SECONDS or done == total:
            self._written = time.monotonic()
            self._write({"stage": stage, "done": done, "total": total, "detail": detail})

    def end(self, error: str) -> None:
        self._write({"stage": "failed" if error else "done", "done": 1, "total": 1, "detail": error})

    def _write(self, document: dict[str, Any]) -> None:
        write_json(self._path, {**document, "began": self._began, "pid": os.getpid()}, durable=False)


class _Round:
    def __init__(self, settings: LearnSettings, run: Run, labels: Labels, rounds: Rounds, said: _Said) -> None:
        self._settings, self._run, self._labels, self._rounds, self._said = settings, run, labels, rounds, said
        self._number = rounds.last() + 1
        self._seconds: dict[str, float] = {}
        self._notes: list[str] = []

    def run(self, names: list[str]) -> Learnt:
        start = self._start()
        labelled, failures = self._timed("tile", self._tile, start)
        steps = self._timed("train", self._train, start)
        changes: list[Change] = []
        began = time.monotonic()
        for done, name in enumerate(names):
            self._said("segment", done, len(names), text(name))
            try:
                changes.append(self._segment(name))
            except InputError as error:
                failures.append(Failure(name, "segment", str(error)))
        self._seconds["segment"] = time.monotonic() - began
        record = Round(
            self._number,
            datetime.now(UTC).isoformat(timespec="seconds"),
            start,
            tuple(each.name for each in self._labels.classes),
            labelled,
            steps,
            {stage: round(value, 2) for stage, value in self._seconds.items()},
            tuple(changes),
        )
        self._rounds.write(record)
        return Learnt(record, self._rounds.checkpoint(self._number), failures, self._notes)

    def _timed(self, stage: str, step: Callable[[str], Any], start: str) -> Any:
        began = time.monotonic()
        found = step(start)
        self._seconds[stage] = time.monotonic() - began
        return found

    def _start(self) -> str:
        if self._settings.checkpoint is not None:
            return absolute_text(self._settings.checkpoint)
        last = self._rounds.last()
        if last:
            return str(self._rounds.checkpoint(last))
        found = self._run.document["checkpoint"]
        if not isinstance(found, str):
            raise SettingsError(
                f"learn.checkpoint: the run is of {len(found)} checkpoints together; give the one that is to be trained"
            )
        return found

    def _tile(self, start: str) -> tuple[tuple[int, ...], list[Failure]]:
        """Tile the labels as the model sees micrographs; labelled pixels of each class, and what was set aside."""
        from microseg_ray.models.card import read_card
        from microseg_ray.tiles import make as tiling

        card = read_card(start)
        side, given = self._settings.tile, self._run.document["settings"]
        tiled = tiling.tile(
            settings_from(
                TileSettings,
                {
                    "table": str(self._labels.folder / "labels.csv"),
                    "output": str(self._rounds.folder / "tiles"),
                    "classes": [each.model_dump() for each in self._labels.classes],
                    "tile": side,
                    "overlap": side // 4,
                    "scaling": card.scaling.model_dump(),
                    "source": given.get("source", {}),
                    # Each was agreed with the model when it was segmented.
                    "on_scale_mismatch": "ignore",
                    "workers": 0,
                    "overwrite": True,
                },
            ),
            lambda stage, done, total: self._said(f"tile ({stage})", done, total),
        )
        counts = tiled.store.tile_counts("train").sum(axis=0)
        painted = [each.name for each, count in zip(self._labels.classes, counts, strict=True) if count]
        if len(painted) < 2:
            raise InputError(
                self._labels.folder,
                f"only {painted[0]} is labelled, and a model that learns from one class calls everything so",
                "paint a stroke of at least one other class",
            )
        lacking = [each.name for each in self._labels.classes if each.name not in painted]
        if lacking:
            self._notes.append(f"nothing is labelled as {', '.join(lacking)}: the model may forget it")
        return tuple(int(each) for each in counts), list(tiled.failures)

    def _train(self, start: str) -> int:
        """Train until the time is over; the number of steps."""
        from microseg_ray.fitting.train import StopFit, train

        settings, began = self._settings, time.monotonic()
        whole, limit = 60 * settings.minutes, settings.max_steps
        epochs = 1_000_000 if limit is None else -(-limit // _STEPS)
        self._said("train", 0, 100, "starting")

        def report(progress: TrainProgress) -> None:
            passed = time.monotonic() - began
            steps = (progress.epoch - 1) * _STEPS + (progress.step if progress.steps > 1 else _STEPS)
            # The time, or the steps where they are fewer: what will end it first.
            share = max(passed / whole, 0.0 if limit is None else steps / limit)
            loss = "" if progress.last is None else f", loss {progress.last['loss']:.3f}"
            self._said("train", min(99, int(100 * share)), 100, f"{steps} steps{loss}")
            if passed >= whole:
                raise StopFit

        done = train(settings_from(TrainSettings, self._fit(start, epochs)), report)
        return len(done.history) * min(_STEPS, limit or _STEPS)

    def _fit(self, start: str, epochs: int) -> dict[str, Any]:
        """Settings of the fit: a constant rate, since nobody knows how many steps the time allows, and averaged weights."""
        from microseg_ray.models.card import read_card
        from microseg_ray.models.growing import write_grown_weights

        settings, card = self._settings, read_card(start)
        weights, hold = start, settings.hold
        if len(card.classes) != len(self._labels.classes):
            weights = str(self._rounds.place(self._number) / "start.safetensors")
            write_grown_weights(start, len(self._labels.classes), Path(weights), settings.seed)
            # Of a class that was added the model before says nothing but chance.
            hold = 0.0
            if settings.hold:
                self._notes.append(
                    "a class was added, so this round is not held to the masks before: look at them closely"
                )
        return {
            "tiles": str(self._rounds.folder / "tiles"),
            "output": str(self._rounds.place(self._number) / "model"),
            "epochs": epochs,
            "steps_per_epoch": min(_STEPS, settings.max_steps or _STEPS),
            "batch": settings.batch,
            "model": {"name": card.architecture, **card.options, "weights": weights},
            "optimizer": {"learning_rate": settings.learning_rate, "schedule": "constant", "warmup": 0.0},
            # Statistics of a few tiles would replace those of the whole training.
            "freeze_batch_norm": True,
            # Strokes show the classes in other shares than the micrographs have, and would shift all the rest.
            "hold": hold,
            "ema": 0.9,
            "clip": 5.0,
            "sampling": {"kind": "class_area"},
            "allow_empty_classes": True,
            "threads": settings.threads,
            "seed": settings.seed,
            "overwrite": True,
            "workers": 0,
            # Where the run was computed.
            "gpu": bool(self._run.document["settings"].get("gpu", False)),
        }

    def _segment(self, name: str) -> Change:
        """Segment a micrograph with the new checkpoint into a run of its own, and compare.

        Raises:
            InputError: It could not be segmented.
        """
        from microseg_ray.runs.segment import segment

        before = self._rounds.mask(name) or MaskStore.open(self._run.store_path(name))
        given = {
            key: value
            for key, value in self._run.document["settings"].items()
            if key in SegmentSettings.model_fields and key not in {"ray", "attempts"}
        }
        own = {
            "archive": member_path(str(self._run.document["archive"]), name),
            "checkpoint": str(self._rounds.checkpoint(self._number)),
            "output": str(self._rounds.run_folder(self._number, name)),
            "classes": (),
            "workers": 0,
            "threads": self._settings.threads,
            "extra": "margin",
            "overwrite": True,
        }
        done = segment(settings_from(SegmentSettings, {**given, **own}))
        if done.ledger.failures:
            raise InputError(name, done.ledger.failures[0].reason, "see it in the page")
        after = MaskStore.open(done.run.store_path(Path(name).name))
        sheet = Sheet(name, "", after.spec.shape, None)
        return compare(key_of(name), before, after, self._labels, sheet)


def compare(key: str, before: MaskStore, after: MaskStore, labels: Labels, sheet: Sheet) -> Change:
    """What changed from one mask to another, shard by shard.

    Args:
        key: Of the micrograph.
        before: The older mask.
        after: The newer mask, of the same shape.
        labels: What was painted.
        sheet: The micrograph.

    Raises:
        InputError: The masks are of different shapes: the file has changed.
    """
    if before.spec.shape != after.spec.shape:
        reason = f"was {before.spec.shape} (height, width) and is {after.spec.shape} now"
        raise InputError(sheet.name, reason, "the file has changed; segment the archive again")
    sums = np.zeros(5, np.int64)
    for shard in np.ndindex(*after.spec.shards):
        box = after.spec.box(shard)
        old, new, painted = before.read(box), after.read(box), labels.pixels(sheet, box)
        both = (old != IGNORE_INDEX) & (new != IGNORE_INDEX)
        marked = both & (painted != IGNORE_INDEX)
        parts = (both, both & (old != new), marked, marked & (old == painted), marked & (new == painted))
        sums += [int(part.sum()) for part in parts]
    return Change(key, *(int(each) for each in sums))
