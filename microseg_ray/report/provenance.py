"""Who made what of a run, with what and when: from what the run, its log, its checkpoint and its labels record."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import CheckpointError, ObjectStoreError
from microseg_ray.files import place
from microseg_ray.models.card import read_card
from microseg_ray.names import text
from microseg_ray.runs.folder import LOG_FILES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from microseg_ray.files import Place
    from microseg_ray.runs.folder import Run

__all__ = ["Step", "provenance_of"]


@dataclass(frozen=True)
class Step:
    """One thing that was made.

    Attributes:
        what: The thing.
        maker: Who or which machine made it; "" where nothing records it.
        means: With what.
        when: Time in UTC; "" where nothing records it.
    """

    what: str
    maker: str
    means: str
    when: str


def provenance_of(run: Run) -> tuple[Step, ...]:
    """The steps from the archive to the masks, and what people painted since."""
    document = run.document
    steps = [Step(f"Micrographs: {text(str(document['archive']))}", "", "", "")]
    named = document.get("checkpoint", "")
    members = document.get("members") or []
    for number, folder in enumerate(named if isinstance(named, list) else [named]):
        known = members[number] if number < len(members) else {"model_digest": run.identity.model_digest}
        digest = str(known["model_digest"])
        steps.append(_model(str(folder), digest))
    steps.append(_masks(run))
    steps += _labels(run.folder / "labels")
    return tuple(steps)


def _model(folder: str, digest: str) -> Step:
    """A checkpoint as its card describes it; a run outlives its checkpoint."""
    what = f"Model: {text(folder)}"
    try:
        card = read_card(folder)
    except (CheckpointError, ObjectStoreError):
        return Step(what, "", f"its folder is gone or cannot be read; digest sha256:{digest[:16]}", "")
    settings = card.training.get("settings", {})
    said = [card.architecture, f"digest sha256:{digest[:16]}"]
    said += [f"written by microseg_ray {card.versions.get('microseg_ray', '(version not recorded)')}"]
    said += [f"{key} {text(str(settings[key]))}" for key in ("tiles", "epochs", "seed") if key in settings]
    if "tile_store" in card.training:
        said.append(f"digest of the tiles {str(card.training['tile_store'])[:16]}")
    return Step(what, "", "; ".join(said), _time(place(folder) / "model.json"))


def _masks(run: Run) -> Step:
    """Sessions of `segment`, of the log; else the time of run.json."""
    sessions = list(_sessions(run.folder))
    hosts = ", ".join(dict.fromkeys(text(str(each["host"])) for each in sessions if "host" in each))
    versions: Mapping[str, Any] = run.document.get("versions", {})
    means = [f"microseg_ray {versions.get('microseg_ray', '(version not recorded)')}"]
    means += [str(run.document[key]) for key in ("runtime",) if key in run.document]
    if "derived" in run.identity.pixels or "postprocess" in run.identity.pixels:
        means.append("made from another run")
    later = [each.get("microseg_ray", "?") for each in run.document.get("continued_with", ())]
    means += [f"continued with microseg_ray {', '.join(map(str, later))}"] if later else []
    times = [str(each["time"])[:19].replace("T", " ") for each in sessions if "time" in each]
    when = f"{times[0]} to {times[-1]} UTC" if times else _time(run.folder / "run.json")
    return Step("Masks and tables", f"machine {hosts}" if hosts else "", "; ".join(means), when)


def _sessions(folder: Place) -> Iterator[dict[str, Any]]:
    """The first and last lines of sessions, the older log first."""
    for name in reversed(LOG_FILES):
        path = folder / name
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                # Most lines are of shards, and need not be parsed.
                if any(f'"{event}"' in line for event in ("begin", "end", "interrupted")):
                    try:
                        yield json.loads(line)
                    except (ValueError, RecursionError):
                        # The last line of a process that was killed.
                        continue


def _labels(folder: Place) -> list[Step]:
    """What people painted: strokes and micrographs by person."""
    people: dict[str, list[Any]] = {}
    # Labels are painted in a folder of this machine.
    records = folder / "records"
    for path in sorted(records.rglob("*.jsonl")) if isinstance(records, Path) and records.is_dir() else ():
        with path.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except (ValueError, RecursionError):
                    continue
                people.setdefault(str(entry.get("who", "")), []).append((str(entry.get("when", "")), path.name))
    steps = []
    for who, strokes in sorted(people.items()):
        times = sorted(time[:19].replace("T", " ") for time, _ in strokes if time)
        means = f"{len(strokes)} strokes in {len({name for _, name in strokes})} micrographs"
        steps.append(Step("Labels", who or "nobody's name", means, f"{times[0]} to {times[-1]}" if times else ""))
    return steps


def _time(path: Place) -> str:
    """When a file was written."""
    try:
        return f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except OSError:
        return ""
