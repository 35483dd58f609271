"""Squares of an archive without masks, drawn by seed, as a tile store that knows no class.

Each micrograph is opened once for what can be wrong with it, then squares are drawn in proportion to its area, at least one. A
micrograph whose pixels turn out to be damaged where a square lies is set aside, and the squares are drawn anew without it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.accounts import Account, counted, file_account
from microseg_ray.errors import InputError, MicrosegError, SettingsError, StoreError
from microseg_ray.geometry import Box
from microseg_ray.quarantine import Failure
from microseg_ray.sources import fingerprint, intensity_limits, open_prepared, survey_inputs
from microseg_ray.sources.agreement import float_objection
from microseg_ray.sources.specimen.intensity import intensity_range
from microseg_ray.tiles.mapping import Mapper, in_process
from microseg_ray.tiles.shards import TRAINED_ON, shard_task, stop_if_over, write_shard
from microseg_ray.tiles.spec import TileSpec
from microseg_ray.tiles.store import TileStore, write_table
from microseg_ray.tiles.tasks import Pair, TileRow

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from microseg_ray.fence import Fence
    from microseg_ray.settings import Scaling, SourceSettings

__all__ = ["Drawing", "Drawn", "draw_squares", "shares"]

_MOST_OVERLAP = 4
"""Squares of a micrograph cover at most so many times its area: more would repeat the same pixels."""


@dataclass(frozen=True)
class Drawing:
    """What is drawn, and how files are read.

    Attributes:
        archive: Folder, glob, file or URL.
        squares: How many squares; at least one of each micrograph.
        side: Of a square in px.
        seed: Decides where the squares lie.
        scaling: How intensities are scaled.
        source: How files are opened.
        fingerprint: How a changed file is noticed.
    """

    archive: str
    squares: int
    side: int
    seed: int
    scaling: Scaling
    source: SourceSettings
    fingerprint: Literal["stat", "content"] = "stat"

    def record(self) -> dict[str, Any]:
        """What decides the squares beside the files, as JSON types."""
        return {
            "squares": self.squares,
            "side": self.side,
            "seed": self.seed,
            "scaling": self.scaling.model_dump(mode="json"),
            "source": self.source.model_dump(mode="json"),
        }


@dataclass(frozen=True)
class Drawn:
    """Squares of an archive.

    Attributes:
        store: The tile store; all its tiles are of split `train`, and its masks are 255.
        failures: Files that were set aside.
        accounts: Files: seen = used + set aside + not taken.
    """

    store: TileStore
    failures: tuple[Failure, ...]
    accounts: tuple[Account, ...]


@dataclass(frozen=True)
class _Look:
    """Open one micrograph."""

    pair: Pair
    scaling: Scaling
    fingerprint: Literal["stat", "content"]


@dataclass(frozen=True)
class _Seen:
    """A micrograph that can be used, or the reason why it cannot."""

    pair: Pair
    mark: str
    shape: tuple[int, int] = (0, 0)
    channels: int = 0
    dtype: str = ""
    limits: tuple[float, float] = (0.0, 1.0)
    reason: str = ""


@dataclass(frozen=True)
class _Steps:
    """What runs the steps of a drawing, and the epoch that their writes belong to."""

    mapper: Mapper
    fence: Fence | None


def draw_squares(
    drawing: Drawing, output: Path, key: str, mapper: Mapper | None = None, fence: Fence | None = None
) -> Drawn:
    """Draw squares from an archive into a tile store, or find that a finished one holds them.

    Args:
        drawing: What is drawn.
        output: Folder of the store.
        key: The setting that names the archive, for errors: `pretrain.archive`.
        mapper: Runs the steps; None in this process.
        fence: The epoch of the job; None where no worker can outlive it.

    Raises:
        FencedError: Another job has begun to write here.
        InputError: Nothing in the archive can be used.
        SettingsError: The store in the output was drawn from other files or with other settings.
        StoreError: The store is damaged, or cannot be written.
    """
    listing = survey_inputs(drawing.archive)
    not_taken = counted(listing.not_taken)
    marks = {name: _mark(path, drawing.fingerprint) for name, path in listing.entries}
    made_from = {"drawing": drawing.record(), "files": marks}
    if (output / "tiles.parquet").exists():
        store = TileStore.open(output)
        failures = tuple(Failure(*row) for row in store.made_from.get("set_aside", ()))
        _require_same(store, made_from, key)
    else:
        # No pixel size counts here, so that none can be refused.
        source = drawing.source.model_copy(update={"pixel_sizes": None, "pixel_size_um": None})
        pairs = (Pair(name, path, "", name, TRAINED_ON, source) for name, path in listing.entries)
        looks = [_Look(pair, drawing.scaling, drawing.fingerprint) for pair in pairs]
        steps = _Steps(mapper or in_process(lambda *_: None), fence)
        store, failures = _drawn(steps, looks, drawing, output, made_from)
    used = set(marks) - {failure.path for failure in failures}
    return Drawn(store, failures, (file_account(marks, used, failures, not_taken),))


def shares(areas: Sequence[int], squares: int, side: int) -> list[int]:
    """How many squares each micrograph gives: by area, at least one, and no more than cover it four times.

    Args:
        areas: Of the micrographs in px.
        squares: How many are wanted together.
        side: Of a square.

    Example:
        >>> shares([100, 10_000, 1], squares=8, side=50)
        [1, 8, 1]
    """
    total = sum(areas)
    most = [max(1, _MOST_OVERLAP * area // side**2) for area in areas]
    return [max(1, min(limit, round(squares * area / total))) for area, limit in zip(areas, most, strict=True)]


def _require_same(store: TileStore, made_from: dict[str, Any], key: str) -> None:
    before = store.made_from
    older, now = before.get("files", {}), made_from["files"]
    differing = sorted(name for name in older.keys() | now.keys() if older.get(name) != now.get(name))
    if before.get("drawing") != made_from["drawing"]:
        differing = ["other settings of the squares (seed, size, scaling, source)"]
    if differing:
        raise SettingsError(
            f"{key}: {store.folder} holds squares of another archive ({differing[0]}"
            + (f" and {len(differing) - 1} more" if len(differing) > 1 else "")
            + "), and fits are never mixed; give another output, or --overwrite to start afresh"
        )


def _drawn(
    steps: _Steps, looks: Sequence[_Look], drawing: Drawing, output: Path, made_from: dict[str, Any]
) -> tuple[TileStore, tuple[Failure, ...]]:
    seen = steps.mapper(_look, looks, "micrographs opened")
    failures = [Failure(each.pair.name, "read", each.reason) for each in seen if each.reason]
    good = [each for each in seen if not each.reason]
    channels = max((each.channels for each in good), default=1)
    odd = [each for each in good if each.channels not in {1, channels}]
    failures += [
        Failure(
            each.pair.name,
            "read",
            f"has {each.channels} channels, where others have {channels}; choose one with source.channel",
        )
        for each in odd
    ]
    good = [each for each in good if each not in odd]
    while good:
        broken = _written(steps, good, drawing, output, {**made_from, "set_aside": _plain(failures)})
        if not broken:
            return TileStore.open(output), tuple(failures)
        failures += [Failure(name, "read", reason) for name, reason in broken.items()]
        good = [each for each in good if each.pair.name not in broken]
    listed = "; ".join(f"{failure.path}: {failure.reason}" for failure in failures[:3])
    raise InputError(drawing.archive, f"no micrograph in it can be used ({listed})", "see the reasons above")


def _plain(failures: Sequence[Failure]) -> list[list[str]]:
    return [[failure.path, failure.stage, failure.reason] for failure in failures]


def _written(
    steps: _Steps, good: Sequence[_Seen], drawing: Drawing, output: Path, made_from: dict[str, Any]
) -> dict[str, str]:
    """Write the store; returns the micrographs that could not be read, with the reason of each."""
    rows = _rows(good, drawing)
    spec = TileSpec(
        tiles=len(rows),
        side=drawing.side,
        overlap=0,
        channels=max(each.channels for each in good),
        dtype=str(np.result_type(*{each.dtype for each in good})),
        classes=(),
        scaling=drawing.scaling,
    )
    store = TileStore.create(output, spec, made_from)
    sources = {each.pair.name: (each.pair, (each.mark, "")) for each in good}
    tasks = [shard_task(store, shard, rows, sources, steps.fence) for shard in range(spec.shards)]
    failed = [found for found in steps.mapper(write_shard, tasks, "squares read") if found.reason]
    stop_if_over(failed, output)
    for found in failed:
        if not found.pair:
            raise StoreError(f"{output}: {found.reason}; free some space and run the same command again")
    if not failed:
        write_table(output, [row.record() for row in rows])
    return {found.pair: found.reason for found in failed}


def _rows(good: Sequence[_Seen], drawing: Drawing) -> list[TileRow]:
    """Where the squares lie: a stream of random numbers for each micrograph, by its name alone."""
    counts = shares([math.prod(each.shape) for each in good], drawing.squares, drawing.side)
    rows: list[TileRow] = []
    for each, count in zip(good, counts, strict=True):
        name = each.pair.name.encode("utf-8", "surrogateescape")
        generator = np.random.default_rng(np.random.SeedSequence([drawing.seed, *name]))
        free = [max(0, length - drawing.side) + 1 for length in each.shape]
        area = math.prod(min(length, drawing.side) for length in each.shape)
        for y0, x0 in generator.integers(0, free, (count, 2)).tolist():
            rows.append(TileRow(len(rows), each.pair.name, each.pair.name, TRAINED_ON, y0, x0, *each.limits, (), area))
    return rows


def _look(task: _Look) -> _Seen:
    """Open a micrograph; one that cannot be used is returned with the reason."""
    pair, mark = task.pair, _mark(task.pair.image, task.fingerprint)
    try:
        return _opened(task, mark)
    except MicrosegError as error:
        reason = str(error).removeprefix(f"{pair.image}: ")
    except Exception as error:  # noqa: BLE001 - whatever a library raises on one file must not cost the others
        reason = f"{type(error).__name__}: {error}"
    return _Seen(pair, mark, reason=reason)


def _opened(task: _Look, mark: str) -> _Seen:
    pair = task.pair
    with open_prepared(pair.image, task.scaling, pair.source) as micrograph:
        info, frame = micrograph.info, micrograph.info.specimen
        if not frame.area:
            raise InputError(pair.image, "has no row above its info bar", "give source.info_bar")
        # Finds a file that is damaged as a whole now, before squares are laid out.
        micrograph.read(Box(frame.y1 - 1, frame.x1 - 1, frame.y1, frame.x1))
        limits = intensity_limits(micrograph, task.scaling)
        if task.scaling.kind == "dtype" and np.dtype(info.dtype).kind == "f":
            reason = float_objection(*intensity_range(micrograph))
            if reason:
                raise InputError(
                    pair.image, reason, "set scaling to {kind: percentile, low: 1, high: 99}, as for `tile`"
                )
        return _Seen(pair, mark, frame.shape, info.channels, info.dtype, limits)


def _mark(path: str, kind: Literal["stat", "content"]) -> str:
    try:
        return fingerprint(path, kind)
    except InputError:
        return ""
